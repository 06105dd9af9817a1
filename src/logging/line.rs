//! How one record becomes one line. Pure: what it writes depends on its arguments alone.

use std::fmt::{self, Write};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use log::Level;

/// Bytes of a message; the rest is cut. Longer ones are somebody's data, not a message.
const MESSAGE_BYTES_MAX: usize = 8 * 1024;

/// Who reads the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// systemd's journal, which keeps the time itself and takes the priority from a prefix `<N>`.
    Journal,
    /// A terminal or a file.
    Terminal,
}

impl Form {
    /// The form for our standard error: `JOURNAL_STREAM` names the journal's stream, and counts only if standard error
    /// still is that stream.
    pub fn of_stderr() -> Form {
        let named = std::env::var("JOURNAL_STREAM").unwrap_or_default();
        let is_named = rustix::fs::fstat(std::io::stderr()).is_ok_and(|stat| names(&named, stat.st_dev, stat.st_ino));
        if is_named { Form::Journal } else { Form::Terminal }
    }
}

fn names(stream: &str, device: u64, inode: u64) -> bool {
    stream.split_once(':') == Some((&device.to_string(), &inode.to_string()))
}

/// The line of a record, with its newline.
pub(super) fn format(form: Form, level: Level, target: &str, message: &fmt::Arguments<'_>, now: SystemTime) -> String {
    let mut line = String::with_capacity(128);
    // Writing to a String cannot fail.
    let _ = match form {
        Form::Journal => write!(line, "<{}>", priority(level)),
        Form::Terminal => {
            write_time(&mut line, now);
            write!(line, " {level:<5} ")
        }
    };
    line.push_str(target);
    line.push_str(": ");
    let room = line.len() + MESSAGE_BYTES_MAX;
    // The only error is the message's own cut.
    let cut = write!(Escaped { line: &mut line, room }, "{message}").is_err();
    line.push_str(if cut { "…\n" } else { "\n" });
    line
}

/// The priorities of syslog. Trace has none of its own.
fn priority(level: Level) -> u8 {
    match level {
        Level::Error => 3,
        Level::Warn => 4,
        Level::Info => 6,
        Level::Debug | Level::Trace => 7,
    }
}

/// Passes text on with control characters escaped, until there is no room left.
struct Escaped<'a> {
    line: &'a mut String,
    room: usize,
}

impl Write for Escaped<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for c in text.chars() {
            if self.line.len() >= self.room {
                return Err(fmt::Error);
            }
            // SECURITY: the line and paragraph separators and the marks that turn the writing direction are no control
            // characters by their category, but show text elsewhere than it stands.
            if c.is_control() || matches!(c, '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}') {
                write!(self.line, "{}", c.escape_default())?;
            } else {
                self.line.push(c);
            }
        }
        Ok(())
    }
}

/// UTC to the millisecond: `2026-11-21T05:19:19.123Z`. A clock before 1970 shows as 1970.
fn write_time(line: &mut String, now: SystemTime) {
    let since: Duration = now.duration_since(UNIX_EPOCH).unwrap_or_default();
    let (days, second) = (since.as_secs() / 86_400, since.as_secs() % 86_400);
    let (year, month, day) = civil(days);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    let _ =
        write!(line, "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{:03}Z", since.subsec_millis());
}

/// Year, month and day of the day number after 1970-01-01. Years are counted from March, so that the leap day is last.
fn civil(days: u64) -> (u64, u64, u64) {
    const DAYS_IN_400_YEARS: u64 = 146_097;
    const FROM_YEAR_0_MARCH: u64 = 719_468;
    let days = days + FROM_YEAR_0_MARCH;
    let (era, day) = (days / DAYS_IN_400_YEARS, days % DAYS_IN_400_YEARS);
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let (month, next_year) = if month < 10 { (month + 3, 0) } else { (month - 9, 1) };
    (era * 400 + year + next_year, month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(seconds)
    }

    #[test]
    fn the_journal_gets_a_priority_and_no_time() {
        let line = format(Form::Journal, Level::Warn, "larder", &format_args!("card is {}", "slow"), at(0));
        assert_eq!(line, "<4>larder: card is slow\n");
    }

    #[test]
    fn a_terminal_gets_time_level_and_target() {
        let now = at(1_795_238_359) + Duration::from_millis(7);
        let line = format(Form::Terminal, Level::Info, "larder::app", &format_args!("up"), now);
        assert_eq!(line, "2026-11-21T05:19:19.007Z INFO  larder::app: up\n");
    }

    #[test]
    fn a_message_cannot_begin_a_line_or_move_the_cursor() {
        let key = "a\n<0>larder: forged\r\x1b[2K\u{9b}\u{2028}\u{202e}ü\t";
        let line = format(Form::Journal, Level::Info, "larder", &format_args!("{key}"), at(0));
        assert_eq!(line, "<6>larder: a\\n<0>larder: forged\\r\\u{1b}[2K\\u{9b}\\u{2028}\\u{202e}ü\\t\n");
    }

    #[test]
    fn a_long_message_is_cut_and_says_so() {
        let line = format(Form::Journal, Level::Info, "larder", &format_args!("{}", "é".repeat(100_000)), at(0));
        assert!(line.len() < MESSAGE_BYTES_MAX + 100 && line.ends_with("é…\n"), "{}", line.len());
    }

    #[test]
    fn dates_are_those_of_the_calendar() {
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_782_399, "2000-02-28T23:59:59.000Z"),
            (951_782_400, "2000-02-29T00:00:00.000Z"),
            (1_709_251_200, "2024-03-01T00:00:00.000Z"),
            (4_107_542_400, "2100-03-01T00:00:00.000Z"),
            (1_735_689_599, "2024-12-31T23:59:59.000Z"),
        ] {
            let mut line = String::new();
            write_time(&mut line, at(seconds));
            assert_eq!(line, text);
        }
    }

    #[test]
    fn the_days_of_four_centuries_are_counted_without_gap() {
        let mut last = civil(0);
        for days in 1..146_097 {
            let (year, month, day) = civil(days);
            let (last_year, last_month, last_day) = last;
            let follows = (year, month, day) == (last_year, last_month, last_day + 1)
                || (year, month, day) == (last_year, last_month + 1, 1)
                || (year, month, day, last_month, last_day) == (last_year + 1, 1, 1, 12, 31);
            assert!(follows, "{last:?} is followed by {:?}", (year, month, day));
            last = (year, month, day);
        }
        assert_eq!(civil(146_097), (2370, 1, 1));
    }

    #[test]
    fn the_journal_is_believed_only_about_the_stream_it_names() {
        assert!(names("9:1234", 9, 1234));
        assert!(!names("9:1235", 9, 1234) && !names("", 9, 1234) && !names("9", 9, 1234));
    }
}
