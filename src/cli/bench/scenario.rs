//! The scenario file: from TOML to a plan. Everything that is wrong is told at once, each with its line.

use std::path::Path;
use std::time::Duration;

use toml::de::{DeTable, DeValue};

use super::columns::Columns;
use super::plan::{CONNECTIONS_AT_A_RATE, CONNECTIONS_MAX, Load, Phase, Plan, RequestPlan, TIMEOUT, Targets, Think};
use super::section::{Reader, Section};
use super::template::Template;

const TOP: &[&str] = &[
    "name",
    "think",
    "requests_per_user",
    "timeout",
    "connections",
    "seed",
    "cleanup",
    "targets",
    "data",
    "request",
    "phase",
];
const REQUEST: &[&str] = &["name", "weight", "method", "path", "headers", "body", "body_bytes", "status", "latency"];
const PHASE: &[&str] =
    &["name", "duration", "rate", "from", "to", "step", "hold", "connections", "requests", "only", "measured", "spike"];
const BODY_BYTES_MAX: u64 = 64 << 20;

/// Reads a file. The error has a line for each thing that is wrong.
pub fn read(path: &Path) -> Result<Plan, String> {
    let text = std::fs::read_to_string(path)
        .map_err(|error| format!("cannot read the scenario {}: {error}", path.display()))?;
    parse(path, &text)
}

/// Reads the text of a file; `path` is for messages and for where the data file is.
pub fn parse(path: &Path, text: &str) -> Result<Plan, String> {
    let reader = Reader::new(path, text);
    let plan = match DeTable::parse(text) {
        Ok(root) => plan(&Section::new(&reader, "", 0, root.get_ref()), path),
        Err(error) => {
            let at = error.span().map_or(0, |span| span.start);
            reader.error(at, error.message().trim().replace('\n', ", "));
            None
        }
    };
    match (reader.finish(), plan) {
        (errors, Some(plan)) if errors.is_empty() => Ok(plan),
        (errors, _) => Err(errors.join("\n")),
    }
}

fn plan(root: &Section<'_>, path: &Path) -> Option<Plan> {
    root.only_knows(TOP);
    let data = root.table("data").and_then(|data| columns(&data, path));
    let requests: Vec<RequestPlan> =
        root.tables("request").iter().filter_map(|section| request(section, data.as_ref())).collect();
    if !root.has("request") {
        root.error("a scenario needs at least one [[request]]");
    }
    let phases: Vec<Phase> = root.tables("phase").iter().filter_map(|section| phase(section, &requests)).collect();
    if !root.has("phase") {
        root.error("a scenario needs at least one [[phase]]");
    }
    for (index, spike) in phases.iter().enumerate().filter(|(_, phase)| phase.spike) {
        if !matches!(phases.get(index + 1).map(|next| next.load), Some(Load::Rate { .. })) {
            root.error(&format!("after the spike `{}` a phase with a `rate` is needed, to recover in", spike.name));
        }
    }
    let name = path.file_stem().map_or_else(String::new, |stem| stem.to_string_lossy().into_owned());
    let cleanup = root.read("cleanup", |given| given.list("/api/v1/kv/bench/a")).unwrap_or_default();
    let cleanup = cleanup.iter().filter_map(|path| root.told("cleanup", Template::parse(path, None))).collect();
    Some(Plan {
        name: root.text("name").unwrap_or(name),
        think: root.read("think", |given| think(given.text("100ms")?)),
        requests_per_user: root.whole("requests_per_user", 1, 10_000).unwrap_or(1) as u32,
        timeout: root.duration("timeout").unwrap_or(TIMEOUT),
        connections: root.whole("connections", 1, CONNECTIONS_MAX as u64).map_or(CONNECTIONS_AT_A_RATE, |n| n as usize),
        seed: root.whole("seed", 0, i64::MAX as u64).unwrap_or(1),
        targets: root.table("targets").map(|section| targets(&section)).unwrap_or_default(),
        requests,
        phases,
        data,
        cleanup,
    })
}

fn targets(section: &Section<'_>) -> Targets {
    let mut targets = Targets::default();
    for name in section.names() {
        if let Some(value) = section.words(&name) {
            section.told(&name, targets.set(&name, &value));
        }
    }
    targets
}

