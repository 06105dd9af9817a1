//! Power cuts: lives of a store, one after the other, of which each ends badly, and what is there after each.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::ledger::End;
use crate::scene::Scene;
use crate::support::{Kept, Names, Op, Seeded, Server};
use crate::traffic::Mood;

/// Lives in which journals are sealed: on optimised code, since it takes long (`make torture`).
const FLOODS_PERCENT: u64 = if cfg!(debug_assertions) { 0 } else { 8 };

/// When the power of a life is to fail.
#[derive(Clone, Copy, Debug, PartialEq)]
enum When {
    /// During the start, or soon after it.
    Starting,
    Working,
    Stopping,
    /// Not at all: it is killed.
    Never,
}

/// How many operations of a kind there are about, during a start and during the work of a life.
pub fn usual(op: Op) -> (u64, u64) {
    match op {
        Op::Sync => (25, 150),
        Op::Write => (30, 300),
        Op::Rename => (8, 15),
        Op::Create => (8, 10),
        Op::Open => (40, 20),
        Op::Mkdir => (6, 1),
        Op::Unlink => (5, 10),
        Op::Truncate => (5, 4),
        Op::Read => (30, 30),
    }
}

/// The power cuts of some stores.
#[derive(Default)]
pub struct Tally {
    strict: AtomicU64,
    loose: AtomicU64,
    kills: AtomicU64,
    acknowledged: AtomicU64,
    violations: Mutex<Vec<String>>,
}

impl Tally {
    fn cuts(&self) -> u64 {
        self.strict.load(Ordering::SeqCst) + self.loose.load(Ordering::SeqCst)
    }
}

/// Cuts the power so often, on stores of seeds from this one on, each in the model of names that follows from its seed.
/// Tells what came of it.
pub fn campaign(first_seed: u64, cuts: u64) -> String {
    let (tally, next) = (Tally::default(), AtomicU64::new(first_seed));
    std::thread::scope(|scope| {
        for _ in 0..cuts.min(2) {
            scope.spawn(|| {
                while tally.cuts() < cuts {
                    store(next.fetch_add(1, Ordering::SeqCst), &tally);
                }
            });
        }
    });
    let violations = tally.violations.into_inner().expect("nobody panics with the list");
    let (strict, loose) = (tally.strict.into_inner(), tally.loose.into_inner());
    let summary = format!(
        "power cuts {} (strict {strict}, loose {loose}): {} lost or wrong; {} kills, {} writes, seeds {first_seed}–{}",
        strict + loose,
        violations.len(),
        tally.kills.into_inner(),
        tally.acknowledged.into_inner(),
        next.into_inner() - 1,
    );
    assert!(violations.is_empty(), "{summary}\n{}", violations.join("\n"));
    summary
}

/// All lives of one store.
fn store(seed: u64, tally: &Tally) {
    let names = if seed.is_multiple_of(2) { Names::Strict } else { Names::Ext4Like };
    let mut scene = Scene::new(seed, names).expect("a card");
    let mut drawn = Seeded::new(seed ^ 0x5eed);
    let mut violations = Vec::new();
    for life in 0..drawn.between(4, 7) {
        let when = match drawn.below(100) {
            0..35 => When::Starting,
            35..75 => When::Working,
            75..88 => When::Stopping,
            _ => When::Never,
        };
        let was_cut = live(&mut scene, &mut drawn, life, when);
        let model = if names == Names::Strict { &tally.strict } else { &tally.loose };
        if was_cut { model } else { &tally.kills }.fetch_add(1, Ordering::SeqCst);
        violations.extend(scene.report(&format!("POWER_SEED={seed}")));
    }
    last(&mut scene);
    violations.extend(scene.report(&format!("POWER_SEED={seed}")));
    tally.acknowledged.fetch_add(scene.shared.acknowledged.load(Ordering::SeqCst), Ordering::SeqCst);
    tally.violations.lock().expect("nobody panics with the list").extend(violations);
}

