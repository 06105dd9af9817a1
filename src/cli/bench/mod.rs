//! `larder bench`: load on a larder, judged against targets; and the measuring of a card.
//!
//! A plan (`plan`, from `scenario` or `options`) is run (`run`, `worker`, `schedule`, `client`), the server is looked at
//! from beside (`server`), the outcome is judged (`verdict`) and shown (`report`). Not here: comparisons with other
//! servers, which are benches.

mod advice;
mod card;
mod client;
mod columns;
mod folder;
mod options;
mod plan;
mod random;
mod report;
mod run;
mod scenario;
mod schedule;
mod section;
mod server;
mod stats;
mod template;
mod verdict;
mod worker;

use std::io::Write;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, UNIX_EPOCH};

use super::client::{Address, Client};
use super::exit::{FAILED, Failure};
use super::output::{Output, wrote};
use super::parse::{Invocation, usage};
use super::unfinished::is_ignored;
use client::Target;
use plan::Plan;
use report::Report;
use run::Runner;
use server::Spawned;

/// Runs what was asked for. Exit 1 if a target was missed.
pub fn bench(invocation: &Invocation) -> Result<ExitCode, Failure> {
    if invocation.has("engine") && !invocation.has("spawn") {
        return Err(usage(invocation, "--engine goes with --spawn".to_owned()));
    }
    let below = Path::new(invocation.text("data")?.unwrap_or("."));
    if invocation.has("card") {
        let others =
            ["scenario", "rate", "connections", "duration", "requests", "path", "spawn", "target", "hdr", "url"];
        if let Some(option) = others.iter().find(|option| invocation.has(option)) {
            return Err(usage(invocation, format!("--{option} and --card cannot go together")));
        }
        return card::card(invocation, below);
    }
    let plan = options::plan(invocation)?;
    let stop = stop_on_signals()?;
    if !invocation.has("spawn") {
        return load(invocation, &plan, &Client::new(invocation)?, None, &stop);
    }
    if invocation.has("url") || invocation.has("token-file") {
        return Err(usage(invocation, "--spawn starts a server of its own: no --url, no --token-file".to_owned()));
    }
    let spawned = Spawned::start(below, invocation.text("engine")?.unwrap_or("tiny_http"))?;
    let client = Client::at(Address::Http(spawned.url.clone()), None);
    load(invocation, &plan, &client, Some(spawned.start), &stop)
}

fn load(
    invocation: &Invocation,
    plan: &Plan,
    client: &Client,
    start: Option<Duration>,
    stop: &AtomicBool,
) -> Result<ExitCode, Failure> {
    let Address::Http(url) = client.address() else {
        return Err(usage(invocation, format!("bench speaks TCP only, not {}", client.address())));
    };
    let target = Target::new(url, client.authorization().map(str::to_owned)).map_err(Failure::plain)?;
    // A server that is not there is told at once, not as a thousand errors.
    client.reachable()?;
    let since = UNIX_EPOCH.elapsed().unwrap_or_default();
    let run = format!("run-{}-{}", since.as_secs(), std::process::id());
    let runner = Runner { plan, target: &target, run, stop, tell: &|line| super::complain(line) };
    let (result, observed) = server::observe(client, || runner.run())?;
    runner.clean_up();
    let result = result?;
    let facts = verdict::ServerFacts { rss_bytes_max: observed.rss_bytes_max, start };
    let findings = verdict::judge(plan, &result, &facts);
    let report = Report { plan, url, result: &result, observed: &observed, start, findings: &findings };
    if let Some(file) = invocation.text("hdr")? {
        let mut total = stats::Stats::default();
        result.phases.iter().filter(|phase| phase.measured).for_each(|phase| total.add(&phase.total()));
        let mut output = Output::open(file)?;
        output.write_all(total.distribution().as_bytes()).map_err(wrote)?;
        output.finish()?;
    }
    match invocation.has("json") {
        true => super::say_json(&report.json())?,
        false => super::say(&report.text())?,
    }
    Ok(if report.passes() { ExitCode::SUCCESS } else { ExitCode::from(FAILED) })
}

/// The first signal ends the run early and in order: what was measured is shown, what was made is removed.
fn stop_on_signals() -> Result<Arc<AtomicBool>, Failure> {
    let stop = Arc::new(AtomicBool::new(false));
    let signals = [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM, signal_hook::consts::SIGHUP];
    for signal in signals.into_iter().filter(|signal| !is_ignored(*signal)) {
        let flagged = signal_hook::flag::register_conditional_default(signal, stop.clone())
            .and_then(|_| signal_hook::flag::register(signal, stop.clone()));
        flagged.map_err(|error| Failure::plain(format!("the signals cannot be caught: {error}")))?;
    }
    Ok(stop)
}
