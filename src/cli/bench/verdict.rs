//! The judgement: each target beside what was measured. A target that could not be measured is neither met nor missed,
//! and says why.

use std::time::Duration;

use super::plan::{Load, Plan, Targets};
use super::run::RunResult;
use super::stats::Stats;

/// One target.
#[derive(Clone, Debug, PartialEq)]
pub struct Finding {
    /// What is judged.
    pub name: &'static str,
    /// What it should be.
    pub target: String,
    /// What it is, or why that is not known.
    pub measured: String,
    /// `None`: could not be measured.
    pub met: Option<bool>,
}

impl Finding {
    fn new(name: &'static str, target: String, measured: String, met: bool) -> Finding {
        Finding { name, target, measured, met: Some(met) }
    }

    fn unknown(name: &'static str, target: String, why: &str) -> Finding {
        Finding { name, target, measured: why.to_owned(), met: None }
    }
}

/// What is known of the server beside its answers.
#[derive(Clone, Copy, Debug, Default)]
pub struct ServerFacts {
    /// The most resident memory that was seen.
    pub rss_bytes_max: Option<f64>,
    /// From the start of the process to its first answer.
    pub start: Option<Duration>,
}

/// Whether nothing was missed.
pub fn passes(findings: &[Finding]) -> bool {
    findings.iter().all(|finding| finding.met != Some(false))
}

/// Judges latencies and errors.
pub fn of_requests(stats: &Stats, targets: &Targets) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (name, target, share) in [("p95", targets.p95, 0.95), ("p99", targets.p99, 0.99)] {
        let Some(target) = target else { continue };
        let shown = format!("< {}", show_time(target));
        if stats.count() == 0 {
            findings.push(Finding::unknown(name, shown, "no request was sent"));
            continue;
        }
        let measured = stats.quantile(share);
        findings.push(Finding::new(name, shown, show_time(measured), measured < target));
    }
    if let Some(target) = targets.error_share {
        let shown = format!("< {}", show_share(target));
        let share = stats.error_share();
        // With a target of nothing, nothing is met by nothing.
        let met = share < target || share == 0.0;
        findings.push(match stats.count() {
            0 => Finding::unknown("errors", shown, "no request was sent"),
            _ => Finding::new("errors", shown, show_share(share), met),
        });
    }
    findings
}

/// Judges a run. Requests of phases that are not measured do not count.
pub fn judge(plan: &Plan, result: &RunResult, facts: &ServerFacts) -> Vec<Finding> {
    let targets = &plan.targets;
    let mut total = Stats::default();
    for phase in result.phases.iter().filter(|phase| phase.measured) {
        total.add(&phase.total());
    }
    let stressed_only = result.knee.is_some() && total.count() == 0;
    let mut findings = if stressed_only { Vec::new() } else { of_requests(&total, targets) };
    findings.extend(throughput(plan, result));
    if let Some(target) = targets.rss_bytes {
        let shown = format!("< {:.0} MB", target as f64 / 1e6);
        findings.push(match facts.rss_bytes_max {
            Some(rss) => Finding::new("rss", shown, format!("{:.1} MB", rss / 1e6), rss < target as f64),
            None => Finding::unknown("rss", shown, "the server's /metrics could not be read"),
        });
    }
    if let Some(target) = targets.start {
        let shown = format!("< {}", show_time(target));
        findings.push(match facts.start {
            Some(start) => Finding::new("start", shown, show_time(start), start < target),
            None => Finding::unknown("start", shown, "the server was running already; --spawn measures it"),
        });
    }
    findings
}

/// Requests a second mean something where the server sets the pace (closed loops without pauses, the knee of a
/// stress). At a rate the generator sets it, and what counts is that the rate was kept.
fn throughput(plan: &Plan, result: &RunResult) -> Vec<Finding> {
    let mut findings = Vec::new();
    if let Some(target) = plan.targets.requests_per_second {
        let shown = format!("≥ {target:.0}");
        if let Some(knee) = result.knee {
            let measured = knee.map_or("the first step missed".to_owned(), |rate| format!("{rate:.0}"));
            findings.push(Finding::new("knee", shown.clone(), measured, knee.is_some_and(|rate| rate >= target)));
        }
        let is_free = |load: &Load| matches!(load, Load::Connections { .. }) && plan.think.is_none();
        let free = result.phases.iter().filter(|phase| phase.measured && is_free(&phase.load));
        let slowest = free.map(|phase| phase.good_per_second()).min_by(f64::total_cmp);
        findings.extend(
            slowest.map(|rate| Finding::new("requests_per_second", shown, format!("{rate:.0}"), rate >= target)),
        );
    }
    let late =
        result.phases.iter().filter(|phase| phase.measured).map(|phase| phase.total().errors.get("unsent").copied());
    let unsent: u64 = late.flatten().sum();
    if unsent > 0 {
        findings.push(Finding::new("rate kept", "all sent".to_owned(), format!("{unsent} never sent"), false));
    }
    for phase in &result.phases {
        if let Some(recovery) = phase.recovery {
            let measured = recovery.map_or("not by the end".to_owned(), |seconds| format!("{seconds} s"));
            let target = "in target again by the end".to_owned();
            findings.push(Finding::new("recovery", target, measured, recovery.is_some()));
        }
    }
    findings
}

/// A time with three digits.
pub fn show_time(time: Duration) -> String {
    let ms = time.as_secs_f64() * 1000.0;
    match ms {
        ms if ms >= 10_000.0 => format!("{:.1} s", ms / 1000.0),
        ms if ms >= 100.0 => format!("{ms:.0} ms"),
        ms if ms >= 10.0 => format!("{ms:.1} ms"),
        ms => format!("{ms:.2} ms"),
    }
}

/// A share in per cent.
pub fn show_share(share: f64) -> String {
    format!("{:.3} %", share * 100.0)
}

#[cfg(test)]
#[path = "verdict_tests.rs"]
mod tests;
