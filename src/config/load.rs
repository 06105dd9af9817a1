//! Putting the stages together: defaults < file < environment < flags, then the rules.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use super::error::{ConfigError, Source};
use super::raw::Given;
use super::settings::{SETTINGS, find};
use super::{Config, EngineKind, addresses, descriptors, env, file, rules};
use crate::limits::{CONNECTIONS_EPOLL, Limits};

/// The file that is read if it exists and no other is named.
pub const DEFAULT_FILE: &str = "/etc/larder/larder.toml";

/// What the defaults are scaled to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Board {
    /// Memory that larder may count on, in bytes.
    pub ram_bytes: u64,
    /// Cores.
    pub cores: usize,
    /// Files and sockets that this process may have open; `None`: as many as it likes.
    pub descriptors: Option<u64>,
    /// Bytes for which this process has addresses; `None`: more than it will ever need.
    pub addresses: Option<u64>,
}

impl Default for Board {
    /// The smallest board larder is for.
    fn default() -> Board {
        Board { ram_bytes: 512 << 20, cores: 1, descriptors: None, addresses: None }
    }
}

/// Everything a configuration is made from; kept, so that it can be made again.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Inputs {
    /// The machine.
    pub board: Board,
    /// The file named by a flag.
    pub file: Option<PathBuf>,
    /// The file that is read only if it exists, where no other is named.
    pub default_file: Option<PathBuf>,
    /// The environment, whole.
    pub environment: Vec<(OsString, OsString)>,
    /// Flags of the command line: the setting (`section.key`), the flag's name, its value.
    pub flags: Vec<(&'static str, String, Given)>,
    /// The unit of systemd from which some of the environment and the flags are, for `larder check`.
    pub unit: Option<&'static str>,
}

/// A configuration, and where each setting came from.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The settings.
    pub config: Config,
    /// The file that was read.
    pub file: Option<PathBuf>,
    /// One source a row of [`SETTINGS`].
    pub sources: Sources,
}

/// Where each setting came from, in the order of [`SETTINGS`].
#[derive(Clone, Debug)]
pub struct Sources {
    rows: Vec<Source>,
    rules: Vec<Source>,
    unsandboxed: Vec<Source>,
}

impl Sources {
    /// Where a setting came from, by its row.
    pub fn of_row(&self, index: usize) -> &Source {
        &self.rows[index]
    }

    /// Where a setting came from, by its name. An unknown name has no source, like a default.
    pub fn of(&self, section: &str, key: &str) -> &Source {
        find(section, key).map_or(&Source::Default, |index| &self.rows[index])
    }

    /// Where the rules of `[[cache_control]]` stand.
    pub fn rule(&self, index: usize) -> &Source {
        self.rules.get(index).unwrap_or(&Source::Default)
    }

    /// Where the entries of `[[unsandboxed]]` stand.
    pub fn unsandboxed(&self, index: usize) -> &Source {
        self.unsandboxed.get(index).unwrap_or(&Source::Default)
    }
}

/// Makes a configuration. All that is wrong is reported at once, in the order of the places where it stands.
pub fn load(inputs: &Inputs) -> Result<Loaded, Vec<ConfigError>> {
    let mut errors = Vec::new();
    // What there are no addresses for is no use either.
    let usable_bytes = inputs.board.addresses.map_or(u64::MAX, |bytes| bytes / 2).min(inputs.board.ram_bytes);
    let mut config = Config::defaults(usable_bytes, inputs.board.cores);
    let mut sources =
        Sources { rows: vec![Source::Default; SETTINGS.len()], rules: Vec::new(), unsandboxed: Vec::new() };
    let path = file_to_read(inputs);

    let from_file = path.as_deref().map(|path| file::read(path, &mut errors)).unwrap_or_default();
    let from_environment = env::read(&inputs.environment, &mut errors);
    let from_flags = inputs.flags.iter().filter_map(|(name, flag, given)| {
        let (section, key) = name.split_once('.')?;
        Some((find(section, key)?, given.clone(), Source::Flag(flag.clone())))
    });
    set_state_directory(&mut config, &mut sources, &inputs.environment);
    for (index, given, source) in from_file.given.into_iter().chain(from_environment).chain(from_flags) {
        match SETTINGS[index].field.set(&mut config, &given) {
            Ok(()) => sources.rows[index] = source,
            Err(message) => errors.push(ConfigError::at(&source, format!("{}: {message}", SETTINGS[index].name()))),
        }
    }
    for (rule, source) in from_file.cache_control {
        config.cache_control.push(rule);
        sources.rules.push(source);
    }
    for (place, source) in from_file.unsandboxed {
        config.unsandboxed.push(place);
        sources.unsandboxed.push(source);
    }
    scale_to_engine(&mut config, &sources);
    config.inputs = inputs.clone();
    if errors.is_empty() {
        errors = rules::contradictions(&config, &sources);
    }
    if errors.is_empty()
        && let Err(message) =
            descriptors::cut_connections(&mut config).and_then(|()| addresses::cut_connections(&mut config))
    {
        errors.push(ConfigError { source: None, message });
    }
    if errors.is_empty() { Ok(Loaded { config, file: path, sources }) } else { Err(errors) }
}

