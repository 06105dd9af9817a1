//! What is printed at the end: for people, or as one JSON document. No judgement here.

use std::time::Duration;

use serde_json::{Map, Value, json};

use super::plan::{Load, Plan};
use super::run::{PhaseResult, RunResult, describe};
use super::server::Observed;
use super::stats::Stats;
use super::verdict::{Finding, passes, show_share, show_time};

const QUANTILES: [(&str, f64); 5] = [("p50", 0.5), ("p90", 0.9), ("p95", 0.95), ("p99", 0.99), ("p99.9", 0.999)];

/// All there is to say of a run.
pub struct Report<'a> {
    /// What was to be done.
    pub plan: &'a Plan,
    /// Where.
    pub url: &'a str,
    /// What came of it.
    pub result: &'a RunResult,
    /// The server from beside.
    pub observed: &'a Observed,
    /// How soon the server answered after its start.
    pub start: Option<Duration>,
    /// The judgement.
    pub findings: &'a [Finding],
}

impl Report<'_> {
    /// By kind of request over the phases that are measured; over all if none is.
    fn kinds(&self) -> Vec<(&str, Stats)> {
        let any = self.result.phases.iter().any(|phase| phase.measured);
        let phases = || self.result.phases.iter().filter(move |phase| phase.measured || !any);
        let kinds = self.plan.requests.iter().enumerate().map(|(index, request)| {
            let mut sum = Stats::default();
            phases().filter_map(|phase| phase.kinds.get(index)).for_each(|stats| sum.add(stats));
            (request.name.as_str(), sum)
        });
        kinds.filter(|(_, stats)| stats.count() > 0).collect()
    }

    /// The text for people.
    pub fn text(&self) -> String {
        let mut text = format!("{} on {}\n\n", self.plan.name, self.url);
        let width = |names: &mut dyn Iterator<Item = usize>| names.max().unwrap_or(0).clamp(8, 40);
        let kinds = self.kinds();
        let column = width(
            &mut self
                .result
                .phases
                .iter()
                .map(|phase| phase.name.len())
                .chain(kinds.iter().map(|(name, _)| name.len())),
        );
        text.push_str(&format!("{:column$} {:>9} {:>9} {:>8}", "phase", "requests", "good/s", "errors"));
        for (name, _) in QUANTILES {
            text.push_str(&format!(" {name:>9}"));
        }
        text.push_str(&format!(" {:>9}\n", "max"));
        for phase in &self.result.phases {
            let total = phase.total();
            text.push_str(&row(&phase.name, column, Some(phase.good_per_second()), &total));
        }
        if kinds.len() > 1 {
            text.push_str(&format!("\n{:column$}\n", "request"));
            for (name, stats) in &kinds {
                text.push_str(&row(name, column, None, stats));
            }
        }
        text.push('\n');
        self.push_details(&mut text);
        self.push_server(&mut text);
        self.push_verdict(&mut text);
        text
    }

    fn push_details(&self, text: &mut String) {
        for phase in &self.result.phases {
            let total = phase.total();
            let mut parts = vec![describe(&phase.load)];
            parts.extend(total.statuses.iter().map(|(status, count)| format!("{status}: {count}")));
            parts.extend(total.errors.iter().map(|(name, count)| format!("{name} (error): {count}")));
            if total.reconnects > 0 {
                parts.push(format!("connections made again: {}", total.reconnects));
            }
            if !phase.measured {
                parts.push("not judged".to_owned());
            }
            text.push_str(&format!("{}: {}\n", phase.name, parts.join(", ")));
            if total.late * 100 > total.count() {
                text.push_str(&format!(
                    "  {} of {} requests were sent more than 10 ms late, since all connections (or this machine) were \
                     busy; that is in the latencies\n",
                    total.late,
                    total.count()
                ));
            }
        }
        if let Some(knee) = self.result.knee {
            let known = knee.map_or("below the first step".to_owned(), |rate| format!("{rate}/s"));
            let open = if self.result.knee_is_open { " or more: no step missed a target" } else { "" };
            text.push_str(&format!("knee: {known}{open}\n"));
        }
        if self.result.interrupted {
            text.push_str("interrupted: the figures are those of a part\n");
        }
    }

    fn push_server(&self, text: &mut String) {
        if let Some(note) = &self.observed.note {
            text.push_str(&format!("server: {note}\n"));
        }
        let (before, after) = (&self.observed.before, &self.observed.after);
        let mb = |bytes: Option<f64>| bytes.map_or("?".to_owned(), |bytes| format!("{:.1} MB", bytes / 1e6));
        if before.rss_bytes.is_some() {
            let most = mb(self.observed.rss_bytes_max);
            text.push_str(&format!(
                "server: rss {} before, {} after, {most} at most",
                mb(before.rss_bytes),
                mb(after.rss_bytes)
            ));
            if let (Some(from), Some(to)) = (before.cpu_seconds, after.cpu_seconds) {
                text.push_str(&format!("; cpu {:.2} s", to - from));
            }
            if let Some(ratio) = after.hit_ratio_since(before) {
                text.push_str(&format!("; {:.1} % of reads from the cache", ratio * 100.0));
            }
            if let (Some(from), Some(to)) = (before.written_bytes, after.written_bytes) {
                text.push_str(&format!("; {} written to the disk", mb(Some(to - from))));
            }
            text.push('\n');
        }
    }

    fn push_verdict(&self, text: &mut String) {
        text.push('\n');
        for finding in self.findings {
            let word = match finding.met {
                Some(true) => "ok  ",
                Some(false) => "MISS",
                None => "-   ",
            };
            text.push_str(&format!("{word} {:20} {:>12}  {}\n", finding.name, finding.target, finding.measured));
        }
        let verdict = if self.passes() { "all targets that were measured are met" } else { "a target was missed" };
        text.push_str(&format!("{verdict}\n"));
    }

    /// Whether the run is good: nothing missed, and run to its end.
    pub fn passes(&self) -> bool {
        passes(self.findings) && !self.result.interrupted
    }

    /// The document for programs.
    pub fn json(&self) -> Value {
        let findings = self.findings.iter().map(|finding| {
            json!({"name": finding.name, "target": finding.target, "measured": finding.measured, "met": finding.met})
        });
        let (before, after) = (&self.observed.before, &self.observed.after);
        let side = |figures: &super::server::Figures| {
            json!({
                "rss_bytes": figures.rss_bytes, "cpu_seconds": figures.cpu_seconds, "cache_hits": figures.hits,
                "cache_misses": figures.misses, "device_write_bytes": figures.written_bytes,
            })
        };
        let kinds = self.kinds();
        json!({
            "scenario": self.plan.name,
            "url": self.url,
            "phases": self.result.phases.iter().map(phase_json).collect::<Vec<_>>(),
            "requests": kinds.iter().map(|(name, stats)| {
                let mut object = stats_json(stats);
                object.insert("name".to_owned(), (*name).into());
                Value::Object(object)
            }).collect::<Vec<_>>(),
            "knee_per_second": self.result.knee,
            "knee_is_open": self.result.knee.map(|_| self.result.knee_is_open),
            "interrupted": self.result.interrupted,
            "server": {
                "start_ms": self.start.map(|start| start.as_secs_f64() * 1000.0),
                "before": side(before), "after": side(after), "rss_bytes_max": self.observed.rss_bytes_max,
                "cache_hit_ratio": after.hit_ratio_since(before), "note": self.observed.note,
            },
            "verdict": findings.collect::<Vec<_>>(),
            "passed": self.passes(),
        })
    }
}

