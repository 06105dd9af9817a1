//! The environment: `LARDER_SECTION_KEY` for every setting and a few short names. An unknown `LARDER_` variable is an
//! error, since a misspelt one would otherwise be a setting that is silently not in force.

use std::ffi::OsString;

use super::error::{ConfigError, Source};
use super::raw::Given;
use super::settings::SETTINGS;
use super::suggest;

/// Names the configuration file.
pub const CONFIG: &str = "LARDER_CONFIG";

/// Variables of the client commands and of the build, which are no settings.
const OTHERS: &[&str] = &[CONFIG, "LARDER_URL", "LARDER_TOKEN", "LARDER_TOKEN_FILE", "LARDER_COMMIT"];

/// Reads the settings of an environment.
pub fn read(environment: &[(OsString, OsString)], errors: &mut Vec<ConfigError>) -> Vec<(usize, Given, Source)> {
    let mut given: Vec<(usize, Given, Source)> = Vec::new();
    for (name, value) in environment {
        let Some(name) = name.to_str().filter(|name| name.starts_with("LARDER_") && !OTHERS.contains(name)) else {
            continue;
        };
        let source = Source::Environment(name.to_owned());
        let found = SETTINGS.iter().position(|setting| setting.short == Some(name) || setting.variable() == name);
        let (Some(index), Some(value)) = (found, value.to_str()) else {
            errors.push(ConfigError::at(
                &source,
                if found.is_some() { "is not UTF-8".to_owned() } else { unknown(name) },
            ));
            continue;
        };
        if value.is_empty() {
            errors.push(ConfigError::at(&source, "is set but empty: unset it, or give it a value"));
            continue;
        }
        if let Some((_, Given::Words(other), first)) = given.iter().find(|(at, ..)| *at == index)
            && other != value
        {
            errors.push(ConfigError::at(&source, format!("contradicts {first}: they are the same setting")));
            continue;
        }
        given.push((index, Given::Words(value.to_owned()), source));
    }
    given
}

fn unknown(name: &str) -> String {
    for (prefix, table) in [("LARDER_CACHE_CONTROL", "cache_control"), ("LARDER_UNSANDBOXED", "unsandboxed")] {
        if name.starts_with(prefix) {
            return format!("[[{table}]] stands in the configuration file only");
        }
    }
    let long: Vec<String> = SETTINGS.iter().map(|setting| setting.variable()).collect();
    let short = SETTINGS.iter().filter_map(|setting| setting.short);
    let names = long.iter().map(String::as_str).chain(short).chain(OTHERS.iter().copied());
    // The prefix is the same everywhere: only what follows it tells names apart.
    let rest = name.trim_start_matches("LARDER_");
    let near = suggest::nearest(rest, names.map(|name| name.trim_start_matches("LARDER_")));
    let hint = near.map_or(String::new(), |near| format!("; did you mean `LARDER_{near}`?"));
    format!("is not a setting of larder{hint}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_pairs(pairs: &[(&str, &str)]) -> (Vec<(usize, Given, Source)>, Vec<String>) {
        let pairs: Vec<_> = pairs.iter().map(|(name, value)| (OsString::from(name), OsString::from(value))).collect();
        let mut errors = Vec::new();
        let given = read(&pairs, &mut errors);
        (given, errors.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn long_and_short_names_are_the_same_setting() {
        let (given, errors) = read_pairs(&[("LARDER_DATA_DIR", "/a"), ("LARDER_STORE_DIR", "/a"), ("HOME", "/root")]);
        assert_eq!(errors, Vec::<String>::new());
        assert!(given.iter().all(|(index, ..)| SETTINGS[*index].name() == "store.dir"));
        let (_, errors) = read_pairs(&[("LARDER_DATA_DIR", "/a"), ("LARDER_STORE_DIR", "/b")]);
        assert_eq!(errors.len(), 1);
    }

    #[test]
    fn a_misspelt_variable_is_refused() {
        let (_, errors) = read_pairs(&[("LARDER_LISTN", "x")]);
        assert_eq!(errors, ["environment LARDER_LISTN: is not a setting of larder; did you mean `LARDER_LISTEN`?"]);
        let (_, errors) = read_pairs(&[("LARDER_SERVER_WORKER", "x")]);
        assert_eq!(errors.len(), 1);
        assert!(errors[0].contains("LARDER_SERVER_WORKERS"), "{errors:?}");
    }

    #[test]
    fn the_variables_of_the_client_are_let_through() {
        let names = ["LARDER_URL", "LARDER_TOKEN", "LARDER_TOKEN_FILE", "LARDER_CONFIG"];
        let (given, errors) = read_pairs(&names.map(|name| (name, "x")));
        assert!(given.is_empty() && errors.is_empty(), "{errors:?}");
    }

    #[test]
    fn every_setting_has_a_variable_of_its_own() {
        let mut names: Vec<String> = SETTINGS.iter().map(|setting| setting.variable()).collect();
        names.extend(OTHERS.iter().map(|&name| name.to_owned()));
        names.sort();
        let all = names.len();
        names.dedup();
        assert_eq!(names.len(), all);
    }

    #[test]
    fn empty_variables_are_refused() {
        assert_eq!(read_pairs(&[("LARDER_LISTEN", "")]).1.len(), 1);
    }
}
