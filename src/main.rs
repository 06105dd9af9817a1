//! The command line: parse, run one command, exit code.

fn main() -> std::process::ExitCode {
    larder::cli::run(std::env::args_os().skip(1))
}
