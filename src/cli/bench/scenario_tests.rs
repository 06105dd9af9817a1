//! Scenarios that are right, and the lines of those that are not.

use super::*;

fn errors(text: &str) -> String {
    parse(Path::new("s.toml"), text).expect_err("this scenario is wrong")
}

const REST: &str = "[[request]]\npath = \"/\"\n[[phase]]\nrate = 1\nduration = \"1s\"\n";

#[test]
fn a_whole_scenario_is_read() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("keys.csv"), "key,size\na,1\n").unwrap();
    let text = r#"
name = "all"
think = "100ms..1s"
requests_per_user = 2
timeout = "3s"
connections = 8
cleanup = ["/api/v1/kv/bench/{run}"]
[targets]
p95 = "20ms"
errors = "1%"
requests_per_second = 50
[data]
file = "keys.csv"
order = "random"
[[request]]
name = "read"
weight = 70
path = "/api/v1/kv/a/b/{key}"
status = [200, 404]
latency = "250ms"
[[request]]
name = "write"
weight = 30
method = "PUT"
path = "/api/v1/kv/a/b/{n}?durability=relaxed"
headers = { Content-Type = "application/json", X-Size = "{size}" }
body = '{"n": {n}}'
status = 201
[[phase]]
connections = 10
requests = 100
only = ["write"]
measured = false
[[phase]]
name = "ramp"
from = 10
to = 20.5
duration = "5s"
spike = true
[[phase]]
rate = 100
duration = "1s"
[[phase]]
name = "stress"
from = 10
to = 100
step = 10
hold = "2s"
"#;
    let plan = parse(&folder.path().join("s.toml"), text).unwrap();
    assert_eq!((plan.name.as_str(), plan.requests_per_user, plan.connections), ("all", 2, 8));
    assert_eq!(plan.think, Some(Think { least: Duration::from_millis(100), most: Duration::from_secs(1) }));
    assert_eq!((plan.targets.p95, plan.targets.requests_per_second), (Some(Duration::from_millis(20)), Some(50.0)));
    assert_eq!(plan.targets.p99, Targets::default().p99);
    assert_eq!((plan.requests[0].statuses.as_slice(), plan.requests[1].headers.len()), (&[200, 404][..], 2));
    assert!(plan.requests[0].accepts(404) && !plan.requests[0].accepts(204));
    let second = Duration::from_secs(1);
    assert_eq!(plan.phases[0].load, Load::Connections { count: 10, duration: None, requests: Some(100) });
    assert_eq!(plan.phases[1].load, Load::Rate { from: 10.0, to: 20.5, duration: 5 * second });
    assert_eq!(plan.phases[3].load, Load::Steps { from: 10.0, to: 100.0, step: 10.0, hold: 2 * second });
    assert_eq!((plan.phases[0].only.as_slice(), plan.phases[1].only.as_slice()), (&[1][..], &[0, 1][..]));
    assert_eq!(plan.phases.iter().map(|phase| phase.measured).collect::<Vec<_>>(), [false, false, true, false]);
}

