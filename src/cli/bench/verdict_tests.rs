//! What is met, what is missed, and what is neither.

use super::super::client::Trouble;
use super::super::run::PhaseResult;
use super::super::stats::Ending;
use super::*;

fn plan() -> Plan {
    Plan {
        name: "test".to_owned(),
        requests: Vec::new(),
        phases: Vec::new(),
        think: None,
        requests_per_user: 1,
        timeout: Duration::from_secs(1),
        connections: 1,
        targets: Targets::default(),
        data: None,
        cleanup: Vec::new(),
        seed: 1,
    }
}

fn stats(latencies_ms: &[(u64, u64)], errors: u64) -> Stats {
    let mut stats = Stats::default();
    for (count, ms) in latencies_ms {
        for _ in 0..*count {
            stats.record(Ending::Right(200), Duration::from_millis(*ms));
        }
    }
    for _ in 0..errors {
        stats.record(Ending::Failed(Trouble::Closed), Duration::from_millis(1));
    }
    stats
}

fn phase(load: Load, seconds: f64, stats: Stats) -> PhaseResult {
    PhaseResult { name: "p".to_owned(), measured: true, load, seconds, kinds: vec![stats], recovery: None }
}

const CLOSED: Load = Load::Connections { count: 4, duration: None, requests: Some(1) };
const OPEN: Load = Load::Rate { from: 1.0, to: 1.0, duration: Duration::from_secs(1) };

fn met(findings: &[Finding], name: &str) -> Option<Option<bool>> {
    findings.iter().find(|finding| finding.name == name).map(|finding| finding.met)
}

#[test]
fn each_target_is_missed_on_its_own() {
    let all = Targets::default();
    for (stats, missed) in [
        (stats(&[(1000, 1)], 0), None),
        (stats(&[(985, 1), (15, 60)], 0), Some("p99")),
        (stats(&[(900, 1), (100, 120)], 0), Some("p95")),
        (stats(&[(999, 1)], 1), Some("errors")),
        (stats(&[(2000, 1)], 1), None),
    ] {
        let findings = of_requests(&stats, &all);
        let names: Vec<&str> = findings.iter().filter(|finding| finding.met == Some(false)).map(|f| f.name).collect();
        assert_eq!(names.first().copied(), missed, "{findings:?}");
        assert_eq!(passes(&findings), missed.is_none());
    }
}

#[test]
fn what_was_not_measured_is_neither_met_nor_missed() {
    let findings = judge(&plan(), &RunResult::default(), &ServerFacts::default());
    assert!(findings.iter().all(|finding| finding.met.is_none()), "{findings:?}");
    assert!(findings.iter().any(|finding| finding.measured.contains("--spawn")));
    assert!(passes(&findings));
    let facts = ServerFacts { rss_bytes_max: Some(2e8), start: Some(Duration::from_secs(2)) };
    let findings = judge(&plan(), &RunResult::default(), &facts);
    assert_eq!((met(&findings, "rss"), met(&findings, "start")), (Some(Some(false)), Some(Some(false))));
}

#[test]
fn throughput_is_judged_only_where_the_server_sets_the_pace() {
    let result = |load, seconds| RunResult {
        phases: vec![phase(load, seconds, stats(&[(1500, 1)], 0))],
        ..RunResult::default()
    };
    let judged = |plan: &Plan, load, seconds| {
        met(&judge(plan, &result(load, seconds), &ServerFacts::default()), "requests_per_second")
    };
    assert_eq!(judged(&plan(), CLOSED, 1.0), Some(Some(true)));
    assert_eq!(judged(&plan(), CLOSED, 2.0), Some(Some(false)));
    assert_eq!(judged(&plan(), OPEN, 2.0), None);
    let think = Some(super::super::plan::Think { least: Duration::ZERO, most: Duration::from_secs(1) });
    assert_eq!(judged(&Plan { think, ..plan() }, CLOSED, 2.0), None);
}

#[test]
fn phases_that_are_not_measured_do_not_count() {
    let mut slow = phase(OPEN, 1.0, stats(&[(100, 900)], 5));
    slow.measured = false;
    let fast = phase(OPEN, 1.0, stats(&[(100, 1)], 0));
    let result = RunResult { phases: vec![slow, fast], ..RunResult::default() };
    assert!(passes(&judge(&plan(), &result, &ServerFacts::default())));
}

#[test]
fn a_stress_is_judged_by_its_knee_and_a_spike_by_its_end() {
    for (knee, good) in [(None, false), (Some(900.0), false), (Some(1000.0), true)] {
        let result = RunResult { knee: Some(knee), ..RunResult::default() };
        assert_eq!(met(&judge(&plan(), &result, &ServerFacts::default()), "knee"), Some(Some(good)));
    }
    for (recovery, good) in [(Some(3), true), (None, false)] {
        let spike = PhaseResult { recovery: Some(recovery), ..phase(OPEN, 1.0, stats(&[(10, 1)], 0)) };
        let result = RunResult { phases: vec![spike], ..RunResult::default() };
        assert_eq!(met(&judge(&plan(), &result, &ServerFacts::default()), "recovery"), Some(Some(good)));
    }
}

#[test]
fn a_request_that_was_never_sent_is_a_miss() {
    let mut stats = stats(&[(1_000_000, 1)], 0);
    stats.record(Ending::Unsent, Duration::from_secs(9));
    let result = RunResult { phases: vec![phase(OPEN, 1.0, stats)], ..RunResult::default() };
    assert_eq!(met(&judge(&plan(), &result, &ServerFacts::default()), "rate kept"), Some(Some(false)));
}
