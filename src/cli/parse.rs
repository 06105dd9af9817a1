//! From the words of the command line to a command with its options and operands, by the table of commands.

use std::ffi::OsString;

use lexopt::Arg;

use super::commands::{Command, LARDER, Opt};
use super::exit::{Failure, USAGE};
use crate::config::suggest;

/// What was asked for.
#[derive(Debug)]
pub struct Invocation {
    /// The commands from the program to the innermost, `larder` first.
    pub path: Vec<&'static Command>,
    /// `--help` was among the words: nothing else counts.
    pub help: bool,
    /// Options in order: the long name and the value.
    options: Vec<(&'static str, Option<OsString>)>,
    /// Operands in order.
    pub operands: Vec<OsString>,
}

impl Invocation {
    /// The innermost command.
    pub fn command(&self) -> &'static Command {
        self.path.last().copied().unwrap_or(&LARDER)
    }

    /// Whether a switch was given.
    pub fn has(&self, long: &str) -> bool {
        self.options.iter().any(|(name, _)| *name == long)
    }

    /// The values of an option, in order, as text.
    pub fn texts(&self, long: &str) -> Result<Vec<&str>, Failure> {
        let values = self.options.iter().filter(|(name, _)| *name == long).filter_map(|(_, value)| value.as_ref());
        values
            .map(|value| value.to_str().ok_or_else(|| usage(self, format!("the value of --{long} is not UTF-8"))))
            .collect()
    }

    /// The value of an option, as text.
    pub fn text(&self, long: &str) -> Result<Option<&str>, Failure> {
        Ok(self.texts(long)?.into_iter().next())
    }

    /// An operand, as text.
    pub fn operand(&self, index: usize) -> Result<Option<&str>, Failure> {
        let operand = self.operands.get(index);
        operand.map(|text| text.to_str().ok_or_else(|| usage(self, "an operand is not UTF-8".to_owned()))).transpose()
    }

    /// The names of the commands, from `larder` on.
    pub fn name(&self) -> String {
        let names: Vec<&str> = self.path.iter().map(|command| command.name).collect();
        names.join(" ")
    }
}

/// A usage error, with the way to help.
pub fn usage(invocation: &Invocation, message: String) -> Failure {
    Failure::new(USAGE, format!("{message}\nSee `{} --help`.", invocation.name()))
}

/// Parses the words after the program's name.
pub fn parse(words: impl IntoIterator<Item = OsString>) -> Result<Invocation, Failure> {
    let mut parser = lexopt::Parser::from_args(words);
    let mut invocation = Invocation { path: vec![&LARDER], help: false, options: Vec::new(), operands: Vec::new() };
    loop {
        if let Some(number) = negative_number(&invocation, &mut parser) {
            invocation.operands.push(number);
            continue;
        }
        let argument = match parser.next() {
            Ok(Some(argument)) => argument,
            Ok(None) => break,
            Err(error) => return Err(usage(&invocation, error.to_string())),
        };
        match argument {
            Arg::Short('h') | Arg::Long("help") => invocation.help = true,
            Arg::Short(letter) => {
                let found = invocation.command().options.iter().find(|option| option.short == Some(letter));
                let option = found.ok_or_else(|| usage(&invocation, format!("there is no option -{letter}")))?;
                take(&mut invocation, &mut parser, option)?;
            }
            Arg::Long(long) => {
                let option = find_option(&invocation, long)?;
                take(&mut invocation, &mut parser, option)?;
            }
            // `larder help token add` is `larder token add --help`.
            Arg::Value(word) if !invocation.help && word == "help" && !invocation.command().subcommands.is_empty() => {
                invocation.help = true;
            }
            Arg::Value(word) if !invocation.command().subcommands.is_empty() => {
                let next = find_command(&invocation, &word)?;
                invocation.path.push(next);
            }
            Arg::Value(word) => invocation.operands.push(word),
        }
    }
    if !invocation.help {
        count_operands(&invocation)?;
    }
    Ok(invocation)
}

/// `-3` is an operand of a command that takes numbers, not an option.
fn negative_number(invocation: &Invocation, parser: &mut lexopt::Parser) -> Option<OsString> {
    let takes_numbers = invocation.command().operands.contains("BY");
    let is_number = |word: &std::ffi::OsStr| {
        let digits = word.to_str().and_then(|word| word.strip_prefix('-'));
        digits.is_some_and(|digits| !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit()))
    };
    parser.try_raw_args().filter(|_| takes_numbers)?.next_if(is_number)
}

