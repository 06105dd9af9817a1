//! What others wrote, made fit to be shown: a name or a message must not be able to write on the terminal it is shown on.
//!
//! SECURITY: ESC and the C1 controls steer a terminal, CR and backspace write over what stands there, and bidi controls
//! show text in another order than it is in. Not here: values, whose bytes go out as they are (`get`, `export`).

use std::borrow::Cow;
use std::fmt::Write;

/// Text of others on one line: what would not show as itself is written as an escape, `\u{1b}`.
pub fn line(text: &str) -> Cow<'_, str> {
    escaped(text, steers, |c, out| {
        let _ = write!(out, "{}", c.escape_unicode());
    })
}

/// The same for text of several lines, and columns.
pub fn text(text: &str) -> Cow<'_, str> {
    let heeded = |c| steers(c) && c != '\n' && c != '\t';
    escaped(text, heeded, |c, out| {
        let _ = write!(out, "{}", c.escape_unicode());
    })
}

/// JSON that means the same: characters of this kind stand in its strings only, where they can be escaped.
pub fn json(text: &str) -> Cow<'_, str> {
    let heeded = |c| steers(c) && c > '\x1f';
    escaped(text, heeded, |c, out| {
        for unit in c.encode_utf16(&mut [0; 2]) {
            let _ = write!(out, "\\u{unit:04x}");
        }
    })
}

/// A name as one line: if anything in it would not show as itself, as a JSON string.
pub fn name(name: &str) -> Cow<'_, str> {
    if name.chars().any(steers) || name.starts_with('"') {
        let quoted = serde_json::Value::from(name).to_string();
        return Cow::Owned(json(&quoted).into_owned());
    }
    Cow::Borrowed(name)
}

fn escaped(text: &str, heeded: impl Fn(char) -> bool, escape: impl Fn(char, &mut String)) -> Cow<'_, str> {
    if !text.chars().any(&heeded) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if heeded(c) { escape(c, &mut out) } else { out.push(c) }
    }
    Cow::Owned(out)
}

/// Controls, line ends and whatever else has an effect and no shape. Joiners stay: scripts and emoji are made with them.
fn steers(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}' | '\u{200e}' | '\u{200f}' | '\u{feff}')
        || matches!(c, '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{fff9}'..='\u{fffb}')
        || matches!(c, '\u{e0000}'..='\u{e007f}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_steers_is_left_and_all_else_is_as_it_was() {
        let bad = "\u{1b}[2J \u{9b}31m \r\u{8}\u{7}\u{7f}\0 \u{202e}\u{2066}\u{200f}\u{61c} \u{2028}\u{feff}\u{e0041}";
        for clean in [line(bad), text(bad), name(bad), Cow::Owned(json(&format!("{bad:?}")).into_owned())] {
            assert!(!clean.chars().any(steers), "{clean:?}");
        }
        assert_eq!(line("a\u{1b}[0m\nb"), "a\\u{1b}[0m\\u{a}b");
        assert_eq!(text("a\tb\n\u{9b}c\r"), "a\tb\n\\u{9b}c\\u{d}");
        for good in ["plain", "Zürich 東京 שלום", "👩\u{200d}🔧 ा\u{200c}", "a \\ b"] {
            assert_eq!((line(good), name(good), json(good)), (good.into(), good.into(), good.into()));
        }
    }

    #[test]
    fn json_means_the_same_and_a_name_is_one_line() {
        for value in ["\u{9b}\u{7f}", "\u{202e}x\u{e0041}", "\u{2028}\n\u{1b}", "a"] {
            let json = json(&serde_json::Value::from(value).to_string()).into_owned();
            assert_eq!(serde_json::from_str::<String>(&json).unwrap(), value);
        }
        assert_eq!(name("a\nb\x1b\u{9b}"), "\"a\\nb\\u001b\\u009b\"");
        assert_eq!(name("\"a\""), "\"\\\"a\\\"\"");
        assert_eq!(name("a b"), "a b");
    }
}
