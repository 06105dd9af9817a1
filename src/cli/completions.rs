//! Completions for bash, zsh and fish, from the table of commands.

use std::process::ExitCode;

use super::commands::{Command, LARDER, Opt};
use super::exit::Failure;
use super::parse::{Invocation, usage};
use super::print as print_text;
use crate::config::suggest;

/// Prints the completions of one shell.
pub fn print(invocation: &Invocation) -> Result<ExitCode, Failure> {
    match invocation.operand(0)?.unwrap_or_default() {
        "bash" => print_text(&bash()),
        "zsh" => print_text(&zsh()),
        "fish" => print_text(&fish()),
        other => {
            let hint = suggest::hint(other, ["bash", "zsh", "fish"]);
            Err(usage(invocation, format!("there are completions for bash, zsh and fish, not for `{other}`{hint}")))
        }
    }
}

/// Every command with its words, the program first.
pub fn all_commands() -> Vec<(Vec<&'static str>, &'static Command)> {
    fn walk(path: &[&'static str], command: &'static Command, all: &mut Vec<(Vec<&'static str>, &'static Command)>) {
        let path: Vec<&str> = path.iter().copied().chain([command.name]).collect();
        all.push((path.clone(), command));
        for sub in command.subcommands {
            walk(&path, sub, all);
        }
    }
    let mut all = Vec::new();
    walk(&[], &LARDER, &mut all);
    all
}

fn takes_file(option: &Opt) -> bool {
    matches!(option.value, Some("FILE" | "DIR"))
}

fn spellings(option: &Opt) -> Vec<String> {
    let short = option.short.map(|letter| format!("-{letter}"));
    [format!("--{}", option.long)].into_iter().chain(short).collect()
}

/// The words that may follow a command: its options, its subcommands, its choices of operands.
fn words(command: &Command) -> Vec<String> {
    let options = command.options.iter().map(|option| format!("--{}", option.long));
    let commands = command.subcommands.iter().map(|sub| sub.name.to_owned());
    let shells = command.operands.split('|').filter(|_| command.operands.starts_with("bash")).map(str::to_owned);
    commands.chain(shells).chain(options).chain(["--help".to_owned()]).collect()
}

/// The part that bash and zsh share: which command is being typed, and what may follow.
fn cases(reply: impl Fn(&str) -> String, files: &str) -> String {
    let all = all_commands();
    let mut text = String::from("    case \"$path $prev\" in\n");
    for (path, command) in &all {
        for option in command.options.iter().filter(|option| option.value.is_some()) {
            let patterns: Vec<String> =
                spellings(option).iter().map(|spelling| format!("\"{} {spelling}\"", path.join(" "))).collect();
            let action = if takes_file(option) { files.to_owned() } else { reply(&option.choices.join(" ")) };
            text.push_str(&format!("        {}) {action}; return ;;\n", patterns.join("|")));
        }
    }
    text.push_str("    esac\n    case \"$path\" in\n");
    for (path, command) in &all {
        let mut action = reply(&words(command).join(" "));
        if command.operands.contains("FILE") {
            action.push_str(&format!("; [[ $cur == -* ]] || {files}"));
        }
        text.push_str(&format!("        \"{}\") {action} ;;\n", path.join(" ")));
    }
    text.push_str("    esac\n");
    text
}

/// The pattern of all commands below the program.
fn paths() -> String {
    let paths: Vec<String> = all_commands().iter().skip(1).map(|(path, _)| format!("\"{}\"", path.join(" "))).collect();
    paths.join("|")
}

fn bash() -> String {
    let cases = cases(
        |words| format!("COMPREPLY=($(compgen -W '{words}' -- \"$cur\"))"),
        "COMPREPLY=($(compgen -f -- \"$cur\"))",
    );
    format!(
        "# bash completion for larder; made by `larder completions bash`\n\
         _larder() {{\n    \
             local cur=\"${{COMP_WORDS[COMP_CWORD]}}\" prev=\"${{COMP_WORDS[COMP_CWORD-1]}}\" path=larder word\n    \
             COMPREPLY=()\n    \
             for word in \"${{COMP_WORDS[@]:1:COMP_CWORD-1}}\"; do\n        \
                 case \"$path $word\" in\n            {}) path=\"$path $word\" ;;\n        esac\n    \
             done\n{cases}\
         }}\ncomplete -o filenames -F _larder larder\n",
        paths()
    )
}

fn zsh() -> String {
    let cases = cases(|words| format!("compadd -- {words}"), "_files");
    format!(
        "#compdef larder\n# made by `larder completions zsh`\n\
         _larder() {{\n    \
             local cur=\"${{words[CURRENT]}}\" prev=\"${{words[CURRENT-1]}}\" path=larder word\n    \
             for word in \"${{(@)words[2,CURRENT-1]}}\"; do\n        \
                 case \"$path $word\" in\n            {}) path=\"$path $word\" ;;\n        esac\n    \
             done\n{cases}\
         }}\nif [ \"$funcstack[1]\" = \"_larder\" ]; then _larder \"$@\"; else compdef _larder larder; fi\n",
        paths()
    )
    // `path` is tied to PATH in zsh.
    .replace("path=", "larder_path=")
    .replace("$path", "$larder_path")
}

fn fish() -> String {
    let mut text =
        String::from("# fish completion for larder; made by `larder completions fish`\ncomplete -c larder -f\n");
    let quote = |words: &str| format!("'{}'", words.replace('\\', "\\\\").replace('\'', "\\'"));
    for (path, command) in all_commands() {
        let condition = match path.as_slice() {
            [_] => "__fish_use_subcommand".to_owned(),
            [_, rest @ ..] => {
                let seen: Vec<String> = rest.iter().map(|word| format!("__fish_seen_subcommand_from {word}")).collect();
                seen.join("; and ")
            }
            [] => continue,
        };
        let start = format!("complete -c larder -n {}", quote(&condition));
        for sub in command.subcommands {
            text.push_str(&format!("{start} -a {} -d {}\n", sub.name, quote(sub.summary)));
        }
        for option in command.options {
            let short = option.short.map_or(String::new(), |letter| format!(" -s {letter}"));
            let value = match (option.value, takes_file(option), option.choices) {
                (None, ..) => String::new(),
                (_, true, _) => " -r -F".to_owned(),
                (_, _, []) => " -x".to_owned(),
                (_, _, choices) => format!(" -x -a {}", quote(&choices.join(" "))),
            };
            text.push_str(&format!("{start} -l {}{short}{value} -d {}\n", option.long, quote(option.help)));
        }
        if command.operands.contains("FILE") {
            text.push_str(&format!("{start} -F\n"));
        }
        if command.operands.starts_with("bash") {
            text.push_str(&format!("{start} -a {}\n", quote(&command.operands.replace('|', " "))));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_and_option_is_in_every_shell() {
        for (shell, text) in [("bash", bash()), ("zsh", zsh()), ("fish", fish())] {
            for (path, command) in all_commands().iter().skip(1) {
                assert!(text.contains(path[path.len() - 1]), "{shell}: {path:?}");
                for option in command.options {
                    assert!(text.contains(option.long), "{shell}: {path:?} --{}", option.long);
                }
            }
        }
    }
}