fn columns(section: &Section<'_>, scenario: &Path) -> Option<Columns> {
    section.only_knows(&["file", "order"]);
    let at_random = section.one_of("order", &["sequential", "random"]).is_some_and(|order| order == "random");
    let Some(file) = section.text("file") else {
        section.error("[data] needs `file`");
        return None;
    };
    let path = scenario.parent().unwrap_or(Path::new("")).join(&file);
    let text = std::fs::read_to_string(&path).map_err(|error| format!("cannot read {}: {error}", path.display()));
    let text = section.told("file", text)?;
    section.told("file", Columns::parse(&text, at_random).map_err(|error| format!("{}: {error}", path.display())))
}

fn request(section: &Section<'_>, data: Option<&Columns>) -> Option<RequestPlan> {
    section.only_knows(REQUEST);
    let template = |name: &str| {
        let text = section.text(name)?;
        section.told(name, Template::parse(&text, data))
    };
    let method = section.text("method").unwrap_or_else(|| "GET".to_owned());
    if !method.bytes().all(|byte| byte.is_ascii_uppercase()) {
        section.error_at("method", "a method is capital letters, such as GET");
    }
    let shown = section.text("path");
    match &shown {
        None => section.error("a [[request]] needs `path`"),
        Some(path) if !path.starts_with('/') => section.error_at("path", "a path begins with /"),
        Some(path) if path.contains(|c: char| c.is_whitespace() || c.is_control()) => {
            section.error_at("path", "a path has no blanks; write them as %20");
        }
        Some(_) => {}
    }
    if section.has("body") && section.has("body_bytes") {
        section.error_at("body_bytes", "a request has either `body` or `body_bytes`");
    }
    let filler = section.read("body_bytes", |given| match given.size()? {
        bytes if bytes <= BODY_BYTES_MAX => Ok(bytes as usize),
        _ => Err("is more than 64 MiB".to_owned()),
    });
    let path = template("path")?;
    Some(RequestPlan {
        name: section.text("name").unwrap_or_else(|| format!("{method} {}", shown.unwrap_or_default())),
        weight: section.number("weight").unwrap_or(1.0),
        path,
        headers: headers(section, data),
        body: template("body").or_else(|| filler.map(|bytes| Template::literal(&filler_text(bytes)))),
        statuses: statuses(section),
        latency_max: section.duration("latency"),
        method,
    })
}

/// A body of this size that compresses about as well as readings do: not at all would flatter nobody, and neither
/// would one letter.
pub fn filler_text(bytes: usize) -> String {
    let mut random = super::random::Random::new(bytes as u64);
    let mut text = String::with_capacity(bytes + 20);
    while text.len() < bytes {
        text.push_str(&format!("{:05},", random.below(100_000)));
    }
    text.truncate(bytes);
    text
}

fn headers(section: &Section<'_>, data: Option<&Columns>) -> Vec<(String, Template)> {
    let Some(fields) = section.table("headers") else { return Vec::new() };
    let read = |name: String| {
        let is_token = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte));
        let value = fields.text(&name)?;
        if !is_token || value.contains(char::is_control) {
            fields.error_at(&name, "is no header field");
        }
        if ["host", "content-length", "transfer-encoding", "authorization"]
            .contains(&name.to_ascii_lowercase().as_str())
        {
            fields.error_at(&name, "is set by larder bench itself (the token: LARDER_TOKEN or --token-file)");
        }
        fields.told(&name, Template::parse(&value, data)).map(|template| (name.clone(), template))
    };
    fields.names().into_iter().filter_map(read).collect()
}

/// `status = 200` or `status = [200, 404]`.
fn statuses(section: &Section<'_>) -> Vec<u16> {
    let Some(value) = section.value("status") else { return Vec::new() };
    let items: Vec<&DeValue<'_>> = match value {
        DeValue::Array(items) => items.iter().map(|item| item.get_ref()).collect(),
        single => vec![single],
    };
    let number = |item: &DeValue<'_>| match item {
        DeValue::Integer(integer) => integer.as_str().parse::<u16>().ok().filter(|status| (200..600).contains(status)),
        _ => None,
    };
    let read: Option<Vec<u16>> = items.into_iter().map(number).collect();
    if read.is_none() {
        section.error_at("status", "expected a status or a list of them, such as [200, 404]");
    }
    read.unwrap_or_default()
}

