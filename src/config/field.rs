//! How a setting of each type is read into the configuration and shown again.
//!
//! Invariant: a value out of its range is refused, never clamped.

use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use super::Config;
use super::raw::Given;
use super::units::{parse_size, show_duration, show_size};

type Place<T> = fn(&mut Config) -> &mut T;

/// The type of a setting, with the place in the configuration where it goes.
pub enum Field {
    /// A size in bytes.
    Size(Place<u64>, RangeInclusive<u64>),
    /// A size in bytes that is counted in `usize`.
    SizeOf(Place<usize>, RangeInclusive<u64>),
    /// A size in bytes, or 0 for none.
    SizeOrNone(Place<u64>, RangeInclusive<u64>),
    /// A size in bytes, or 0 for none, or absent: larder decides.
    SizeOrAuto(Place<Option<u64>>, RangeInclusive<u64>),
    /// A whole number.
    Count(Place<usize>, RangeInclusive<u64>),
    /// A whole number of something a second, or of 32 bits.
    Number(Place<u64>, RangeInclusive<u64>),
    /// A duration.
    Time(Place<Duration>, RangeInclusive<Duration>),
    /// `true` or `false`.
    Switch(Place<bool>),
    /// A path, or absent.
    PathOrNone(Place<Option<PathBuf>>),
    /// A path.
    Path(Place<PathBuf>),
    /// Anything else: what is expected, how to read it, how to show it (in the form of the file).
    Custom {
        /// Reads it.
        set: fn(&mut Config, &Given) -> Result<(), String>,
        /// Shows it.
        show: fn(&Config) -> String,
    },
}

impl Field {
    /// Reads a value into the configuration. The error says what was expected, not where.
    pub fn set(&self, config: &mut Config, given: &Given) -> Result<(), String> {
        match self {
            Field::Size(place, range) => *place(config) = size_within(given, range)?,
            Field::SizeOf(place, range) => *place(config) = to_usize(size_within(given, range)?)?,
            Field::SizeOrNone(place, range) => *place(config) = size_or_none(given, range)?,
            Field::SizeOrAuto(place, range) => *place(config) = Some(size_or_none(given, range)?),
            Field::Count(place, range) => *place(config) = to_usize(within(given.count()?, range, |n| n.to_string())?)?,
            Field::Number(place, range) => *place(config) = within(given.count()?, range, |n| n.to_string())?,
            Field::Time(place, range) => *place(config) = within(given.duration()?, range, show_duration)?,
            Field::Switch(place) => *place(config) = given.switch()?,
            Field::PathOrNone(place) => *place(config) = Some(PathBuf::from(given.text("/var/lib/larder")?)),
            Field::Path(place) => *place(config) = PathBuf::from(given.text("/var/lib/larder")?),
            Field::Custom { set, .. } => set(config, given)?,
        }
        Ok(())
    }

    /// The value in force, as it would stand in a file; `None` if there is none.
    pub fn show(&self, config: &Config) -> Option<String> {
        let mut config = config.clone();
        let config = &mut config;
        Some(match self {
            Field::Size(place, _) | Field::SizeOrNone(place, _) => quote(&show_size(*place(config))),
            Field::SizeOf(place, _) => quote(&show_size(*place(config) as u64)),
            Field::SizeOrAuto(place, _) => quote(&show_size((*place(config))?)),
            Field::Count(place, _) => place(config).to_string(),
            Field::Number(place, _) => place(config).to_string(),
            Field::Time(place, _) => quote(&show_duration(*place(config))),
            Field::Switch(place) => place(config).to_string(),
            Field::PathOrNone(place) => quote(&place(config).as_ref()?.display().to_string()),
            Field::Path(place) => quote(&place(config).display().to_string()),
            Field::Custom { show, .. } => Some(show(config)).filter(|text| !text.is_empty())?,
        })
    }
}

/// Text as TOML writes it.
pub fn quote(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len() + 2);
    quoted.push('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            c if c.is_control() => quoted.push_str(&format!("\\u{:04X}", u32::from(c))),
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}

/// A list of texts as TOML writes it.
pub fn quote_list(texts: impl IntoIterator<Item = impl AsRef<str>>) -> String {
    let quoted: Vec<String> = texts.into_iter().map(|text| quote(text.as_ref())).collect();
    format!("[{}]", quoted.join(", "))
}

fn within<T: PartialOrd + Copy>(value: T, range: &RangeInclusive<T>, show: impl Fn(T) -> String) -> Result<T, String> {
    if range.contains(&value) {
        return Ok(value);
    }
    Err(format!("{} is outside of {} to {}", show(value), show(*range.start()), show(*range.end())))
}

/// A size within its range. `16` where `16MiB` was meant is the commonest slip, so the error shows the unit.
fn size_within(given: &Given, range: &RangeInclusive<u64>) -> Result<u64, String> {
    let bytes = given.size()?;
    within(bytes, range, show_size).map_err(|message| {
        let example = ["MiB", "KiB", "GiB"].into_iter().find(|unit| {
            let meant = parse_size(&format!("{bytes}{unit}"));
            meant.is_ok_and(|meant| range.contains(&meant))
        });
        match example.filter(|_| given.is_bare_number() && bytes < *range.start()) {
            Some(unit) => format!("{message}; a number without a unit is bytes: \"{bytes}{unit}\" may be meant"),
            None => message,
        }
    })
}

fn size_or_none(given: &Given, range: &RangeInclusive<u64>) -> Result<u64, String> {
    if given.size()? == 0 { Ok(0) } else { size_within(given, range) }
}

fn to_usize(number: u64) -> Result<usize, String> {
    usize::try_from(number).map_err(|_| format!("{number} is more than this machine can count"))
}
