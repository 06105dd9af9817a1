//! Operations of the card that fail: the n-th of each kind, once or from then on, and what larder makes of it.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::cuts::usual;
use crate::ledger::End;
use crate::scene::Scene;
use crate::support::{Failure, Kept, Names, Op, Seeded, Server};
use crate::traffic::Mood;

/// How far the operations of a kind are counted.
const NTH_MAX: u64 = 60;
/// Runs in which each operation of each kind fails in each way.
pub const SWEEP: u64 = Op::ALL.len() as u64 * NTH_MAX * 4;

/// What fails in the run of a number.
#[derive(Debug)]
struct Plan {
    op: Op,
    nth: u64,
    failure: Failure,
    for_good: bool,
    /// Counted from the start of the process, not from the first request.
    from_start: bool,
    /// There was no start before.
    is_first: bool,
}

impl Plan {
    /// Of a run. In later sweeps the same operations fail, and the rest is another.
    fn of(run: u64) -> Plan {
        let place = run % SWEEP;
        let (kind, place) = (place % Op::ALL.len() as u64, place / Op::ALL.len() as u64);
        let (way, place) = (place % 4, place / 4);
        let mut drawn = Seeded::new(run ^ 0xfa17);
        Plan {
            op: Op::ALL[kind as usize],
            nth: place + 1,
            failure: if way % 2 == 0 { Failure::Io } else { Failure::NoSpace },
            for_good: way >= 2,
            from_start: drawn.percent(40),
            is_first: drawn.percent(20),
        }
    }

    /// Whether there are as many operations of the kind in a life.
    fn is_likely(&self) -> bool {
        let (starting, working) = usual(self.op);
        self.nth <= starting.max(working) && self.is_first >= (self.op == Op::Mkdir)
    }

    /// Whether a sync of a journal can be relied on.
    fn syncs(&self) -> bool {
        !matches!(self.op, Op::Sync | Op::Open)
    }

    /// Whether what is on the card may be out of reach.
    fn blinds(&self) -> bool {
        matches!(self.op, Op::Open | Op::Read)
    }
}

/// The runs of a campaign.
#[derive(Default)]
struct Tally {
    fired: AtomicU64,
    acknowledged: AtomicU64,
    violations: Mutex<Vec<String>>,
}

/// Runs drawn from a seed, in most of which the fault is met.
pub fn drawn(seed: u64, runs: u64) -> Vec<u64> {
    let mut drawn = Seeded::new(seed);
    let mut next = || loop {
        let run = drawn.below(1000 * SWEEP);
        if Plan::of(run).is_likely() {
            return run;
        }
    };
    (0..runs).map(|_| next()).collect()
}

/// Does these runs, and tells what came of it.
pub fn campaign(runs: &[u64]) -> String {
    let (tally, next) = (Tally::default(), AtomicU64::new(0));
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while let Some(run) = runs.get(next.fetch_add(1, Ordering::SeqCst) as usize) {
                    one(*run, &tally);
                }
            });
        }
    });
    let violations = tally.violations.into_inner().expect("nobody panics with the list");
    let summary = format!(
        "fault runs {} ({} met their fault): {} lost or wrong; {} writes",
        runs.len(),
        tally.fired.into_inner(),
        violations.len(),
        tally.acknowledged.into_inner(),
    );
    assert!(violations.is_empty(), "{summary}\n{}", violations.join("\n"));
    summary
}

fn one(run: u64, tally: &Tally) {
    let plan = Plan::of(run);
    let mut drawn = Seeded::new(run ^ 0x5eed);
    let names = *drawn.one_of(&[Names::Strict, Names::Ext4Like]);
    let mut scene = Scene::new(run, names).expect("a card");
    scene.tell(format!("{plan:?}"));
    if !plan.is_first {
        healthy(&mut scene, &mut drawn, "before");
    }
    let fired = disturbed(&mut scene, &mut drawn, &plan);
    healthy(&mut scene, &mut drawn, "after");
    healthy(&mut scene, &mut drawn, "at the end");
    tally.fired.fetch_add(u64::from(fired), Ordering::SeqCst);
    tally.acknowledged.fetch_add(scene.shared.acknowledged.load(Ordering::SeqCst), Ordering::SeqCst);
    let violations = scene.report(&format!("FAULT_RUN={run}"));
    tally.violations.lock().expect("nobody panics with the list").extend(violations);
}

