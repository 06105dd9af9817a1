//! The plan that the options describe, where there is no scenario file.

use std::time::Duration;

use super::plan::{CONNECTIONS_AT_A_RATE, CONNECTIONS_MAX, Load, Phase, Plan, RequestPlan, TIMEOUT, Targets};
use super::scenario::{filler_text, think};
use super::template::Template;
use crate::cli::exit::Failure;
use crate::cli::parse::{Invocation, usage};
use crate::config::units::{parse_duration, parse_size};

const CONNECTIONS: usize = 32;
const DURATION: Duration = Duration::from_secs(10);
const KEYS: u64 = 1000;
const VALUE_BYTES: u64 = 1024;
const VALUE_BYTES_MAX: u64 = 64 << 20;
/// Options that say what a scenario file says.
const SAID_BY_A_SCENARIO: [&str; 7] = ["rate", "connections", "path", "writes", "keys", "value-size", "think"];

/// The plan of an invocation: the scenario file, or the options; then the targets and the seed.
pub fn plan(invocation: &Invocation) -> Result<Plan, Failure> {
    let mut plan = match invocation.text("scenario")? {
        Some(file) => {
            if let Some(option) = SAID_BY_A_SCENARIO.iter().find(|option| invocation.has(option)) {
                return Err(usage(invocation, format!("--{option} and --scenario cannot go together")));
            }
            let mut plan = super::scenario::read(std::path::Path::new(file)).map_err(Failure::plain)?;
            let longest = read(invocation, "duration", parse_duration)?;
            plan.shorten(longest, read(invocation, "requests", whole(1, u64::MAX))?);
            plan
        }
        None => from_options(invocation)?,
    };
    for target in invocation.texts("target")? {
        let pair = target.split_once('=').ok_or(format!("`{target}` is not NAME=VALUE"));
        let set = pair.and_then(|(name, value)| plan.targets.set(name, value));
        set.map_err(|message| usage(invocation, format!("--target {target}: {message}")))?;
    }
    if let Some(seed) = read(invocation, "seed", whole(0, u64::MAX))? {
        plan.seed = seed;
    }
    Ok(plan)
}

fn from_options(invocation: &Invocation) -> Result<Plan, Failure> {
    let rate = read(invocation, "rate", |text| match text.parse::<f64>() {
        Ok(rate) if rate.is_finite() && rate > 0.0 => Ok(rate),
        _ => Err(format!("expected a number greater than 0, not `{text}`")),
    })?;
    let connections = read(invocation, "connections", whole(1, CONNECTIONS_MAX as u64))?.map(|count| count as usize);
    let duration = read(invocation, "duration", parse_duration)?;
    let requests = read(invocation, "requests", whole(1, u64::MAX))?;
    let load = match (rate, requests) {
        (Some(_), Some(_)) => return Err(usage(invocation, "--requests goes without --rate".to_owned())),
        (Some(rate), None) => Load::Rate { from: rate, to: rate, duration: duration.unwrap_or(DURATION) },
        (None, requests) => Load::Connections {
            count: connections.unwrap_or(CONNECTIONS),
            duration: duration.or(requests.is_none().then_some(DURATION)),
            requests,
        },
    };
    let mut plan = match invocation.text("path")? {
        Some(path) => single_path(invocation, path)?,
        None => own_keys(invocation)?,
    };
    let only = (0..plan.requests.len()).filter(|kind| plan.requests[*kind].name != "fill").collect();
    plan.phases.push(Phase { name: "load".to_owned(), load, only, measured: true, spike: false });
    plan.connections = connections.unwrap_or(CONNECTIONS_AT_A_RATE);
    plan.think = read(invocation, "think", think)?;
    Ok(plan)
}

fn empty(name: &str) -> Plan {
    Plan {
        name: name.to_owned(),
        requests: Vec::new(),
        phases: Vec::new(),
        think: None,
        requests_per_user: 1,
        timeout: TIMEOUT,
        connections: CONNECTIONS_AT_A_RATE,
        targets: Targets::default(),
        data: None,
        cleanup: Vec::new(),
        seed: 1,
    }
}

fn request(name: &str, method: &str, path: Template, weight: f64, body: Option<Template>) -> RequestPlan {
    let headers = match body {
        Some(_) => vec![("Content-Type".to_owned(), Template::literal("text/csv"))],
        None => Vec::new(),
    };
    let (name, method) = (name.to_owned(), method.to_owned());
    RequestPlan { name, weight, method, path, headers, body, statuses: Vec::new(), latency_max: None }
}

fn single_path(invocation: &Invocation, path: &str) -> Result<Plan, Failure> {
    if let Some(option) = ["writes", "keys", "value-size"].iter().find(|option| invocation.has(option)) {
        return Err(usage(invocation, format!("--{option} and --path cannot go together")));
    }
    if !path.starts_with('/') || path.contains(|c: char| c.is_whitespace() || c.is_control()) {
        return Err(usage(invocation, format!("--path is a path such as /health, not `{path}`")));
    }
    let template = Template::parse(path, None).map_err(|message| usage(invocation, format!("--path: {message}")))?;
    let mut plan = empty(&format!("GET {path}"));
    plan.requests.push(request("get", "GET", template, 1.0, None));
    Ok(plan)
}

/// Reads and writes of keys that are made before and removed after.
fn own_keys(invocation: &Invocation) -> Result<Plan, Failure> {
    let writes = read(invocation, "writes", whole(0, 100))?.unwrap_or(30);
    let keys = read(invocation, "keys", whole(1, 100_000_000))?.unwrap_or(KEYS);
    let size = read(invocation, "value-size", |text| match parse_size(text)? {
        bytes if bytes <= VALUE_BYTES_MAX => Ok(bytes),
        _ => Err("is more than 64MiB".to_owned()),
    })?;
    let body = Template::literal(&filler_text(size.unwrap_or(VALUE_BYTES) as usize));
    let path = |text: &str| Template::parse(text, None).map_err(Failure::plain);
    let one = format!("/api/v1/kv/larder-bench/{{run}}/k{{random:{keys}}}");
    let mut plan = empty(&format!("{} % reads, {writes} % writes", 100 - writes));
    let fill = path("/api/v1/kv/larder-bench/{run}/k{n}?durability=relaxed")?;
    plan.requests.push(request("fill", "PUT", fill, 1.0, Some(body.clone())));
    if writes < 100 {
        plan.requests.push(request("read", "GET", path(&one)?, (100 - writes) as f64, None));
    }
    if writes > 0 {
        plan.requests.push(request("write", "PUT", path(&one)?, writes as f64, Some(body)));
    }
    let load = Load::Connections { count: 8, duration: None, requests: Some(keys) };
    plan.phases.push(Phase { name: "fill".to_owned(), load, only: vec![0], measured: false, spike: false });
    plan.cleanup.push(path("/api/v1/kv/larder-bench/{run}")?);
    Ok(plan)
}

fn whole(least: u64, most: u64) -> impl Fn(&str) -> Result<u64, String> {
    move |text| match text.parse() {
        Ok(number) if (least..=most).contains(&number) => Ok(number),
        _ => Err(format!("expected a whole number from {least} to {most}, not `{text}`")),
    }
}

fn read<T>(
    invocation: &Invocation,
    name: &str,
    read: impl Fn(&str) -> Result<T, String>,
) -> Result<Option<T>, Failure> {
    let read = invocation.text(name)?.map(read).transpose();
    read.map_err(|message| usage(invocation, format!("--{name}: {message}")))
}
