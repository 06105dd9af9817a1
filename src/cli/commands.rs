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
            "Listen on this address: 127.0.0.1:8080, unix:/run/larder/larder.sock, fd:// (may be repeated)",
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

const URL: Opt = Opt {
    short: Some('u'),
    ..opt("url", "URL", "Where larder is: http://HOST:PORT or unix:/PATH (default: $LARDER_URL, http://127.0.0.1:8080)")
};
const TOKEN_FILE: Opt =
    opt("token-file", "FILE", "Read the token from this file (default: $LARDER_TOKEN, $LARDER_TOKEN_FILE)");
const FORCE: Opt = switch("force", "Replace a file that is there");
const TTL: Opt = opt("ttl", "DURATION", "The value expires after so long, such as 30s or 7d");
const DURABILITY: Opt = Opt {
    choices: &["sync", "relaxed"],
    ..opt("durability", "WHEN", "sync: answered when on the card; relaxed: at once (default: the server's)")
};
const IF_VERSION: Opt =
    opt("if-version", "N", "Only if the value is at this version; 0: only if there is none. Else exit 4");
const OUTPUT: Opt = Opt {
    short: Some('o'),
    ..opt("output", "FILE", "Write to this file, which is replaced when all is there; - is stdout")
};
const NAMESPACE: Opt = opt("namespace", "NS", "Only this namespace");
const COLLECTION: Opt = opt("collection", "COL", "Only this collection of the namespace");
const SINCE: Opt = opt("since", "VERSION", "Only what was written after this version");

const VALUE_PATH: &str = "NAMESPACE/COLLECTION/KEY";

const fn takes(operands: &'static str, least: usize, most: usize, command: Command) -> Command {
    Command { operands, operands_count: (least, most), ..command }
}

const GET: Command = takes(
    VALUE_PATH,
    1,
    1,
    leaf(
        "get",
        "Read a value",
        "Writes the bytes as they are stored. With --json: what `larder ls --json --values` writes of it, that is key, \
         version, size, content_type, modified and expires (RFC 3339, or null), and either value, if it is JSON no deeper \
         than 64 levels, or value_base64.",
        &[OUTPUT, JSON, URL, TOKEN_FILE],
    ),
);

const PUT: Command = takes(
    "NAMESPACE/COLLECTION/KEY [VALUE|-]",
    1,
    2,
    leaf(
        "put",
        "Write a value",
        "Without VALUE, or with -, the value is read from stdin. The type of a VALUE on the command line is JSON if it is \
         JSON, else plain text; from stdin or a file it is application/octet-stream. --type says otherwise.",
        &[
            Opt { short: Some('f'), ..opt("file", "FILE", "Read the value from this file") },
            opt("type", "TYPE", "The content type to store"),
            TTL,
            DURABILITY,
            IF_VERSION,
            JSON,
            URL,
            TOKEN_FILE,
        ],
    ),
);

const DEL: Command = takes(
    "NAMESPACE/COLLECTION[/KEY]",
    1,
    1,
    leaf(
        "del",
        "Remove a value, or many",
        "Removing more than one value needs --prefix or --all; that goes in steps, not atomically.",
        &[
            opt("prefix", "TEXT", "Remove all keys of the collection that begin with this"),
            switch("all", "Remove all of the collection"),
            DURABILITY,
            IF_VERSION,
            JSON,
            URL,
            TOKEN_FILE,
        ],
    ),
);

const LS: Command = takes(
    "[NAMESPACE[/COLLECTION[/PREFIX]]]",
    0,
    1,
    leaf(
        "ls",
        "List namespaces, collections or keys",
        "One name a line. With --json one object a line: key, \
         version, size (bytes), content_type, modified and expires (RFC 3339, or null), with --values also value, if it \
         is JSON no deeper than 64 levels, or value_base64. Names that hold other characters than text are written as JSON \
         strings. Exit 3 if there is no such namespace or collection, which is there as long as it holds a value.",
        &[
            Opt { short: Some('l'), ..switch("long", "Also show version, size, time of change and type") },
            Opt { short: Some('n'), ..opt("limit", "N", "At most so many") },
            switch("values", "With --json: include the values"),
            JSON,
            URL,
            TOKEN_FILE,
        ],
    ),
);

const INCR: Command = takes(
    "NAMESPACE/COLLECTION/KEY [BY]",
    1,
    2,
    leaf(
        "incr",
        "Add to a counter (1, or BY, which may be negative) and print it",
        "",
        &[TTL, DURABILITY, JSON, URL, TOKEN_FILE],
    ),
);

const EXPORT: Command = leaf(
    "export",
    "Write the whole store as NDJSON",
    "One line a value, and a last line that says it is complete: without it the exit code is 1 (5 if the connection \
     broke), and the server's reason is told. The values are of one moment; if much is written meanwhile, of several, as \
     the last line and a note then say.",
    &[OUTPUT, NAMESPACE, COLLECTION, SINCE, JSON, URL, TOKEN_FILE],
);

const IMPORT: Command = takes(
    "[FILE|-]",
    0,
    1,
    leaf(
        "import",
        "Read NDJSON into the store",
        "What the file holds replaces what is there under the same keys; all else stays. Exit 1 if any line failed.",
        &[switch("partial", "Accept a file that was cut"), JSON, URL, TOKEN_FILE],
    ),
);

