//! Rows of a CSV file (RFC 4180) with a line of names, from which templates take their columns.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::random::Random;

/// A table of texts; every row has as many as there are names.
#[derive(Debug)]
pub struct Columns {
    names: Vec<String>,
    rows: Vec<Vec<String>>,
    at_random: bool,
    next: AtomicUsize,
}

impl Columns {
    /// Reads a table. The error says the line and what is wrong with it.
    pub fn parse(text: &str, at_random: bool) -> Result<Columns, String> {
        let mut records = records(text)?.into_iter();
        let names =
            records.next().map(|(_, names)| names).ok_or("line 1: there is no line with the names of the columns")?;
        let mut rows = Vec::new();
        for (line, row) in records {
            if row.len() != names.len() {
                return Err(format!("line {line}: {} columns where the first line names {}", row.len(), names.len()));
            }
            rows.push(row);
        }
        if rows.is_empty() {
            return Err("line 2: there is no row".to_owned());
        }
        Ok(Columns { names, rows, at_random, next: AtomicUsize::new(0) })
    }

    /// The number of a column.
    pub fn index(&self, name: &str) -> Option<usize> {
        self.names.iter().position(|candidate| candidate == name)
    }

    /// The names of the columns.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.names.iter().map(String::as_str)
    }

    /// The row for the next request: in order and around, or by chance.
    pub fn row(&self, random: &mut Random) -> &[String] {
        let index = match self.at_random {
            true => random.below(self.rows.len() as u64) as usize,
            false => self.next.fetch_add(1, Ordering::Relaxed) % self.rows.len(),
        };
        &self.rows[index]
    }
}

/// The records of a text, each with the line it begins in. Empty lines are none.
fn records(text: &str) -> Result<Vec<(usize, Vec<String>)>, String> {
    let mut records = Vec::new();
    let (mut line, mut began) = (1, 1);
    let (mut record, mut field) = (Vec::new(), String::new());
    let mut quoted = false;
    let mut characters = text.trim_start_matches('\u{feff}').chars().peekable();
    while let Some(character) = characters.next() {
        if character == '\n' {
            line += 1;
        }
        match character {
            '"' if quoted && characters.next_if_eq(&'"').is_some() => field.push('"'),
            '"' if quoted => quoted = false,
            _ if quoted => field.push(character),
            '"' if field.is_empty() => quoted = true,
            ',' => record.push(std::mem::take(&mut field)),
            '\r' if characters.peek() == Some(&'\n') => {}
            '\n' => {
                if !(record.is_empty() && field.is_empty()) {
                    record.push(std::mem::take(&mut field));
                    records.push((began, std::mem::take(&mut record)));
                }
                began = line;
            }
            _ => field.push(character),
        }
    }
    if quoted {
        return Err(format!("line {began}: a quoted text does not end"));
    }
    if !(record.is_empty() && field.is_empty()) {
        record.push(field);
        records.push((began, record));
    }
    Ok(records)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_come_in_order_and_around() {
        let columns = Columns::parse("key,note\r\na,\"x, \"\"y\"\"\nz\"\r\n\nb,\n", false).unwrap();
        let mut random = Random::new(1);
        assert_eq!(columns.index("note"), Some(1));
        assert_eq!(columns.row(&mut random), ["a", "x, \"y\"\nz"]);
        assert_eq!(columns.row(&mut random), ["b", ""]);
        assert_eq!(columns.row(&mut random)[0], "a");
    }

    #[test]
    fn what_is_wrong_is_told_with_its_line() {
        for (text, line) in
            [("", "line 1"), ("a,b\n", "line 2"), ("a,b\n1,2\n3\n", "line 3"), ("a\n\n\"x\ny", "line 3")]
        {
            let error = Columns::parse(text, true).unwrap_err();
            assert!(error.starts_with(line), "{text:?}: {error}");
        }
    }
}
