//! Where a setting came from, and what is wrong with one.

use std::fmt;
use std::path::PathBuf;

/// Where the value of a setting came from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Source {
    /// Nobody set it.
    #[default]
    Default,
    /// A line of a file, counted from 1.
    File(PathBuf, usize),
    /// An environment variable.
    Environment(String),
    /// A flag of the command line.
    Flag(String),
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Source::Default => f.write_str("default"),
            Source::File(path, line) => write!(f, "{}:{line}", path.display()),
            Source::Environment(name) => write!(f, "environment {name}"),
            Source::Flag(name) => write!(f, "flag {name}"),
        }
    }
}

/// A reason not to start: where, and what, with the nearest right name where there is one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    /// The line, variable or flag to change; `None` if it is no single one.
    pub source: Option<Source>,
    /// What is wrong and what to do.
    pub message: String,
}

impl ConfigError {
    /// An error about a value from `source`. A default is no place that could be named.
    pub fn at(source: &Source, message: impl Into<String>) -> ConfigError {
        let source = (*source != Source::Default).then(|| source.clone());
        ConfigError { source, message: message.into() }
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.source {
            Some(source) => write!(f, "{source}: {}", self.message),
            None => f.write_str(&self.message),
        }
    }
}

impl std::error::Error for ConfigError {}
