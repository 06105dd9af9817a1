//! The manual page, from the table of commands.

use super::commands::{Command, Opt};
use super::completions::all_commands;

const FILES: &[(&str, &str)] = &[
    ("/etc/larder/larder.toml", "The configuration, read if it exists and no other file is named."),
    ("tokens.jsonl", "In the data folder, unless auth.tokens_file says otherwise: the tokens, as hashes."),
];

const ENVIRONMENT: &[(&str, &str)] = &[
    ("LARDER_CONFIG", "The configuration file of serve, check and token."),
    (
        "LARDER_LISTEN, LARDER_DATA_DIR, LARDER_CACHE_SIZE, LARDER_LOG",
        "Settings, stronger than the file, weaker than flags.",
    ),
    ("LARDER_<SECTION>_<KEY>", "The same for every setting, such as LARDER_STORE_DURABILITY."),
    ("LARDER_URL", "Where the client commands find larder."),
    ("LARDER_TOKEN, LARDER_TOKEN_FILE", "The token of the client commands, or the file that holds it."),
];

const EXITS: &[(&str, &str)] = &[
    ("0", "Done."),
    ("1", "It did not work; the message on stderr says why."),
    ("2", "The command line makes no sense."),
    ("3", "There is no such value, or, with ls, no such namespace or collection."),
    ("4", "The value is not, or no longer, at the version that was asked for."),
    ("5", "No larder answers there, or its answer was cut."),
    ("75", "The server ended to be started anew."),
    ("78", "The configuration makes no sense."),
];

const LINE: usize = 79;

/// The page in roff.
pub fn render() -> String {
    let mut text = format!(".TH LARDER 1 \"\" \"larder {}\" \"User Commands\"\n", env!("CARGO_PKG_VERSION"));
    let all = all_commands();
    let Some((_, program)) = all.first() else { return text };
    text.push_str(&format!(".SH NAME\nlarder \\- {}\n", escape(program.summary)));
    text.push_str(".SH SYNOPSIS\n");
    for (path, command) in all.iter().filter(|(_, command)| command.subcommands.is_empty()) {
        text.push_str(&format!(".B {}\n{}.br\n", escape(&path.join(" ")), synopsis(command)));
    }
    text.push_str(&format!(".SH DESCRIPTION\n{}\n", escape(program.about)));
    text.push_str(".SH COMMANDS\n");
    for (path, command) in &all {
        text.push_str(&format!(".SS {}\n{}.\n", escape(&path.join(" ")), escape(command.summary)));
        if !command.about.is_empty() {
            text.push_str(&format!(".PP\n{}\n", escape(command.about)));
        }
        for option in command.options {
            text.push_str(&format!(".TP\n{}\n{}.\n", spelling(option), escape(option.help)));
        }
    }
    for (title, rows) in [("FILES", FILES), ("ENVIRONMENT", ENVIRONMENT), ("EXIT STATUS", EXITS)] {
        text.push_str(&format!(".SH {title}\n"));
        for (name, help) in rows {
            text.push_str(&format!(".TP\n.B {}\n{}\n", escape(name), escape(help)));
        }
    }
    text
}

fn synopsis(command: &Command) -> String {
    let options = if command.options.is_empty() { "" } else { "[OPTIONS] " };
    let line = format!("{options}{}", command.operands);
    if line.is_empty() { String::new() } else { format!("{}\n", escape(line.trim_end())) }
}

fn spelling(option: &Opt) -> String {
    let short = option.short.map_or(String::new(), |letter| format!("\\fB\\-{letter}\\fR, "));
    let value = option.value.map_or(String::new(), |value| format!(" \\fI{}\\fR", escape(value)));
    format!("{short}\\fB\\-\\-{}\\fR{value}", escape(option.long))
}

/// Text that roff takes as text, in lines of a width that its checkers like.
fn escape(text: &str) -> String {
    let mut lines = vec![String::new()];
    for word in text.split(' ') {
        let word = word.replace('\\', "\\e").replace('-', "\\-");
        let line = lines.last_mut().filter(|line| line.is_empty() || line.len() + 1 + word.len() < LINE);
        match line {
            Some(line) if line.is_empty() => line.push_str(&guard(&word)),
            Some(line) => line.extend([" ", &word]),
            None => lines.push(guard(&word)),
        }
    }
    lines.join("\n")
}

/// A line that begins with a dot or an apostrophe would be a request.
fn guard(word: &str) -> String {
    if word.starts_with(['.', '\'']) { format!("\\&{word}") } else { word.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_and_option_is_on_the_page() {
        let page = render();
        for (path, command) in all_commands() {
            assert!(page.contains(&format!(".SS {}\n", escape(&path.join(" ")))), "{path:?}");
            for option in command.options {
                assert!(page.contains(&format!("\\-\\-{}", escape(option.long))), "{path:?} {}", option.long);
            }
        }
    }

    #[test]
    fn text_stays_text() {
        assert_eq!(escape(&"'tis ".repeat(40)).matches("\n\\&'tis").count(), 2);
        assert_eq!(escape(".a\\b-c"), "\\&.a\\eb\\-c");
    }
}