fn find_option(invocation: &Invocation, long: &str) -> Result<&'static Opt, Failure> {
    let options = invocation.command().options;
    options.iter().find(|option| option.long == long).ok_or_else(|| {
        let names = options.iter().map(|option| option.long).chain(["help"]);
        let near = suggest::nearest(long, names);
        let hint = near.map_or(String::new(), |near| format!("; did you mean `--{near}`?"));
        usage(invocation, format!("there is no option --{long}{hint}"))
    })
}

fn find_command(invocation: &Invocation, word: &OsString) -> Result<&'static Command, Failure> {
    let commands = invocation.command().subcommands;
    let word = word.to_string_lossy();
    commands.iter().find(|command| command.name == word).ok_or_else(|| {
        let hint = suggest::hint(&word, commands.iter().map(|command| command.name));
        usage(invocation, format!("there is no command `{word}`{hint}"))
    })
}

fn take(invocation: &mut Invocation, parser: &mut lexopt::Parser, option: &'static Opt) -> Result<(), Failure> {
    if !option.repeats && invocation.has(option.long) {
        return Err(usage(invocation, format!("--{} stands twice", option.long)));
    }
    let value = match option.value {
        None => None,
        Some(_) => Some(parser.value().map_err(|error| usage(invocation, error.to_string()))?),
    };
    let fits = |value: &OsString| option.choices.iter().any(|choice| value == choice);
    if let Some(value) = value.as_ref().filter(|value| !option.choices.is_empty() && !fits(value)) {
        let (value, long) = (value.to_string_lossy(), option.long);
        let hint = suggest::hint(&value, option.choices.iter().copied());
        let message = format!("--{long} is one of {}, not `{value}`{hint}", option.choices.join(", "));
        return Err(usage(invocation, message));
    }
    invocation.options.push((option.long, value));
    Ok(())
}

fn count_operands(invocation: &Invocation) -> Result<(), Failure> {
    let (least, most) = invocation.command().operands_count;
    let count = invocation.operands.len();
    if count > most {
        let extra = invocation.operands[most].to_string_lossy();
        return Err(usage(invocation, format!("`{extra}` is one operand too many")));
    }
    if count < least {
        let wanted = invocation.command().operands;
        return Err(usage(invocation, format!("`{}` needs {wanted}", invocation.name())));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Result<Invocation, Failure> {
        parse(line.split_whitespace().map(OsString::from))
    }

    #[test]
    fn options_come_with_their_values_in_every_spelling() {
        let parsed = words("serve -c a.toml --listen 127.0.0.1:0 --listen=[::1]:0 --workers 3").unwrap();
        assert_eq!(parsed.name(), "larder serve");
        assert_eq!(parsed.text("config").unwrap(), Some("a.toml"));
        assert_eq!(parsed.texts("listen").unwrap(), ["127.0.0.1:0", "[::1]:0"]);
        assert!(!parsed.has("data"));
    }

    #[test]
    fn nonsense_is_a_usage_error_with_the_nearest_word() {
        for (line, part) in [
            ("srve", "did you mean `serve`?"),
            ("serve --lisen x", "did you mean `--listen`?"),
            ("serve --workers", "--workers"),
            ("serve --workers 1 --workers 2", "stands twice"),
            ("serve extra", "one operand too many"),
            ("serve --engine epol", "did you mean `epoll`?"),
            ("serve -x", "-x"),
            ("version --help=1", "--help"),
        ] {
            let failure = words(line).unwrap_err();
            assert_eq!(failure.code, USAGE);
            assert!(failure.message.contains(part), "{line}: {}", failure.message);
        }
    }

    #[test]
    fn a_negative_number_is_an_operand_where_numbers_are_taken() {
        let parsed = words("incr a/b/c -3 --json").unwrap();
        assert_eq!(parsed.operand(1).unwrap(), Some("-3"));
        assert!(parsed.has("json"));
        assert!(words("get -3").is_err());
        assert_eq!(words("put a/b/c -- -3").unwrap().operand(1).unwrap(), Some("-3"));
        assert_eq!(words("put a/b/c -").unwrap().operand(1).unwrap(), Some("-"));
    }

    #[test]
    fn help_wins_wherever_it_stands() {
        assert!(words("serve --help").unwrap().help);
        assert!(words("--help").unwrap().help);
        assert_eq!(words("-h serve").unwrap().name(), "larder serve");
        for (line, name) in [
            ("help", "larder"),
            ("help serve", "larder serve"),
            ("help token add", "larder token add"),
            ("token help", "larder token"),
            ("token help add", "larder token add"),
            ("help help", "larder help"),
            ("help --help", "larder"),
        ] {
            let parsed = words(line).unwrap();
            assert_eq!((parsed.help, parsed.name().as_str()), (true, name), "{line}");
        }
        assert!(words("help srve").unwrap_err().message.contains("did you mean `serve`?"));
        assert!(!words("put a/b/c help").unwrap().help);
    }
}