/// The file named by a flag, else by the environment, else the usual one if it is there.
pub fn file_to_read(inputs: &Inputs) -> Option<PathBuf> {
    let named = inputs.environment.iter().find(|(name, _)| name == env::CONFIG).map(|(_, value)| PathBuf::from(value));
    let usual = || inputs.default_file.as_deref().filter(|path| may_exist(path)).map(Path::to_owned);
    inputs.file.clone().or(named).or_else(usual)
}

/// A file that cannot even be looked at must be tried, so that the reason is told.
fn may_exist(path: &Path) -> bool {
    path.try_exists().unwrap_or(true)
}

/// systemd names the folder it made for us; it may name several, the first is ours.
fn set_state_directory(config: &mut Config, sources: &mut Sources, environment: &[(OsString, OsString)]) {
    let named = environment.iter().find(|(name, _)| name == "STATE_DIRECTORY").and_then(|(_, value)| value.to_str());
    let first = named.and_then(|value| value.split(':').next()).filter(|first| !first.is_empty());
    if let (Some(directory), Some(index)) = (first, find("store", "dir")) {
        config.data_dir = PathBuf::from(directory);
        sources.rows[index] = Source::Environment("STATE_DIRECTORY".to_owned());
    }
}

/// Defaults that follow from other settings, where nobody set them.
fn scale_to_engine(config: &mut Config, sources: &Sources) {
    if config.engine == EngineKind::Epoll && *sources.of("limits", "connections_max") == Source::Default {
        config.limits.connections_max = CONNECTIONS_EPOLL;
    }
    if *sources.of("limits", "connections_per_address_max") == Source::Default {
        let limits = &mut config.limits;
        limits.connections_per_address_max = limits.connections_per_address_max.min(limits.connections_max);
    }
    if *sources.of("limits", "bodies_bytes_max") == Source::Default {
        let limits = &mut config.limits;
        limits.bodies_bytes_max = limits.bodies_bytes_max.max(limits.body_bytes_max);
    }
    if *sources.of("limits", "answers_bytes_max") == Source::Default {
        // A value in base64 is a third larger, and only three quarters are for everybody.
        let limits = &mut config.limits;
        limits.answers_bytes_max = limits.answers_bytes_max.max(limits.value_bytes_max.saturating_mul(4));
    }
}

/// What SIGHUP puts in force.
#[derive(Clone, Debug)]
pub struct Reloaded {
    /// `log.level`.
    pub log_level: log::LevelFilter,
    /// `[limits]`.
    pub limits: Limits,
    /// Settings that were changed too but need a restart, by name.
    pub needs_restart: Vec<String>,
}

/// Makes the configuration anew and tells what of it may change while larder runs.
pub fn reload(old: &Config) -> Result<Reloaded, Vec<ConfigError>> {
    let new = load(&old.inputs)?.config;
    let live = |section: &str, key: &str| section == "limits" || (section, key) == ("log", "level");
    let mut needs_restart: Vec<String> = SETTINGS
        .iter()
        .filter(|setting| !live(setting.section, setting.key) && setting.field.show(old) != setting.field.show(&new))
        .map(|setting| setting.name())
        .collect();
    if old.cache_control != new.cache_control {
        needs_restart.push("cache_control".to_owned());
    }
    if old.unsandboxed != new.unsandboxed {
        needs_restart.push("unsandboxed".to_owned());
    }
    Ok(Reloaded { log_level: new.log_level, limits: new.limits, needs_restart })
}
