//! "Did you mean …?": the nearest of some names, or none if nothing is near.

/// The candidate with the smallest edit distance to `word`, if it is near enough to have been meant.
pub fn nearest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let word = word.to_ascii_lowercase();
    let allowed = (word.chars().count() / 3).max(1);
    candidates
        .into_iter()
        .map(|candidate| (distance(&word, &candidate.to_ascii_lowercase()), candidate))
        .filter(|(distance, candidate)| *distance <= allowed || is_part(&word, &candidate.to_ascii_lowercase()))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// `; did you mean …?`, or nothing.
pub fn hint<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> String {
    nearest(word, candidates).map_or_else(String::new, |name| format!("; did you mean `{name}`?"))
}

/// People leave out or add a unit or a prefix: `timeout` for `idle_timeout` is as near as a typing error.
fn is_part(word: &str, candidate: &str) -> bool {
    let (short, long) = if word.len() < candidate.len() { (word, candidate) } else { (candidate, word) };
    short.len() >= 4 && 2 * short.len() >= long.len() && (long.starts_with(short) || long.ends_with(short))
}

/// Edits between two words; swapping neighbours counts as one.
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut rows = vec![(0..=b.len()).collect::<Vec<usize>>()];
    for i in 1..=a.len() {
        let mut row = vec![i; b.len() + 1];
        for j in 1..=b.len() {
            let changed = usize::from(a[i - 1] != b[j - 1]);
            row[j] = (rows[i - 1][j] + 1).min(row[j - 1] + 1).min(rows[i - 1][j - 1] + changed);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                row[j] = row[j].min(rows[i - 2][j - 2] + 1);
            }
        }
        rows.push(row);
    }
    rows[a.len()][b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn typing_errors_find_their_name() {
        let names = ["listen", "engine", "workers", "io_threads", "threshold_bytes"];
        assert_eq!(nearest("listn", names), Some("listen"));
        assert_eq!(nearest("wrokers", names), Some("workers"));
        assert_eq!(nearest("Engine", names), Some("engine"));
        assert_eq!(nearest("threshold", names), Some("threshold_bytes"));
        assert_eq!(nearest("colour", names), None);
        assert_eq!(nearest("", names), None);
    }

    #[test]
    fn the_nearest_wins_over_the_first() {
        assert_eq!(nearest("dirr", ["dur", "dir"]), Some("dir"));
    }
}
