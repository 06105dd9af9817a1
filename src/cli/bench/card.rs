//! `larder bench --card`: what a sync costs on the disk below the data, and what larder writes to it for each byte.
//!
//! Everything happens in a folder of its own that is removed; a running larder is not touched, but its traffic is in
//! the figures. What is recommended follows from the figures alone (`advice`).

use std::fs::File;
use std::io::{Seek, SeekFrom, Write};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use serde_json::json;

use super::advice::{Advice, Machine, advise};
use super::folder::TemporaryFolder;
use super::random::Random;
use super::stats::{Ending, Stats};
use super::verdict::show_time;
use crate::board;
use crate::cli::exit::Failure;
use crate::cli::parse::Invocation;
use crate::cli::unfinished::Unfinished;
use crate::cli::{complain, say, say_json};
use crate::config::Config;
use crate::metrics::Registry;
use crate::store::fjall::{FjallOptions, FjallStore};
use crate::store::{
    Action, Database, DatabaseOptions, Durability, FullKey, NoObserver, Precondition, Store, StoreError, Ttl,
    WriteError, WriteOp, WriteRequest,
};

const APPEND_BYTES: usize = 4096;
const APPENDS_MAX: usize = 2000;
const SYNCS_TIME: Duration = Duration::from_secs(3);
const SEQUENTIAL_BYTES: usize = 32 << 20;
const PIECE_BYTES: usize = 256 << 10;
const VALUE_BYTES: usize = 1024;
const KEYS: u64 = 2000;
const STORE_TIME: Duration = Duration::from_secs(3);
/// A card that takes longer than this for one group is no card to measure.
const ANSWER_MAX: Duration = Duration::from_secs(120);
/// Below this much room nothing is measured: a full card is worth more than its figures.
const FREE_BYTES_MIN: u64 = 512 << 20;

/// What writing through the store costs.
#[derive(Clone, Copy, Debug)]
struct StoreCost {
    writes: u64,
    writes_per_second: f64,
    /// Bytes to storage for each byte of user data; `None`: the kernel does not count here (memory file systems).
    amplification: Option<f64>,
}

/// Everything that was measured.
struct Measured {
    syncs: Stats,
    sequential_bytes_per_second: f64,
    alone: StoreCost,
    together: StoreCost,
    relaxed: StoreCost,
}

/// Measures the disk below the data folder and says what to set.
pub fn card(invocation: &Invocation, below: &Path) -> Result<ExitCode, Failure> {
    let free = board::disk::free(below)
        .map_err(|error| Failure::plain(format!("cannot look at {}: {error}", below.display())))?;
    if free.free_bytes < FREE_BYTES_MIN {
        let free_mib = free.free_bytes >> 20;
        return Err(Failure::plain(format!("{} has only {free_mib} MiB free; 512 MiB are needed", below.display())));
    }
    let folder = TemporaryFolder::make(below)?;
    let unfinished = Unfinished::make(folder.path().to_owned(), |_| Ok(()));
    let measured = measure(folder.path())?;
    drop((folder, unfinished));
    let ram_bytes = board::memory::ram_bytes();
    let machine = Machine {
        ram_bytes,
        ram_used_share: board::memory::usage().map(|usage| usage.share()),
        cache_bytes_default: Config::defaults(ram_bytes, board::cores()).cache_bytes,
        sync_p50: measured.syncs.quantile(0.5),
        sync_p99: measured.syncs.quantile(0.99),
        synced_writes_per_second: measured.together.writes_per_second,
        amplification_alone: measured.alone.amplification,
        amplification_relaxed: measured.relaxed.amplification,
    };
    let advice = advise(&machine);
    match invocation.has("json") {
        true => say_json(&document(below, &measured, &advice))?,
        false => say(&text(below, &measured, &advice))?,
    }
    Ok(ExitCode::SUCCESS)
}

fn measure(folder: &Path) -> Result<Measured, Failure> {
    let failed = |error: std::io::Error| Failure::plain(format!("the disk does not take it: {error}"));
    complain("measuring syncs of 4 KiB appends");
    let syncs = syncs(folder).map_err(failed)?;
    complain("measuring one long write");
    let sequential_bytes_per_second = sequential(folder).map_err(failed)?;
    complain("writing through the store, synced one by one, synced together, and relaxed");
    let through = |name: &str, durability, at_once| {
        let cost = store_cost(&folder.join(name), durability, at_once);
        cost.map_err(|error| Failure::plain(format!("the store could not be measured: {error}")))
    };
    Ok(Measured {
        syncs,
        sequential_bytes_per_second,
        alone: through("alone", Durability::Sync, 1)?,
        together: through("together", Durability::Sync, 64)?,
        relaxed: through("relaxed", Durability::Relaxed, 64)?,
    })
}

fn syncs(folder: &Path) -> std::io::Result<Stats> {
    let mut file = File::create(folder.join("appends"))?;
    let block = vec![0x5a; APPEND_BYTES];
    let mut stats = Stats::default();
    let began = Instant::now();
    for _ in 0..APPENDS_MAX {
        file.write_all(&block)?;
        let asked = Instant::now();
        file.sync_data()?;
        stats.record(Ending::Right(0), asked.elapsed());
        if began.elapsed() > SYNCS_TIME {
            break;
        }
    }
    Ok(stats)
}

