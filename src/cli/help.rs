//! `--help`, from the table of commands.

use super::commands::{Command, Opt};

const WIDTH: usize = 100;

/// The help of a command: its path from `larder` on.
pub fn render(path: &[&Command]) -> String {
    let names: Vec<&str> = path.iter().map(|command| command.name).collect();
    let Some(command) = path.last() else { return String::new() };
    let mut text = format!("{}\n\nUsage: {}", command.summary, names.join(" "));
    if !command.options.is_empty() {
        text.push_str(" [OPTIONS]");
    }
    match (command.subcommands.is_empty(), command.operands) {
        (false, _) => text.push_str(" COMMAND"),
        (true, "") => {}
        (true, operands) => text.push_str(&format!(" {operands}")),
    }
    text.push('\n');
    if !command.about.is_empty() {
        text.push('\n');
        wrap(&mut text, 0, command.about);
    }
    if !command.subcommands.is_empty() {
        text.push_str("\nCommands:\n");
        let rows: Vec<(String, String)> =
            command.subcommands.iter().map(|command| (command.name.to_owned(), command.summary.to_owned())).collect();
        table(&mut text, &rows);
    }
    text.push_str("\nOptions:\n");
    let mut rows: Vec<(String, String)> =
        command.options.iter().map(|option| (spelling(option), option.help.to_owned())).collect();
    rows.push(("-h, --help".to_owned(), "Print this help".to_owned()));
    table(&mut text, &rows);
    text
}

/// `-c, --config FILE`.
pub fn spelling(option: &Opt) -> String {
    let short = option.short.map_or("    ".to_owned(), |letter| format!("-{letter}, "));
    let value = option.value.map_or(String::new(), |value| format!(" {value}"));
    format!("{short}--{}{value}", option.long)
}

fn table(text: &mut String, rows: &[(String, String)]) {
    let column = rows.iter().map(|(name, _)| name.len()).max().unwrap_or(0) + 4;
    for (name, help) in rows {
        let start = text.len();
        text.push_str(&format!("  {name:width$}", width = column - 2));
        wrap_from(text, start, column, help);
    }
}

fn wrap(text: &mut String, indent: usize, words: &str) {
    wrap_from(text, text.len(), indent, words);
}

/// Appends words to a line that began at `start`, folding at the width.
fn wrap_from(text: &mut String, start: usize, indent: usize, words: &str) {
    let mut line_start = start;
    let mut first = true;
    for word in words.split_whitespace() {
        if !first && text.len() - line_start + 1 + word.len() > WIDTH {
            text.push('\n');
            line_start = text.len();
            text.push_str(&" ".repeat(indent));
        } else if !first {
            text.push(' ');
        }
        text.push_str(word);
        first = false;
    }
    text.push('\n');
}