/// A life on a card that is well: everything is there, and it goes on.
fn healthy(scene: &mut Scene, drawn: &mut Seeded, when: &str) {
    scene.tell(format!("a healthy life {when}"));
    let server = match scene.start() {
        Ok(server) => server,
        Err(log) => return scene.shared.violation(format!("no start on a healthy card {when}: {log}")),
    };
    let mood = *drawn.one_of(&[Mood::Mixed, Mood::Mixed, Mood::Relaxed, Mood::Bulk]);
    let well = scene.is_well(&mut server.client()).and_then(|()| scene.verify(&server));
    let trouble = well.err().or_else(|| scene.work(&server, drawn, mood, if when == "before" { 8 } else { 3 }, false));
    if let Some(text) = trouble {
        scene.shared.violation(format!("on a healthy card {when}: {text}"));
    } else if when == "at the end" {
        scene.verify_lists(&server);
    }
    let log = server.log();
    if drawn.percent(50) {
        server.kill();
        scene.ended(End::Killed, &log);
    } else {
        let status = server.stop();
        if !status.success() {
            scene.shared.violation(format!("the stop on a healthy card {when} ended with {status}"));
        }
        scene.ended(End::Stopped, &log);
    }
}

/// The life in which the operation fails. Whether it did.
fn disturbed(scene: &mut Scene, drawn: &mut Seeded, plan: &Plan) -> bool {
    let arm = |scene: &Scene| scene.card.fail_at(plan.op, plan.nth, plan.failure, plan.for_good);
    let before = scene.card.fired();
    if plan.from_start {
        arm(scene);
    }
    let server = match scene.start() {
        Ok(server) => server,
        Err(log) => {
            scene.tell("  it did not start");
            if scene.card.fired() == before {
                scene.shared.violation("no start, and nothing had failed");
            }
            end(scene, drawn, plan, None, &log);
            return true;
        }
    };
    if !plan.from_start {
        arm(scene);
    }
    let mood = *drawn.one_of(&[Mood::Mixed, Mood::Durable, Mood::Relaxed, Mood::Bulk, Mood::Imports]);
    let mut is_open = true;
    match scene.is_well(&mut server.client()) {
        Ok(()) => {
            let trouble = scene.work(&server, drawn, mood, 14, plan.blinds());
            let trouble = trouble.or_else(|| scene.read_all(&server, plan.blinds()).err());
            if let Some(text) = trouble {
                let page = server.get("/metrics").text();
                let closed: Vec<_> = page.lines().filter(|line| line.contains("closed_total{")).collect();
                scene.shared.violation(format!("reads do not go on: {text}; connections: {closed:?}"));
            }
        }
        Err(text) if scene.card.fired() == before => scene.shared.violation(format!("not well: {text}")),
        Err(text) => {
            scene.tell(format!("  {text}"));
            is_open = false;
        }
    }
    let fired = scene.card.fired() > before;
    end(scene, drawn, plan, Some((server, is_open)), "");
    fired
}

/// The end of the disturbed life, of a server that had its store open or not, and of what disturbed it.
fn end(scene: &mut Scene, drawn: &mut Seeded, plan: &Plan, server: Option<(Server, bool)>, log: &str) {
    let fired = scene.card.fired();
    let mut log = log.to_owned();
    let mut was_clean = false;
    if let Some((mut server, is_open)) = server {
        let stops = drawn.percent(50);
        if stops {
            server.signal("TERM");
            was_clean = server.wait().success() && is_open;
        }
        scene.tell(format!("  stopped: {stops}, cleanly: {was_clean}, {fired} failures"));
        log = server.log();
        server.kill();
    }
    scene.card.disarm();
    if drawn.percent(50) {
        let kept = if drawn.percent(35) { Kept::Nothing } else { Kept::Drawn(drawn.number()) };
        scene.tell(format!("  and the power fails, kept {kept:?}"));
        scene.card.cut_power_keeping(kept);
        let at = scene.card.cut_at().expect("the power is cut");
        let end = if plan.syncs() { End::PowerCut(at) } else { End::CardFailed };
        scene.ended(if was_clean { End::Stopped } else { end }, &log);
        scene.card.power_up().expect("the card comes up again");
    } else {
        scene.ended(End::Killed, &log);
    }
}
