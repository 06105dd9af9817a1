//! Sizes and durations as people write them: `32MiB`, `4KB`, `512`; `30s`, `250ms`, `10m`.
//!
//! Not here: which setting takes which. Invariant: what `show_*` prints, `parse_*` reads back to the same number.

use std::time::Duration;

const SIZES: &[(&str, u64)] = &[
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("KB", 1_000),
    ("kB", 1_000),
    ("B", 1),
];

const DURATIONS_MS: &[(&str, u64)] = &[("ms", 1), ("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000)];

/// Reads a size in bytes: a whole number, with or without a unit (`KiB` is 1024, `KB` is 1000).
pub fn parse_size(text: &str) -> Result<u64, String> {
    let expected = || format!("expected a size such as 32MiB, 4KB or 512 (bytes), not `{text}`");
    let (number, unit) = split_unit(text);
    let factor = match unit {
        "" => 1,
        unit => SIZES.iter().find(|(name, _)| *name == unit).ok_or_else(expected)?.1,
    };
    let number: u64 = number.parse().map_err(|_| expected())?;
    number.checked_mul(factor).ok_or_else(|| format!("`{text}` is more bytes than fit in 64 bits"))
}

/// Reads a duration: a whole number with its unit, `ms`, `s`, `m`, `h` or `d`. A bare number is refused, since
/// nobody could tell which unit was meant.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let expected = || format!("expected a duration such as 30s, 250ms or 10m, not `{text}`");
    let (number, unit) = split_unit(text);
    let factor = DURATIONS_MS.iter().find(|(name, _)| *name == unit).ok_or_else(expected)?.1;
    let number: u64 = number.parse().map_err(|_| expected())?;
    let ms = number.checked_mul(factor).ok_or_else(|| format!("`{text}` is too long a time"))?;
    Ok(Duration::from_millis(ms))
}

fn split_unit(text: &str) -> (&str, &str) {
    let text = text.trim();
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    (&text[..end], text[end..].trim_start())
}

/// Writes a size with the largest binary unit that divides it.
pub fn show_size(bytes: u64) -> String {
    for (unit, factor) in &SIZES[..3] {
        if bytes != 0 && bytes.is_multiple_of(*factor) {
            return format!("{}{unit}", bytes / factor);
        }
    }
    bytes.to_string()
}

/// Writes a duration with the largest unit up to minutes that divides it.
pub fn show_duration(duration: Duration) -> String {
    let ms = duration.as_millis();
    match ms {
        0 => "0s".to_owned(),
        ms if ms % 60_000 == 0 => format!("{}m", ms / 60_000),
        ms if ms % 1_000 == 0 => format!("{}s", ms / 1_000),
        ms => format!("{ms}ms"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_in_binary_and_decimal_units() {
        for (text, bytes) in
            [("0", 0), ("512", 512), ("4KB", 4000), ("4KiB", 4096), ("32 MiB", 32 << 20), ("1GiB", 1 << 30), ("7B", 7)]
        {
            assert_eq!(parse_size(text), Ok(bytes), "{text}");
        }
        for text in ["", "MiB", "4 kb", "-1", "1.5MiB", "4KiBs", "99999999999GiB", "0x10"] {
            assert!(parse_size(text).is_err(), "{text}");
        }
    }

    #[test]
    fn durations_need_their_unit() {
        for (text, ms) in [("250ms", 250), ("30s", 30_000), ("10m", 600_000), ("2h", 7_200_000), ("1d", 86_400_000)] {
            assert_eq!(parse_duration(text), Ok(Duration::from_millis(ms)), "{text}");
        }
        for text in ["", "30", "s", "-5s", "1.5s", "10min", "99999999999999999d"] {
            assert!(parse_duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn what_is_shown_reads_back() {
        for bytes in [0, 1, 1000, 1024, 1 << 20, (1 << 20) + 1, 3 << 30] {
            assert_eq!(parse_size(&show_size(bytes)), Ok(bytes));
        }
        for ms in [0, 1, 999, 1000, 60_000, 90_000, 600_000] {
            let duration = Duration::from_millis(ms);
            assert_eq!(parse_duration(&show_duration(duration)), Ok(duration));
        }
    }
}
