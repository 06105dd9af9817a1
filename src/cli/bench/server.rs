//! The server under load, from beside: its figures before, during and after, and one of our own if asked for.

use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use ureq::http;

use super::folder::TemporaryFolder;
use crate::cli::client::{Address, Client, Payload};
use crate::cli::exit::Failure;

/// How often the server's memory is looked at during a run.
const EVERY: Duration = Duration::from_secs(2);
const NAP: Duration = Duration::from_millis(50);
const START_MAX: Duration = Duration::from_secs(60);
const STOP_MAX: Duration = Duration::from_secs(30);
const PAGE_BYTES_MAX: u64 = 16 << 20;

/// Figures of a server at one moment. `None`: it does not tell.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Figures {
    /// Resident memory, bytes.
    pub rss_bytes: Option<f64>,
    /// Processor time since its start, seconds.
    pub cpu_seconds: Option<f64>,
    /// Reads that the cache had, since its start.
    pub hits: Option<f64>,
    /// Reads that it had not.
    pub misses: Option<f64>,
    /// Bytes written to storage since its start.
    pub written_bytes: Option<f64>,
}

impl Figures {
    /// Asks the server; the error says why there are no figures.
    pub fn ask(client: &Client) -> Result<Figures, String> {
        let reply =
            client.send(http::Method::GET, "/metrics", &[], Payload::None).map_err(|failure| failure.message)?;
        let mut page = String::new();
        let read = reply.into_reader().take(PAGE_BYTES_MAX).read_to_string(&mut page);
        read.map_err(|error| format!("/metrics was cut: {error}"))?;
        Ok(Figures::parse(&page))
    }

    fn parse(page: &str) -> Figures {
        let sum = |name: &str| {
            let lines = page.lines().filter(|line| line.split([' ', '{']).next() == Some(name));
            let values = lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok());
            values.filter(|value| value.is_finite()).fold(None, |sum, value| Some(sum.unwrap_or(0.0) + value))
        };
        Figures {
            rss_bytes: sum("process_resident_memory_bytes"),
            cpu_seconds: sum("process_cpu_seconds_total"),
            hits: sum("larder_cache_hits_total"),
            misses: sum("larder_cache_misses_total"),
            written_bytes: sum("larder_device_write_bytes_total"),
        }
    }

    /// The part of the reads since `before` that the cache had.
    pub fn hit_ratio_since(&self, before: &Figures) -> Option<f64> {
        let (hits, misses) = (self.hits? - before.hits?, self.misses? - before.misses?);
        (hits + misses > 0.0).then(|| hits / (hits + misses))
    }
}

/// What was seen of the server around a run.
#[derive(Clone, Debug, Default)]
pub struct Observed {
    /// Before the first request.
    pub before: Figures,
    /// After the last.
    pub after: Figures,
    /// The most memory that was seen.
    pub rss_bytes_max: Option<f64>,
    /// Why there are no figures.
    pub note: Option<String>,
}

/// Does something while the server is looked at.
pub fn observe<T>(client: &Client, work: impl FnOnce() -> T) -> Result<(T, Observed), Failure> {
    let before = match Figures::ask(client) {
        Ok(before) => before,
        Err(why) => {
            let note = format!("the server's figures are not known: {why}");
            return Ok((work(), Observed { note: Some(note), ..Observed::default() }));
        }
    };
    let done = AtomicBool::new(false);
    let watch = || {
        let mut most = None;
        let mut asked = Instant::now();
        while !done.load(Ordering::Relaxed) {
            thread::sleep(NAP);
            if asked.elapsed() >= EVERY {
                let rss = Figures::ask(client).ok().and_then(|figures| figures.rss_bytes);
                most = larger(most, rss);
                asked = Instant::now();
            }
        }
        most
    };
    thread::scope(|scope| {
        let watcher = thread::Builder::new().name("bench-observer".to_owned()).spawn_scoped(scope, watch);
        let watcher = watcher.map_err(|error| Failure::plain(format!("cannot start a thread: {error}")))?;
        let result = work();
        done.store(true, Ordering::Relaxed);
        let most = watcher.join().unwrap_or(None);
        let (after, note) = match Figures::ask(client) {
            Ok(after) => (after, None),
            Err(why) => (Figures::default(), Some(format!("the server's figures after the run are not known: {why}"))),
        };
        let rss_bytes_max = [before.rss_bytes, after.rss_bytes].into_iter().fold(most, larger);
        Ok((result, Observed { before, after, rss_bytes_max, note }))
    })
}

