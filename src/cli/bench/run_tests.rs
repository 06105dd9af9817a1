//! The runner against small servers of the test: stalls, errors, counts, knees.

use std::io::{Read, Write};
use std::net::TcpListener;

use super::super::plan::RequestPlan;
use super::super::template::Template;
use super::*;

/// Answers every request `200` after `wait`, which is given the number of the request; ends when the last client goes.
fn server(connections: usize, wait: impl Fn(u64) -> Duration + Send + Sync + Clone + 'static) -> Target {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let target = Target::new(&format!("http://{}", listener.local_addr().unwrap()), None).unwrap();
    let number = std::sync::Arc::new(AtomicU64::new(0));
    thread::spawn(move || {
        for _ in 0..connections {
            let Ok((mut stream, _)) = listener.accept() else { return };
            let (number, wait) = (number.clone(), wait.clone());
            thread::spawn(move || {
                let mut request = [0; 2048];
                while stream.read(&mut request).is_ok_and(|count| count > 0) {
                    thread::sleep(wait(number.fetch_add(1, Ordering::Relaxed)));
                    if stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").is_err() {
                        return;
                    }
                }
            });
        }
    });
    target
}

fn plan(connections: usize, loads: &[Load]) -> Plan {
    let request = RequestPlan {
        name: "get".to_owned(),
        weight: 1.0,
        method: "GET".to_owned(),
        path: Template::literal("/x"),
        headers: Vec::new(),
        body: None,
        statuses: Vec::new(),
        latency_max: None,
    };
    let phase = |load: &Load| Phase { name: "p".to_owned(), load: *load, only: vec![0], measured: true, spike: false };
    Plan {
        name: "test".to_owned(),
        requests: vec![request],
        phases: loads.iter().map(phase).collect(),
        think: None,
        requests_per_user: 1,
        timeout: Duration::from_secs(20),
        connections,
        targets: Targets::default(),
        data: None,
        cleanup: Vec::new(),
        seed: 1,
    }
}

fn run(plan: &Plan, target: &Target) -> RunResult {
    let stop = AtomicBool::new(false);
    Runner { plan, target, run: "r".to_owned(), stop: &stop, tell: &|_| {} }.run().unwrap()
}

const fn rate(per_second: f64, ms: u64) -> Load {
    Load::Rate { from: per_second, to: per_second, duration: Duration::from_millis(ms) }
}

#[test]
fn a_stall_shows_in_every_request_that_was_due_during_it() {
    // One connection, 100 a second for 2 s; request 50 stalls for a second. What was due in that second could only be
    // sent after it: a closed loop would see one slow request of 200, an open loop sees about 100 with half a second.
    let stall = |number| if number == 50 { Duration::from_secs(1) } else { Duration::ZERO };
    let open = run(&plan(1, &[rate(100.0, 2000)]), &server(1, stall));
    let total = open.phases[0].total();
    assert_eq!((total.count(), total.error_count()), (200, 0));
    assert!(total.quantile(0.75) >= Duration::from_millis(400), "{:?}", total.quantile(0.75));
    assert!(total.max() >= Duration::from_millis(990));
    assert!(total.late >= 90, "{}", total.late);

    let closed = Load::Connections { count: 1, duration: None, requests: Some(200) };
    let closed = run(&plan(1, &[closed]), &server(1, stall)).phases[0].total();
    assert!(closed.max() >= Duration::from_millis(990));
    assert_eq!(closed.late, 0);
}

#[test]
fn requests_that_nobody_could_send_are_counted() {
    let mut plan = plan(1, &[rate(50.0, 1000)]);
    plan.timeout = Duration::from_millis(300);
    // The first answer never comes in time; nor does any other.
    let total = run(&plan, &server(64, |_| Duration::from_secs(3600))).phases[0].total();
    assert_eq!(total.count(), 50);
    assert_eq!(total.error_count(), 50);
    assert!(total.errors["unsent"] > 0 && total.errors["timeout"] > 0, "{:?}", total.errors);
}

#[test]
fn a_count_of_requests_is_kept_exactly_by_many_connections() {
    let load = Load::Connections { count: 7, duration: None, requests: Some(1000) };
    let result = run(&plan(1, &[load]), &server(7, |_| Duration::ZERO));
    let total = result.phases[0].total();
    assert_eq!((total.count(), total.statuses[&200], total.body_bytes), (1000, 1000, 2000));
}

#[test]
fn users_at_a_rate_send_all_their_requests() {
    let mut plan = plan(4, &[rate(20.0, 1000), rate(40.0, 500)]);
    plan.requests_per_user = 3;
    plan.think = Some(super::super::plan::Think { least: Duration::from_millis(20), most: Duration::from_millis(40) });
    let result = run(&plan, &server(4, |_| Duration::ZERO));
    assert_eq!(result.phases.iter().map(|phase| phase.total().count()).collect::<Vec<_>>(), [60, 60]);
    assert_eq!(result.phases[0].total().error_count(), 0);
}

#[test]
fn a_stress_stops_at_the_first_rate_that_breaks_a_target() {
    // 25 answers of 40 ms each a second is all that one connection can have: 55 a second pile up.
    let steps = Load::Steps { from: 5.0, to: 1000.0, step: 50.0, hold: Duration::from_secs(2) };
    let mut plan = plan(1, &[steps]);
    plan.targets.p95 = Some(Duration::from_secs(1));
    plan.targets.p99 = None;
    let result = run(&plan, &server(64, |_| Duration::from_millis(40)));
    let rates: Vec<_> = result.phases.iter().map(|phase| phase.name.as_str()).collect();
    assert_eq!(rates, ["p 5/s", "p 55/s"]);
    assert_eq!((result.knee, result.knee_is_open), (Some(Some(5.0)), false));
}

#[test]
fn a_server_that_is_not_there_is_an_error_of_each_request() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let target = Target::new(&format!("http://{}", listener.local_addr().unwrap()), None).unwrap();
    drop(listener);
    let total = run(&plan(2, &[rate(50.0, 200)]), &target).phases[0].total();
    assert_eq!((total.count(), total.errors["connect"]), (10, 10));
}

#[test]
fn a_run_that_is_stopped_says_so() {
    let stop = AtomicBool::new(true);
    let plan = plan(1, &[rate(1.0, 3_600_000)]);
    let target = server(1, |_| Duration::ZERO);
    let result = Runner { plan: &plan, target: &target, run: String::new(), stop: &stop, tell: &|_| {} }.run().unwrap();
    assert!(result.interrupted && result.phases.is_empty());
}
