//! The environment: `LARDER_SECTION_KEY` for every setting and a few short names. An unknown `LARDER_` variable is an
//! error, since a misspelt one would otherwise be a setting that is silently not in force.

use std::ffi::OsString;
use std::net::IpAddr;

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
        if found.is_none() && value.to_str().is_some_and(|value| is_service_link(name, value, environment)) {
            continue;
        }
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

/// Whether a variable is one that Kubernetes and its like set for a service called `larder`, or `larder-something`, and
/// Docker for a container that was linked: `LARDER_PORT=tcp://10.0.0.9:8080`, `LARDER_SERVICE_HOST=10.0.0.9`. The name
/// alone is not enough: `LARDER_PORT=8080` is somebody's mistake.
fn is_service_link(name: &str, value: &str, environment: &[(OsString, OsString)]) -> bool {
    let is_number = |text: &str| text.parse::<u16>().is_ok();
    let is_protocol = |text: &str| matches!(text, "tcp" | "udp" | "sctp");
    let is_url = |text: &str| text.split_once("://").is_some_and(|(protocol, _)| is_protocol(protocol));
    let Some(rest) = name.strip_prefix("LARDER").filter(|rest| !rest.contains(|c: char| c.is_ascii_lowercase())) else {
        return false;
    };
    if rest.ends_with("_SERVICE_HOST") || rest.ends_with("_ADDR") && has_port(rest) {
        return value.parse::<IpAddr>().is_ok();
    }
    match rest.rsplit_once("_SERVICE_PORT") {
        Some((_, named)) if named.is_empty() || named.starts_with('_') => return is_number(value),
        _ => {}
    }
    let is_linked = |(name, value): &(OsString, OsString)| {
        let value = value.to_string_lossy();
        name == "LARDER_NAME" && value.starts_with('/') && value[1..].contains('/')
    };
    match rest {
        _ if rest.ends_with("_PORT") && has_port(rest) => is_number(value),
        _ if rest.ends_with("_PROTO") && has_port(rest) => is_protocol(value),
        _ if rest.ends_with("_PORT") || has_port(rest) => is_url(value),
        _ => (rest == "_NAME" || rest.starts_with("_ENV_")) && environment.iter().any(is_linked),
    }
}

/// Whether a name holds a port with its protocol, as `_PORT_8080_TCP` and `_PORT_8080_TCP_ADDR` do.
fn has_port(rest: &str) -> bool {
    let Some((_, behind)) = rest.split_once("_PORT_") else { return false };
    let mut parts = behind.split('_');
    let (port, protocol) = (parts.next().unwrap_or(""), parts.next().unwrap_or(""));
    port.parse::<u16>().is_ok()
        && matches!(protocol, "TCP" | "UDP" | "SCTP")
        && matches!(parts.next(), None | Some("ADDR" | "PORT" | "PROTO"))
        && parts.next().is_none()
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
    fn links_to_services_are_passed_over_and_mistakes_are_not() {
        for (name, value) in [
            ("LARDER_PORT", "tcp://10.0.0.9:8080"),
            ("LARDER_SERVICE_HOST", "10.0.0.9"),
            ("LARDER_SERVICE_HOST", "fd00::9"),
            ("LARDER_SERVICE_PORT", "8080"),
            ("LARDER_SERVICE_PORT_HTTP_API", "8080"),
            ("LARDER_PORT_8080_TCP", "tcp://[fd00::9]:8080"),
            ("LARDER_PORT_8080_TCP_ADDR", "10.0.0.9"),
            ("LARDER_PORT_8080_TCP_PORT", "8080"),
            ("LARDER_PORT_8080_TCP_PROTO", "tcp"),
            ("LARDER_PORT_53_UDP", "udp://10.0.0.9:53"),
            ("LARDER_CACHE_PORT", "tcp://10.0.0.9:80"),
            ("LARDER_MY_OWN_SERVICE_HOST", "10.0.0.9"),
            ("LARDER_SERVER_PORT_80_TCP_ADDR", "10.0.0.9"),
            ("LARDER_NAME", "/web/larder"),
        ] {
            let (given, errors) = read_pairs(&[(name, value)]);
            assert!(given.is_empty() && errors.is_empty(), "{name}={value}: {errors:?}");
        }
        let (_, errors) = read_pairs(&[("LARDER_NAME", "/web/larder"), ("LARDER_ENV_GOPATH", "/go")]);
        assert_eq!(errors, Vec::<String>::new());
        for (name, value) in [
            ("LARDER_PORT", "8080"),
            ("LARDER_PORT", "http://10.0.0.9:8080"),
            ("LARDER_SERVER_PORT", "8080"),
            ("LARDER_SERVICE_HOST", "localhost"),
            ("LARDER_SERVICE_PORT", "tcp://10.0.0.9"),
            ("LARDER_SERVICE_PORTS", "8080"),
            ("LARDER_PORT_8080", "tcp://10.0.0.9"),
            ("LARDER_PORT_8080_TCP_ADDRESS", "10.0.0.9"),
            ("LARDER_PORT_8080_TCP_ADDR", "8080"),
            ("LARDER_Port", "tcp://10.0.0.9:8080"),
            ("LARDER_ENV_GOPATH", "/go"),
            ("LARDER_NAME", "attic"),
            ("LARDER_ADDR", "10.0.0.9"),
        ] {
            assert_eq!(read_pairs(&[(name, value)]).1.len(), 1, "{name}={value}");
        }
        // A setting stays one, whatever its value looks like.
        let (given, errors) = read_pairs(&[("LARDER_LISTEN", "tcp://10.0.0.9:8080")]);
        assert_eq!((given.len(), errors.len()), (1, 0));
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