const BACKUP: Command = takes(
    "FILE|-",
    1,
    1,
    leaf(
        "backup",
        "Save the whole store to a file with checksums",
        "The file appears under its name only when it is complete and on the disk, with mode 0600; a link is followed, a \
         device or a pipe written to. A file that is there is kept without --force, unless it is empty. With --since it holds what was \
         written after that version (the last backup names it), and everything if the store was restored or imported \
         into meanwhile. Removals are not in it: a chain of such files brings back what was removed between two of them, \
         or during one that took so long under writes that its values are of several moments, as a note then says. If \
         the server cuts it, its reason is told and the exit code is 1; 5 if the connection broke.",
        &[SINCE, NAMESPACE, FORCE, JSON, URL, TOKEN_FILE],
    ),
);

const RESTORE: Command = takes(
    "FILE|-",
    1,
    1,
    leaf(
        "restore",
        "Bring a backup back",
        "A file is proven from its first byte to its last before anything is sent. A store that is not empty is refused \
         without --merge, and so is a backup made with --since. Such a chain is restored in the order it was made; what \
         was removed between two files of it comes back. The store goes on above the versions of the file.",
        &[
            switch("check", "Only prove the file; ask no server"),
            switch("merge", "Restore over what is there: the backup's values win, all others stay"),
            JSON,
            URL,
            TOKEN_FILE,
        ],
    ),
);

const BENCH: Command = leaf(
    "bench",
    "Put load on a larder and judge it, or measure the card",
    "Without --scenario: reads and writes of keys of its own, which it removes at the end. With --rate users come at that \
     rate whatever the server does, and latencies count from when a request was due; without, each connection sends its \
     next request when the last is answered. Exit 1 if a target was missed. --card puts no load on any server: it measures \
     the disk below --data and recommends settings.",
    &[
        Opt { short: Some('s'), ..opt("scenario", "FILE", "Phases, requests and targets from this TOML file") },
        Opt {
            short: Some('r'),
            ..opt("rate", "N", "So many requests a second (default: as fast as they are answered)")
        },
        opt("connections", "N", "Requests under way at once (default: 32; with --rate 48)"),
        Opt {
            short: Some('d'),
            ..opt("duration", "DURATION", "For so long (default: 10s); a scenario as a whole for no longer than that")
        },
        Opt {
            short: Some('n'),
            ..opt("requests", "N", "Stop after so many requests; with a scenario, each phase that is judged")
        },
        opt("path", "PATH", "Only GET this path, such as /health"),
        opt("writes", "PERCENT", "The part of the requests that writes (default: 30)"),
        opt("keys", "N", "How many keys are read and written (default: 1000)"),
        opt("value-size", "SIZE", "How large values are (default: 1KiB)"),
        opt("think", "DURATION", "The pause of a user after each answer: 1s, or 500ms..2s"),
        Opt {
            repeats: true,
            ..opt(
                "target",
                "NAME=VALUE",
                "Judge by this: p95=100ms, p99=50ms, rss=100MB, start=1s, requests_per_second=1000, errors=0.1%, or =off",
            )
        },
        switch(
            "spawn",
            "Start a larder for the run, with its data in a new folder below --data, and measure its start",
        ),
        Opt { choices: &["tiny_http", "epoll"], ..opt("engine", "ENGINE", "With --spawn: the engine") },
        switch("card", "Measure the disk below --data and recommend settings"),
        opt("data", "DIR", "Where --card and --spawn write, in a folder that is removed (default: here)"),
        opt("seed", "N", "Where the random numbers begin (default: 1)"),
        opt("hdr", "FILE", "Write the distribution of latencies in HdrHistogram's text form"),
        JSON,
        URL,
        TOKEN_FILE,
    ],
);

const COMPLETIONS: Command = takes(
    "bash|zsh|fish",
    1,
    1,
    leaf(
        "completions",
        "Print completions for a shell",
        "For example: larder completions bash > /etc/bash_completion.d/larder",
        &[],
    ),
);

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
            "Takes what `larder serve` takes, starts and makes nothing, looks at the data folder and at www.dir, and prints \
             each setting with where it came from. Where systemd has a larder.service, its environment and flags count \
             too, unless --config, $LARDER_CONFIG or --data says otherwise. Exit 0 if `larder serve` would start with it, else as that would end: \
             78, or 1 if www.dir cannot be opened.",
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
        GET,
        PUT,
        DEL,
        LS,
        INCR,
        EXPORT,
        IMPORT,
        BACKUP,
        RESTORE,
        BENCH,
        COMPLETIONS,
        takes("[COMMAND]", 0, usize::MAX, leaf("help", "Print the help of a command", "", &[])),
        leaf("man", "Print the manual page", "For example: larder man > larder.1", &[]),
        leaf("version", "Print the version", "", &[]),
    ],
    ..leaf(
        "larder",
        "A durable key-value store over HTTP for small boards",
        "Exit codes: 0 done, 1 failed, 2 usage, 3 not found, 4 precondition failed, 5 unreachable, 78 configuration; \
         75: serve wants to be started anew.",
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
