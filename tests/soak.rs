//! A steady mixed load, and what must not grow under it: memory, threads, descriptors, the data folder, failures.
//!
//! `SOAK_SECONDS` says for how long, for each engine. Slopes are fitted to the second half, when the caches are full.
#![allow(clippy::unwrap_used)]

mod support;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use support::{Client, Server, engines};

/// What a board with 512 MB has by default, and memtables that are full often.
const CONFIG: &str = "[cache]\nsize = \"4MiB\"\n[store]\nblock_cache = \"2MiB\"\nmemtable = \"1MiB\"\n";
const CLIENTS: u64 = 6;
const KEYS: u64 = 400;
/// By how much the last quarter's most may exceed that of the quarter before.
const MEMORY_GROWTH_KIB: f64 = 8.0 * 1024.0;
const FEW: f64 = 6.0;
/// Overwritten data of 400 keys, in tables, journals and memtables.
const FOLDER_KIB: f64 = 200.0 * 1024.0;

/// One look at the process.
#[derive(Clone, Copy, Debug)]
struct Sample {
    seconds: f64,
    memory_kib: f64,
    threads: f64,
    descriptors: f64,
    folder_kib: f64,
}

type Figure = fn(&Sample) -> f64;

fn status_field(pid: u32, name: &str) -> f64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
    line.split_whitespace().next().unwrap().parse().unwrap()
}

fn folder_bytes(folder: &std::path::Path) -> u64 {
    let Ok(entries) = std::fs::read_dir(folder) else { return 0 };
    let sizes = entries.flatten().map(|entry| match entry.metadata() {
        Ok(metadata) if metadata.is_dir() => folder_bytes(&entry.path()),
        Ok(metadata) => metadata.len(),
        Err(_) => 0,
    });
    sizes.sum()
}

fn look(server: &Server, began: Instant) -> Sample {
    let pid = server.pid();
    Sample {
        seconds: began.elapsed().as_secs_f64(),
        memory_kib: status_field(pid, "VmRSS:"),
        threads: status_field(pid, "Threads:"),
        descriptors: std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count() as f64,
        folder_kib: folder_bytes(server.data()) as f64 / 1024.0,
    }
}

/// The slope of a line through the samples, per minute.
fn per_minute(samples: &[Sample], figure: Figure) -> f64 {
    let count = samples.len() as f64;
    let (mean_x, mean_y) = (
        samples.iter().map(|sample| sample.seconds).sum::<f64>() / count,
        samples.iter().map(figure).sum::<f64>() / count,
    );
    let (mut over, mut under) = (0.0, f64::EPSILON);
    for sample in samples {
        over += (sample.seconds - mean_x) * (figure(sample) - mean_y);
        under += (sample.seconds - mean_x).powi(2);
    }
    60.0 * over / under
}

fn most(samples: &[Sample], figure: Figure) -> f64 {
    samples.iter().map(figure).fold(0.0, f64::max)
}

/// Everything a household does, on a connection that is kept for a while; what fails is an error of this test.
fn live(address: &str, name: u64, ended: &AtomicBool) -> u64 {
    let mut client = Client::new(address);
    let json = [("Content-Type", "application/json")];
    let mut turn = 0;
    while !ended.load(Ordering::Relaxed) {
        let key = (turn * 7 + name * 131) % KEYS;
        let path = format!("/api/v1/kv/home/c{name}/k{key}");
        let value = vec![b'a' + (turn % 26) as u8; 100 + (turn * 37 % 4000) as usize];
        let asked = [
            ("PUT", format!("{path}?durability=relaxed"), value),
            ("GET", path.clone(), Vec::new()),
            ("PUT", format!("{path}-t?ttl=1"), b"short".to_vec()),
            ("POST", format!("/api/v1/kv/home/n{name}/count/incr?durability=relaxed"), Vec::new()),
            ("GET", format!("/api/v1/kv/home/c{name}?limit=20"), Vec::new()),
            ("DELETE", path, Vec::new()),
        ];
        for (method, path, body) in asked {
            let answer = client.send(method, &path, &json[..usize::from(method == "POST")], &body);
            assert!(matches!(answer.status, 200..=204), "{method} {path}: {} {}", answer.status, answer.text());
        }
        turn += 1;
        if turn % 50 == 0 {
            client = Client::new(address);
        }
    }
    turn
}

fn soak(engine: &str, seconds: f64) {
    let server = Server::builder().engine(engine).config(CONFIG).start();
    let (ended, turns) = (AtomicBool::new(false), AtomicU64::new(0));
    let (began, mut samples) = (Instant::now(), Vec::new());
    std::thread::scope(|scope| {
        for name in 0..CLIENTS {
            let (ended, turns, address) = (&ended, &turns, server.address());
            scope.spawn(move || turns.fetch_add(live(address, name, ended), Ordering::Relaxed));
        }
        let _ends = support::Ends(&ended);
        while began.elapsed().as_secs_f64() < seconds {
            std::thread::sleep(Duration::from_secs_f64(seconds / 80.0));
            samples.push(look(&server, began));
        }
    });
    assert_eq!(server.metric("larder_http_requests_total{route=\"health\",code=\"500\"}"), 0.0);
    server.get("/health").expect(200);
    let (before, last) = (&samples[samples.len() / 2..samples.len() * 3 / 4], &samples[samples.len() * 3 / 4..]);
    let half = &samples[samples.len() / 2..];
    let figures: [(&str, Figure, f64); 3] = [
        ("KiB of memory", |sample| sample.memory_kib, MEMORY_GROWTH_KIB),
        ("threads", |sample| sample.threads, FEW),
        ("descriptors", |sample| sample.descriptors, FEW * 2.0),
    ];
    let turns = turns.load(Ordering::Relaxed);
    let mut text = format!("soak {engine}: {seconds} s, {} requests", turns * 6);
    for (name, figure, may_grow) in figures {
        text += &format!("; {:.0} {name}, {:+.1} a minute", most(last, figure), per_minute(half, figure));
        let (earlier, later) = (most(before, figure), most(last, figure));
        assert!(later <= earlier + may_grow, "{engine}: {name} grew from {earlier} to {later}: {samples:?}");
    }
    let folder = most(&samples, |sample| sample.folder_kib);
    println!("trial: {text}; data folder at most {:.0} MiB", folder / 1024.0);
    assert!(folder <= FOLDER_KIB, "{engine}: the data folder grew to {folder} KiB");
    assert!(turns > CLIENTS, "{engine}: {turns} turns");
}

#[test]
fn nothing_grows_under_a_steady_load() {
    let seconds = std::env::var("SOAK_SECONDS").ok().and_then(|text| text.parse().ok()).unwrap_or(6.0);
    engines().iter().for_each(|engine| soak(engine, seconds));
}
