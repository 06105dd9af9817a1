//! The one table of commands, from which parsing, `--help`, the completions and the man page are made.

/// An option of a command.
#[derive(Debug)]
pub struct Opt {
    /// `--long`.
    pub long: &'static str,
    /// `-s`.
    pub short: Option<char>,
    /// What its value is called; `None` for a switch.
    pub value: Option<&'static str>,
    /// Whether it may stand more than once.
    pub repeats: bool,
    /// The words its value is one of, where it is.
    pub choices: &'static [&'static str],
    /// What it does.
    pub help: &'static str,
}

/// A command, or a group of them.
#[derive(Debug)]
pub struct Command {
    /// Its name.
    pub name: &'static str,
    /// Its operands, as the usage line shows them.
    pub operands: &'static str,
    /// How many operands it takes, at least and at most.
    pub operands_count: (usize, usize),
    /// What it does, in one line.
    pub summary: &'static str,
    /// What else one should know.
    pub about: &'static str,
    /// Its options, besides `--help`.
    pub options: &'static [Opt],
    /// Its subcommands; a command has either these or operands.
    pub subcommands: &'static [Command],
}

const fn opt(long: &'static str, value: &'static str, help: &'static str) -> Opt {
    Opt { long, short: None, value: Some(value), repeats: false, choices: &[], help }
}

const fn switch(long: &'static str, help: &'static str) -> Opt {
    Opt { long, short: None, value: None, repeats: false, choices: &[], help }
}

const CONFIG: Opt = Opt {
    short: Some('c'),
    ..opt(
        "config",
        "FILE",
        "Read this configuration file (default: $LARDER_CONFIG, /etc/larder/larder.toml if it exists)",
    )
};

const SERVER_OPTIONS: &[Opt] = &[
    CONFIG,
    Opt {
        repeats: true,
        ..opt(
            "listen",
            "ADDR",
            "Listen on this address: 127.0.0.1:8080, unix:/run/larder.sock, fd:// (may be repeated)",
        )
    },
    DATA,
    Opt { choices: &["tiny_http", "epoll"], ..opt("engine", "ENGINE", "tiny_http (trusted networks) or epoll") },
    Opt {
        choices: &["sync", "relaxed"],
        ..opt("durability", "WHEN", "sync: answer writes when they are on the card; relaxed: at once")
    },
    opt("workers", "N", "Threads that answer requests"),
    opt("cache-size", "SIZE", "Memory for hot values, such as 16MiB"),
];

const fn leaf(name: &'static str, summary: &'static str, about: &'static str, options: &'static [Opt]) -> Command {
    Command { name, operands: "", operands_count: (0, 0), summary, about, options, subcommands: &[] }
}

const DATA: Opt = opt("data", "DIR", "Keep the data in this folder");
const JSON: Opt = switch("json", "Print JSON");

const TOKEN_COMMANDS: &[Command] = &[
    Command {
        operands: "NAME",
        operands_count: (1, 1),
        ..leaf(
            "add",
            "Make a token and print it, once",
            "Only its hash is kept: a lost token is replaced, not found again.",
            &[
                Opt {
                    choices: &["read", "write", "admin"],
                    ..opt("scope", "SCOPE", "What it may do: read, write (and read), or admin (all); needed")
                },
                Opt { repeats: true, ..opt("namespace", "NS", "Only in this namespace (may be repeated)") },
                opt("expires", "DURATION", "Ends after so long, such as 90d"),
                CONFIG,
                DATA,
                JSON,
            ],
        )
    },
    leaf("ls", "List the tokens, without their secrets", "", &[CONFIG, DATA, JSON]),
    Command { operands: "NAME|ID", operands_count: (1, 1), ..leaf("rm", "Remove a token", "", &[CONFIG, DATA, JSON]) },
];

/// The program itself.
pub static LARDER: Command = Command {
    subcommands: &[
        leaf(
            "serve",
            "Serve the store over HTTP",
            "Settings come from the defaults, then the configuration file, then LARDER_* in the environment, then these \
             flags; the later wins. SIGTERM and SIGINT stop it gracefully, SIGHUP reads log.level, [limits] and the tokens again.",
            SERVER_OPTIONS,
        ),
        leaf(
            "check",
            "Check the configuration and show what is in force",
            "Takes what `larder serve` takes, starts nothing, and prints each setting with where it came from. \
             Exit 0 if `larder serve` would accept it, else 78.",
            SERVER_OPTIONS,
        ),
        Command {
            subcommands: TOKEN_COMMANDS,
            ..leaf(
                "token",
                "Make, list and remove tokens",
                "Works on the tokens file of this machine (auth.tokens_file), as the user who may write it. A running larder \
                 takes changes up by itself within seconds.",
                &[],
            )
        },
        leaf("version", "Print the version", "", &[]),
    ],
    ..leaf(
        "larder",
        "A durable key-value store over HTTP for small boards",
        "Exit codes: 0 done, 1 failed, 2 usage, 3 not found, 4 precondition failed, 5 unreachable, 78 configuration.",
        &[Opt {
            long: "version",
            short: Some('V'),
            value: None,
            repeats: false,
            choices: &[],
            help: "Print the version",
        }],
    )
};