#[test]
fn what_is_wrong_is_told_with_its_line() {
    for (text, error) in [
        ("[[request]\n", "s.toml:1: "),
        ("nam = \"x\"\n", "s.toml:1: `nam` means nothing here; did you mean `name`?"),
        ("\nthink = \"1\"\n", "s.toml:2: think: expected a duration"),
        ("think = \"2s..1s\"\n", "s.toml:1: think: `2s..1s` is no range"),
        ("[targets]\np98 = \"1s\"\n", "s.toml:2: targets.p98: there is no target `p98`; did you mean `p9"),
        ("[data]\n", "s.toml:1: [data] needs `file`"),
        ("[data]\nfile = \"none.csv\"\n", "s.toml:2: data.file: cannot read none.csv"),
        ("[[request]]\nweight = 1\n", "s.toml:1: a [[request]] needs `path`"),
        ("[[request]]\npath = \"x\"\n", "s.toml:2: request.path: a path begins with /"),
        ("[[request]]\npath = \"/a b\"\n", "s.toml:2: request.path: a path has no blanks"),
        ("[[request]]\npath = \"/{ky}\"\n", "s.toml:2: request.path: `{ky}` is neither"),
        ("[[request]]\npath = \"/\"\nstatus = \"ok\"\n", "s.toml:3: request.status: expected a status"),
        ("[[request]]\npath = \"/\"\nstatus = 99\n", "s.toml:3: request.status: expected a status"),
        ("[[request]]\npath = \"/\"\nmethod = \"get\"\n", "s.toml:3: request.method: "),
        ("[[request]]\npath = \"/\"\nweight = -1\n", "s.toml:3: request.weight: expected a number greater than 0"),
        ("[[request]]\npath = \"/\"\nbody = \"x\"\nbody_bytes = 3\n", "s.toml:4: request.body_bytes: "),
        ("[[request]]\npath = \"/\"\nheaders = { Host = \"x\" }\n", "s.toml:3: headers.Host: is set by larder bench"),
        ("[[request]]\npath = \"/\"\nheaders = { A = \"x\\ny\" }\n", "s.toml:3: headers.A: is no header field"),
        ("[[phase]]\nduration = \"1s\"\n", "s.toml:1: a [[phase]] has exactly one of"),
        ("[[phase]]\nrate = 1\nconnections = 1\n", "s.toml:1: a [[phase]] has exactly one of"),
        ("[[phase]]\nrate = 1\n", "s.toml:1: this [[phase]] needs `duration`"),
        ("[[phase]]\nrate = 0\nduration = \"1s\"\n", "s.toml:2: phase.rate: "),
        ("[[phase]]\nrate = 1\nduration = \"1s\"\nto = 3\n", "s.toml:4: phase.to: means nothing in this phase"),
        ("[[phase]]\nfrom = 1\nto = 3\nstep = 1\n", "s.toml:1: this [[phase]] needs `hold`"),
        ("[[phase]]\nconnections = 9999\nduration = \"1s\"\n", "s.toml:2: phase.connections: 9999 is not between"),
        ("[[phase]]\nconnections = 9\n", "s.toml:1: a [[phase]] with `connections` needs `duration` or `requests`"),
        ("[[phase]]\nrate = 1\nduration = \"0s\"\n", "s.toml:3: phase.duration: is nothing"),
        ("[[phase]]\nconnections = 1\nrequests = 1\nspike = true\n", "s.toml:4: phase.spike: "),
        ("request = 1\n", "s.toml:1: request: is a list of tables: [[request]]"),
    ] {
        let errors = errors(text);
        assert!(errors.lines().any(|line| line.starts_with(error)), "{text}\nwanted: {error}\ngot: {errors}");
    }
}

#[test]
fn a_spike_needs_time_to_recover_in() {
    assert!(
        errors(&format!("{REST}spike = true\n")).contains("after the spike `phase` a phase with a `rate` is needed")
    );
    assert!(
        parse(Path::new("s.toml"), &format!("{REST}spike = true\n[[phase]]\nrate = 1\nduration = \"1s\"\n")).is_ok()
    );
}

#[test]
fn a_phase_chooses_only_requests_that_there_are() {
    let text = format!("{REST}only = [\"/\", \"GET /\"]\n");
    assert_eq!(errors(&text), "s.toml:6: phase.only: there is no request `/`");
}

#[test]
fn all_errors_are_told_at_once_and_nothing_is_not_a_scenario() {
    assert_eq!(errors("a = 1\nb = 2\n").lines().count(), 4);
    assert!(errors("").contains("at least one [[request]]"));
    assert!(parse(Path::new("s.toml"), REST).is_ok());
}

#[test]
fn the_errors_of_a_csv_file_have_their_own_line() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("x.csv"), "a,b\n1\n").unwrap();
    let text = format!("[data]\nfile = \"x.csv\"\n{REST}");
    let error = parse(&folder.path().join("s.toml"), &text).unwrap_err();
    assert!(error.contains("s.toml:2: data.file: ") && error.contains("x.csv: line 2: 1 columns"), "{error}");
}

#[test]
fn a_filler_has_its_size() {
    for bytes in [0, 1, 1024, 5000] {
        assert_eq!(filler_text(bytes).len(), bytes);
    }
}

#[test]
fn every_scenario_that_is_shipped_is_right() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/load");
    let files = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let scenarios: Vec<_> =
        files.filter(|path| path.extension().is_some_and(|extension| extension == "toml")).collect();
    assert!(scenarios.len() >= 8, "{scenarios:?}");
    for path in scenarios {
        read(&path).unwrap_or_else(|error| panic!("{error}"));
    }
}