fn arm(scene: &mut Scene, drawn: &mut Seeded, when: When) {
    let op = *drawn.one_of(&[
        Op::Sync,
        Op::Sync,
        Op::Sync,
        Op::Write,
        Op::Write,
        Op::Rename,
        Op::Rename,
        Op::Open,
        Op::Create,
        Op::Create,
        Op::Mkdir,
        Op::Unlink,
        Op::Unlink,
        Op::Truncate,
        Op::Read,
    ]);
    let (starting, working) = usual(op);
    let nth = drawn.between(1, if when == When::Working { working } else { starting });
    let kept = if drawn.percent(35) { Kept::Nothing } else { Kept::Drawn(drawn.number()) };
    scene.tell(format!("  the power fails at the {nth}. {op:?}, kept {kept:?}"));
    scene.card.cut_power_at(op, nth, kept);
}

/// One life. Whether it ended with a power cut.
fn live(scene: &mut Scene, drawn: &mut Seeded, life: u64, when: When) -> bool {
    let (mood, steps) = (*drawn.one_of(&Mood::QUICK), drawn.between(5, 40));
    let (mood, steps) = match (mood, drawn.percent(FLOODS_PERCENT)) {
        (_, true) => (Mood::Flood, 20 + steps),
        (Mood::Bulk, _) => (mood, steps / 4 + 1),
        _ => (mood, steps),
    };
    scene.tell(format!("life {life}: {when:?}, {mood:?}, {steps} steps"));
    if when == When::Starting {
        arm(scene, drawn, when);
    }
    let server = match scene.start() {
        Ok(server) => server,
        Err(log) => {
            if !is_dark(scene) {
                scene.shared.violation("the server does not start");
            }
            return cut(scene, None, &log);
        }
    };
    let mut trouble = scene.is_well(&mut server.client()).and_then(|()| scene.verify(&server)).err();
    if trouble.is_none() {
        if when == When::Working {
            arm(scene, drawn, when);
        }
        trouble = scene.work(&server, drawn, mood, steps, false);
    }
    if let Some(text) = trouble.filter(|_| !is_dark(scene)) {
        scene.shared.violation(format!("with power: {text}"));
    }
    if when == When::Never {
        scene.tell("  killed");
        let log = kill(server);
        scene.ended(End::Killed, &log);
        return false;
    }
    if when == When::Stopping {
        arm(scene, drawn, when);
    }
    cut(scene, Some(server), "")
}

/// Has the server stop if the power is still there, and then cuts it.
fn cut(scene: &mut Scene, server: Option<Server>, log: &str) -> bool {
    let mut log = log.to_owned();
    let mut stopped = false;
    if let Some(mut server) = server {
        if scene.card.cut_at().is_none() {
            server.signal("TERM");
            let status = server.wait();
            stopped = status.success();
            if !stopped && !is_dark(scene) {
                scene.shared.violation(format!("with power: the stop ended with {status}"));
            }
            scene.tell(format!("  stopped: {status}"));
        }
        log = kill(server);
    }
    scene.card.cut_power();
    let at = scene.card.cut_at().expect("the power is cut");
    scene.ended(if stopped { End::Stopped } else { End::PowerCut(at) }, &log);
    scene.card.power_up().expect("the card comes up again");
    true
}

/// Whether the power has failed, or is just about to: operations fail a moment before the card says why.
fn is_dark(scene: &Scene) -> bool {
    scene.card.wait_for_cut(Duration::from_secs(2))
}

fn kill(server: Server) -> String {
    let log = server.log();
    server.kill();
    log
}

/// A start on a card that stays well, a clean stop, and one more.
fn last(scene: &mut Scene) {
    for round in 0..2 {
        scene.tell(format!("the end, {round}"));
        let server = match scene.start() {
            Ok(server) => server,
            Err(log) => return scene.shared.violation(format!("the server does not start at the end: {log}")),
        };
        let verified = scene.is_well(&mut server.client()).and_then(|()| scene.verify(&server));
        match verified {
            Ok(()) => scene.verify_lists(&server),
            Err(text) => scene.shared.violation(format!("with power: {text}")),
        }
        let log = server.log();
        let status = server.stop();
        if !status.success() {
            scene.shared.violation(format!("the stop ended with {status}"));
        }
        scene.ended(End::Stopped, &log);
    }
}