fn phase(section: &Section<'_>, requests: &[RequestPlan]) -> Option<Phase> {
    section.only_knows(PHASE);
    let load = load(section)?;
    let is_rate = matches!(load, Load::Rate { .. });
    let spike = section.switch("spike").unwrap_or(false);
    if spike && !is_rate {
        section.error_at("spike", "a spike is a phase with a `rate`");
    }
    Some(Phase {
        name: section.text("name").unwrap_or_else(|| "phase".to_owned()),
        load,
        only: chosen(section, requests),
        measured: section.switch("measured").unwrap_or(!spike && !matches!(load, Load::Steps { .. })),
        spike,
    })
}

fn chosen(section: &Section<'_>, requests: &[RequestPlan]) -> Vec<usize> {
    let Some(names) = section.read("only", |given| given.list("name")) else { return (0..requests.len()).collect() };
    let find = |name: &String| {
        let found = requests.iter().position(|request| request.name == *name);
        if found.is_none() {
            let hint = crate::config::suggest::hint(name, requests.iter().map(|request| request.name.as_str()));
            section.error_at("only", &format!("there is no request `{name}`{hint}"));
        }
        found
    };
    let chosen: Vec<usize> = names.iter().filter_map(find).collect();
    if names.is_empty() {
        section.error_at("only", "is empty");
    }
    chosen
}

/// The load of a phase: exactly one of `rate`, `from` and `to` (with `step` and `hold`: a stress), `connections`.
fn load(section: &Section<'_>) -> Option<Load> {
    let ways = ["rate", "from", "connections"].into_iter().filter(|name| section.has(name)).count();
    if ways != 1 {
        section.error("a [[phase]] has exactly one of `rate`, `from` (with `to`) and `connections`");
        return None;
    }
    let needs = |names: &[&str], others: &[&str]| {
        for name in names.iter().filter(|name| !section.has(name)) {
            section.error(&format!("this [[phase]] needs `{name}`"));
        }
        let loads = ["duration", "to", "step", "hold", "requests"];
        for name in loads.iter().filter(|name| section.has(name) && !names.contains(name) && !others.contains(name)) {
            section.error_at(name, "means nothing in this phase");
        }
    };
    if section.has("connections") {
        needs(&[], &["duration", "requests"]);
        let (duration, requests) = (section.duration("duration"), section.whole("requests", 1, u64::MAX));
        if !section.has("duration") && !section.has("requests") {
            section.error("a [[phase]] with `connections` needs `duration` or `requests`");
        }
        let count = section.whole("connections", 1, CONNECTIONS_MAX as u64)? as usize;
        return Some(Load::Connections { count, duration, requests });
    }
    if section.has("rate") {
        needs(&["duration"], &[]);
        let rate = section.number("rate")?;
        return Some(Load::Rate { from: rate, to: rate, duration: section.duration("duration")? });
    }
    if section.has("step") {
        needs(&["to", "step", "hold"], &[]);
        let (from, to) = (section.number("from")?, section.number("to")?);
        return Some(Load::Steps { from, to, step: section.number("step")?, hold: section.duration("hold")? });
    }
    needs(&["to", "duration"], &[]);
    let (from, to) = (section.number("from")?, section.number("to")?);
    Some(Load::Rate { from, to, duration: section.duration("duration")? })
}

/// A pause as people write it: `1s` or `500ms..2s`.
pub fn think(text: &str) -> Result<Think, String> {
    let parse = crate::config::units::parse_duration;
    let (least, most) = text.split_once("..").unwrap_or((text, text));
    let think = Think { least: parse(least.trim())?, most: parse(most.trim())? };
    if think.least > think.most || think.most > Duration::from_secs(3600) {
        return Err(format!("`{text}` is no range from less to more, up to an hour"));
    }
    Ok(think)
}

#[cfg(test)]
#[path = "scenario_tests.rs"]
mod tests;