fn sequential(folder: &Path) -> std::io::Result<f64> {
    let mut file = File::create(folder.join("sequential"))?;
    let mut random = Random::new(1);
    let mut piece = vec![0; PIECE_BYTES];
    // A controller that compresses should not look faster than it is.
    piece.chunks_exact_mut(8).for_each(|chunk| chunk.copy_from_slice(&random.next().to_le_bytes()));
    let began = Instant::now();
    for _ in 0..SEQUENTIAL_BYTES / PIECE_BYTES {
        file.write_all(&piece)?;
    }
    file.sync_data()?;
    let speed = SEQUENTIAL_BYTES as f64 / began.elapsed().as_secs_f64();
    // Given back before the store is measured.
    file.seek(SeekFrom::Start(0))?;
    file.set_len(0)?;
    Ok(speed)
}

/// Overwrites keys for a while, so many at once, and counts what reached storage until the store is closed.
fn store_cost(folder: &Path, durability: Durability, at_once: usize) -> Result<StoreCost, StoreError> {
    let written_before = written_bytes();
    let store = Arc::new(FjallStore::open(folder, FjallOptions::default())?);
    let options = DatabaseOptions { data_dir: None, expiry_scan_rate: 0, ..DatabaseOptions::default() };
    let db = Database::start(store.clone(), Arc::new(NoObserver), &Registry::default(), options)?;
    let (done, ended) = crossbeam::channel::bounded(at_once);
    let mut random = Random::new(2);
    let value = Bytes::from(super::scenario::filler_text(VALUE_BYTES));
    let mut send = || {
        let done = done.clone();
        let key = FullKey::new("bench", "card", &format!("key-{:06}", random.below(KEYS)));
        let action =
            Action::Put { content_type: Bytes::from_static(b"text/csv"), value: value.clone(), ttl: Ttl::Clear };
        db.submit(WriteRequest {
            ops: vec![WriteOp { key, action, precondition: Precondition::default(), preread: None }],
            atomic: true,
            durability,
            deadline: None,
            // The channel has room for all that is under way.
            reply: Box::new(move |outcome| drop(done.try_send(outcome.map(drop)))),
        });
    };
    let began = Instant::now();
    (0..at_once).for_each(|_| send());
    let (mut writes, mut under_way) = (0, at_once);
    let mut trouble: Option<WriteError> = None;
    while under_way > 0 {
        match ended.recv_timeout(ANSWER_MAX) {
            Ok(Ok(())) => writes += 1,
            Ok(Err(error)) => trouble = Some(error),
            Err(_) => return Err(StoreError::Io("a write was not answered".to_owned())),
        }
        under_way -= 1;
        if began.elapsed() < STORE_TIME && trouble.is_none() {
            send();
            under_way += 1;
        }
    }
    let seconds = began.elapsed().as_secs_f64();
    db.stop()?;
    store.close()?;
    if let Some(error) = trouble {
        return Err(StoreError::Io(format!("a write failed: {error:?}")));
    }
    let written = written_bytes().zip(written_before).map(|(after, before)| after - before);
    let user_bytes = writes as f64 * VALUE_BYTES as f64;
    Ok(StoreCost {
        writes,
        writes_per_second: writes as f64 / seconds,
        amplification: written.filter(|written| *written > 0.0).map(|written| written / user_bytes),
    })
}

/// Bytes that this process caused to be written to storage.
fn written_bytes() -> Option<f64> {
    let text = std::fs::read_to_string("/proc/self/io").ok()?;
    text.lines().find_map(|line| line.strip_prefix("write_bytes:")?.trim().parse().ok())
}

fn text(below: &Path, measured: &Measured, advice: &[Advice]) -> String {
    let quantile = |share| show_time(measured.syncs.quantile(share));
    let mut text = format!("the disk below {}\n\n", below.display());
    text.push_str(&format!(
        "sync of a 4 KiB append   p50 {}, p90 {}, p99 {}, max {} ({} syncs)\n",
        quantile(0.5),
        quantile(0.9),
        quantile(0.99),
        show_time(measured.syncs.max()),
        measured.syncs.count()
    ));
    text.push_str(&format!("one long write           {:.1} MB/s\n", measured.sequential_bytes_per_second / 1e6));
    for (name, cost) in costs(measured) {
        let amplification = cost.amplification.map_or("not counted on this file system".to_owned(), |factor| {
            format!("{factor:.1} bytes written for each byte of a value")
        });
        text.push_str(&format!("{name:24} {:.0} writes/s, {amplification}\n", cost.writes_per_second));
    }
    text.push_str(
        "\n(1 KiB values over 2000 keys; what the file system writes for itself, its journal, is not counted)\n\n",
    );
    for advice in advice {
        text.push_str(&format!("{} = {}\n    {}\n", advice.setting, advice.value, advice.reason));
    }
    text
}

fn costs(measured: &Measured) -> [(&'static str, StoreCost); 3] {
    [("synced, one by one", measured.alone), ("synced, 64 at once", measured.together), ("relaxed", measured.relaxed)]
}

fn document(below: &Path, measured: &Measured, advice: &[Advice]) -> serde_json::Value {
    let ms = |share| measured.syncs.quantile(share).as_secs_f64() * 1000.0;
    let store: Vec<_> = costs(measured)
        .iter()
        .map(|(name, cost)| {
            json!({
                "how": name, "writes": cost.writes, "writes_per_second": cost.writes_per_second,
                "write_amplification": cost.amplification,
            })
        })
        .collect();
    let advice: Vec<_> = advice
        .iter()
        .map(|advice| json!({"setting": advice.setting, "value": advice.value, "reason": advice.reason}))
        .collect();
    json!({
        "directory": below.display().to_string(),
        "sync_ms": {"p50": ms(0.5), "p90": ms(0.9), "p99": ms(0.99), "max": measured.syncs.max().as_secs_f64() * 1000.0},
        "syncs": measured.syncs.count(),
        "sequential_bytes_per_second": measured.sequential_bytes_per_second,
        "store": store,
        "advice": advice,
    })
}
