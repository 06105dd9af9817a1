//! The command line: parse, run one command, exit code.

fn main() {}