fn larger(one: Option<f64>, other: Option<f64>) -> Option<f64> {
    match (one, other) {
        (Some(one), Some(other)) => Some(one.max(other)),
        (one, other) => one.or(other),
    }
}

/// A larder of our own; it ends, and its folder goes, with this.
pub struct Spawned {
    child: Child,
    /// Where it listens.
    pub url: String,
    /// From the start of the process to the first answer.
    pub start: Duration,
    _folder: TemporaryFolder,
}

impl Spawned {
    /// Starts this program as a server on a free port, with its data below a folder and limits that let one address
    /// have all the connections of a run.
    pub fn start(below: &Path, engine: &str) -> Result<Spawned, Failure> {
        let folder = TemporaryFolder::make(below)?;
        let config = folder.path().join("larder.toml");
        let text = "[limits]\nconnections_max = 4096\nconnections_per_address_max = 4096\n";
        std::fs::write(&config, text)
            .map_err(|error| Failure::plain(format!("cannot write {}: {error}", config.display())))?;
        let program = std::env::current_exe().map_err(|error| Failure::plain(format!("where is larder? {error}")))?;
        let mut command = Command::new(program);
        command.args(["serve", "--listen", "127.0.0.1:0", "--engine", engine, "--config"]).arg(&config);
        command.arg("--data").arg(folder.path().join("data"));
        for (name, _) in std::env::vars_os().filter(|(name, _)| is_ours(name)) {
            command.env_remove(name);
        }
        // Ctrl-C is for us: the server gets its signal when the run is over.
        command.process_group(0);
        let began = Instant::now();
        let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::inherit()).spawn();
        let child = child.map_err(|error| Failure::plain(format!("cannot start larder: {error}")))?;
        let mut spawned = Spawned { child, url: String::new(), start: Duration::ZERO, _folder: folder };
        spawned.url = spawned.wait_for_address()?;
        spawned.wait_for_answer(began)?;
        spawned.start = began.elapsed();
        Ok(spawned)
    }

    fn wait_for_address(&mut self) -> Result<String, Failure> {
        let Some(out) = self.child.stdout.take() else { return Err(Failure::plain("larder has no stdout")) };
        let mut lines = BufReader::new(out).lines();
        let found = lines.by_ref().map_while(Result::ok).find_map(|line| {
            let address = line.trim().strip_prefix("larder listening on ")?.to_owned();
            Some(address)
        });
        // The pipe stays open and is emptied: a server that cannot write to it would see an error.
        let _ = thread::Builder::new().name("bench-output".to_owned()).spawn(move || lines.for_each(drop));
        found.ok_or_else(|| Failure::plain("the larder that was started ended at once"))
    }

    fn wait_for_answer(&self, began: Instant) -> Result<(), Failure> {
        let client = Client::at(Address::Http(self.url.clone()), None);
        while client.send(http::Method::GET, "/health", &[], Payload::None).is_err() {
            if began.elapsed() > START_MAX {
                return Err(Failure::plain("the larder that was started gives no answer"));
            }
            thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }
}

fn is_ours(name: &std::ffi::OsStr) -> bool {
    name.to_str().is_some_and(|name| name.starts_with("LARDER_") || name.starts_with("LISTEN_"))
        || name == "STATE_DIRECTORY"
        || name == "NOTIFY_SOCKET"
}

impl Drop for Spawned {
    fn drop(&mut self) {
        if let Some(pid) = rustix::process::Pid::from_raw(self.child.id() as i32) {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        }
        let give_up = Instant::now() + STOP_MAX;
        while matches!(self.child.try_wait(), Ok(None)) {
            if Instant::now() > give_up {
                let _ = self.child.kill();
                let _ = self.child.wait();
                return;
            }
            thread::sleep(Duration::from_millis(5));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_read_from_a_page_and_missing_ones_are_not_guessed() {
        let page = "# HELP x y\nprocess_resident_memory_bytes 1.5e7\nlarder_cache_hits_total{shard=\"0\"} 3\n\
                    larder_cache_hits_total{shard=\"1\"} 4\nlarder_cache_misses_total 1\nprocess_cpu_seconds_total NaN\n";
        let figures = Figures::parse(page);
        assert_eq!((figures.rss_bytes, figures.hits, figures.cpu_seconds), (Some(1.5e7), Some(7.0), None));
        let before = Figures { hits: Some(4.0), misses: Some(0.0), ..Figures::default() };
        assert_eq!(figures.hit_ratio_since(&before), Some(0.75));
        assert_eq!(figures.hit_ratio_since(&figures), None);
        assert_eq!(figures.hit_ratio_since(&Figures::default()), None);
    }
}