fn row(name: &str, column: usize, rate: Option<f64>, stats: &Stats) -> String {
    let rate = rate.map_or(String::new(), |rate| format!("{rate:.1}"));
    let errors = show_share(stats.error_share());
    let mut text = format!("{name:column$} {:>9} {rate:>9} {errors:>8}", stats.count());
    for (_, share) in QUANTILES {
        text.push_str(&format!(" {:>9}", show_time(stats.quantile(share))));
    }
    text.push_str(&format!(" {:>9}\n", show_time(stats.max())));
    text
}

fn phase_json(phase: &PhaseResult) -> Value {
    let mut object = Map::new();
    object.insert("name".to_owned(), phase.name.as_str().into());
    object.insert("load".to_owned(), describe(&phase.load).into());
    object.insert("open_loop".to_owned(), matches!(phase.load, Load::Rate { .. }).into());
    object.insert("measured".to_owned(), phase.measured.into());
    object.insert("seconds".to_owned(), phase.seconds.into());
    object.insert("good_per_second".to_owned(), phase.good_per_second().into());
    object.extend(stats_json(&phase.total()));
    if let Some(recovery) = phase.recovery {
        object.insert("recovery_seconds".to_owned(), recovery.into());
    }
    Value::Object(object)
}

fn stats_json(stats: &Stats) -> Map<String, Value> {
    let ms = |time: Duration| time.as_secs_f64() * 1000.0;
    let mut latency = Map::new();
    for (name, share) in QUANTILES {
        latency.insert(name.to_owned(), ms(stats.quantile(share)).into());
    }
    latency.insert("max".to_owned(), ms(stats.max()).into());
    latency.insert("mean".to_owned(), ms(stats.mean()).into());
    let statuses: Map<String, Value> =
        stats.statuses.iter().map(|(status, count)| (status.to_string(), (*count).into())).collect();
    let errors: Map<String, Value> = stats.errors.iter().map(|(name, count)| (name.clone(), (*count).into())).collect();
    let mut object = Map::new();
    object.insert("requests".to_owned(), stats.count().into());
    object.insert("errors".to_owned(), errors.into());
    object.insert("error_share".to_owned(), stats.error_share().into());
    object.insert("statuses".to_owned(), statuses.into());
    object.insert("sent_late".to_owned(), stats.late.into());
    object.insert("reconnects".to_owned(), stats.reconnects.into());
    object.insert("body_bytes".to_owned(), stats.body_bytes.into());
    object.insert("latency_ms".to_owned(), latency.into());
    object
}
