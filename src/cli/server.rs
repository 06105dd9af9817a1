//! `larder serve` and `larder check`: from flags to a configuration, and what is done with it.

use std::ffi::OsString;
use std::process::ExitCode;

use rustix::fs::Mode;

use super::exit::{CONFIG, Failure};
use super::parse::{Invocation, parse, usage};
use super::{say, unit};
use crate::api::access::Access;
use crate::app::{Given, preflight};
use crate::config::load::DEFAULT_FILE;
use crate::config::raw;
use crate::config::settings::SETTINGS;
use crate::config::{Board, ConfigError, EngineKind, Inputs, Loaded, env, load, rules};
use crate::metrics::Registry;

/// Flags and the settings they set.
const FLAGS: &[(&str, &str)] = &[
    ("listen", "server.listen"),
    ("data", "store.dir"),
    ("engine", "server.engine"),
    ("durability", "store.durability"),
    ("workers", "server.workers"),
    ("cache-size", "cache.size"),
];

/// Serves until told to stop.
pub fn serve(invocation: &Invocation) -> Result<ExitCode, Failure> {
    let taken = Given::take();
    let taken = taken.map_err(|error| Failure::plain(format!("the signals could not be taken over: {error}")))?;
    // SECURITY: what clients store is for larder's own user. Files and folders made from here on are closed to others;
    // those that are there already stay as they are, and a Unix socket gets its mode by itself.
    rustix::process::umask(Mode::RWXG | Mode::RWXO);
    let loaded = load_for_serving(inputs(invocation)?)?;
    Ok(crate::app::run(loaded.config, taken))
}

/// Shows what is in force, or why it cannot be.
pub fn check(invocation: &Invocation) -> Result<ExitCode, Failure> {
    let loaded = load_for_serving(inputs_with_unit(invocation)?)?;
    preflight::files(&loaded.config).map_err(Failure::plain)?;
    say(&describe(&loaded))?;
    Ok(ExitCode::SUCCESS)
}

/// The configuration of an invocation, checked to the end.
fn load_for_serving(inputs: Inputs) -> Result<Loaded, Failure> {
    let loaded = load(&inputs).map_err(failure)?;
    // Before the tokens, which are kept in the data folder: what is wrong with the folder explains more.
    if let Some(reason) = preflight::refusal(&loaded.config) {
        return Err(failure(vec![ConfigError::at(loaded.sources.of("store", "dir"), reason)]));
    }
    if let Some(reason) = preflight::overlap(&loaded.config) {
        return Err(failure(vec![ConfigError::at(loaded.sources.of("www", "dir"), reason)]));
    }
    if let Some(reason) = preflight::no_room_ever(&loaded.config) {
        return Err(failure(vec![ConfigError::at(loaded.sources.of("store", "reserve"), reason)]));
    }
    let access = Access::open(&loaded.config, &Registry::default()).map_err(|error| failure(vec![error]))?;
    let exposures = rules::exposures(&loaded.config, &loaded.sources, access.has_tokens());
    if exposures.is_empty() { Ok(loaded) } else { Err(failure(exposures)) }
}

/// What a configuration is made from, in this process.
pub fn inputs(invocation: &Invocation) -> Result<Inputs, Failure> {
    let mut flags = Vec::new();
    for (flag, setting) in FLAGS.iter().filter(|(flag, _)| invocation.has(flag)) {
        let values = invocation.texts(flag)?;
        if values.contains(&"") {
            return Err(usage(invocation, format!("--{flag} is empty")));
        }
        let given = match values.as_slice() {
            [one] => raw::Given::Words((*one).to_owned()),
            many => raw::Given::List(many.iter().map(|&text| text.to_owned()).collect()),
        };
        flags.push((*setting, format!("--{flag}"), given));
    }
    Ok(Inputs {
        board: board(),
        file: invocation.text("config")?.map(Into::into),
        default_file: Some(DEFAULT_FILE.into()),
        environment: std::env::vars_os().collect(),
        flags,
        unit: None,
    })
}

/// The same with what systemd gives the service, for the commands that an owner types beside it. What is said here is
/// stronger, and who names a configuration file or a data folder means that one alone.
pub fn inputs_with_unit(invocation: &Invocation) -> Result<Inputs, Failure> {
    let mut here = inputs(invocation)?;
    if here.file.is_some() || invocation.has("data") || std::env::var_os(env::CONFIG).is_some() {
        return Ok(here);
    }
    let Some(unit) = unit::read() else { return Ok(here) };
    let words = std::iter::once(OsString::from("serve")).chain(unit.words);
    let Ok(there) = parse(words).and_then(|invocation| inputs(&invocation)) else { return Ok(here) };
    here.file = there.file;
    here.flags.splice(0..0, there.flags);
    let new = |name: &OsString| std::env::var_os(name).is_none();
    here.environment.extend(unit.environment.into_iter().filter(|(name, _)| new(name)));
    here.unit = Some(unit::NAME);
    Ok(here)
}

/// All errors of a configuration as one message.
pub fn failure(errors: Vec<ConfigError>) -> Failure {
    let lines: Vec<String> = errors.iter().map(ToString::to_string).collect();
    Failure::new(CONFIG, lines.join("\n"))
}

fn board() -> Board {
    let descriptors = crate::board::process::raise_descriptors_max();
    Board {
        ram_bytes: crate::board::memory::ram_bytes(),
        cores: crate::board::cores(),
        descriptors,
        addresses: crate::board::memory::address_bytes(),
    }
}

/// The table of settings in force.
fn describe(loaded: &Loaded) -> String {
    let config = &loaded.config;
    let mut rows = Vec::new();
    for (index, setting) in SETTINGS.iter().enumerate() {
        let value = setting.field.show(config).unwrap_or_else(|| "-".to_owned());
        rows.push((setting.name(), value, loaded.sources.of_row(index).to_string()));
    }
    for (index, rule) in config.cache_control.iter().enumerate() {
        let part = |name: &Option<String>| name.clone().unwrap_or_else(|| "*".to_owned());
        let name = format!("cache_control {}/{}", part(&rule.namespace), part(&rule.collection));
        rows.push((name, rule.value.render(None), loaded.sources.rule(index).to_string()));
    }
    for (index, place) in config.unsandboxed.iter().enumerate() {
        let collection = place.collection.as_deref().unwrap_or("*");
        let source = loaded.sources.unsandboxed(index).to_string();
        rows.push((format!("unsandboxed {}/{collection}", place.namespace), "scripts run".to_owned(), source));
    }
    let width = |of: fn(&(String, String, String)) -> usize| rows.iter().map(of).max().unwrap_or(0);
    let (first, second) = (width(|row| row.0.len()), width(|row| row.1.chars().count()).min(40));
    let mut text = match &loaded.file {
        Some(path) => format!("file: {}\n\n", path.display()),
        None => "file: none\n\n".to_owned(),
    };
    if let Some(unit) = config.inputs.unit {
        text = format!("unit: {unit}, whose environment and flags count too\n{text}");
    }
    for (name, value, source) in rows {
        text.push_str(&format!("{name:first$}  {value:second$}  {source}\n"));
    }
    if config.engine == EngineKind::TinyHttp {
        text.push_str(
            "\nnote: tiny_http 0.12 is for trusted networks: single packets can hang its threads or end the process. \
             For many or untrusted clients set server.engine = \"epoll\" (or --engine epoll).\n",
        );
    }
    let remarks = preflight::remarks(config);
    if !remarks.is_empty() {
        text.push_str(&format!("\n{}\n", remarks.join("\n")));
    }
    text.push_str("\nthe configuration is good\n");
    text
}
