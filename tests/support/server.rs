//! The real binary, started on port 0 with a folder of its own, and ended with the test.

use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::client::{Answer, Client, Connection};

/// How to start a server.
pub struct ServerBuilder {
    engine: String,
    config: String,
    arguments: Vec<String>,
    environment: Vec<(String, String)>,
    data: Option<PathBuf>,
    wrapper: Vec<String>,
}

/// A running server.
pub struct Server {
    child: Child,
    address: String,
    folder: Option<tempfile::TempDir>,
    data: PathBuf,
    log: Arc<Mutex<String>>,
}

impl ServerBuilder {
    /// The engine; `tiny_http` if not said.
    pub fn engine(mut self, engine: &str) -> Self {
        self.engine = engine.to_owned();
        self
    }

    /// Lines of the configuration file.
    pub fn config(mut self, toml: &str) -> Self {
        self.config.push_str(toml);
        self.config.push('\n');
        self
    }

    /// A flag of `larder serve`.
    pub fn argument(mut self, argument: &str) -> Self {
        self.arguments.push(argument.to_owned());
        self
    }

    /// An environment variable.
    pub fn environment(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// A data folder that outlives the server (for restarts).
    pub fn data(mut self, folder: &Path) -> Self {
        self.data = Some(folder.to_owned());
        self
    }

    /// A command to run the server under (`strace -f -o …`).
    pub fn wrapper(mut self, command: &[&str]) -> Self {
        self.wrapper = command.iter().map(|word| (*word).to_owned()).collect();
        self
    }

    /// Starts it and waits until it listens.
    pub fn start(self) -> Server {
        self.try_start().unwrap_or_else(|log| panic!("the server did not start:\n{log}"))
    }

    /// Starts it; the `Err` is what it said before it ended.
    pub fn try_start(self) -> Result<Server, String> {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let data = self.data.unwrap_or_else(|| folder.path().join("data"));
        let config = folder.path().join("larder.toml");
        // The default reserve is right for a card; the disk that tests run on may be fuller than that.
        let reserve = (!self.config.contains("reserve")).then_some(("LARDER_STORE_RESERVE", "1MiB"));
        std::fs::write(&config, self.config).expect("the configuration file");
        let mut words = self.wrapper;
        words.push(binary());
        let mut command = Command::new(&words[0]);
        command
            .args(&words[1..])
            .args(["serve", "--listen", "127.0.0.1:0", "--engine", &self.engine])
            .arg("--config")
            .arg(&config)
            .arg("--data")
            .arg(&data)
            .args(&self.arguments)
            .envs(reserve)
            .envs(self.environment)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command.spawn().expect("the larder binary");
        let log = Arc::new(Mutex::new(String::new()));
        follow(child.stderr.take().expect("a pipe"), log.clone());
        let mut out = BufReader::new(child.stdout.take().expect("a pipe"));
        let mut said = String::new();
        let address = loop {
            let mut line = String::new();
            if out.read_line(&mut line).unwrap_or(0) == 0 {
                let _ = child.wait();
                std::thread::sleep(Duration::from_millis(50));
                return Err(said + &log.lock().expect("the log"));
            }
            if let Some(rest) = line.trim().strip_prefix("larder listening on http://") {
                break rest.to_owned();
            }
            said.push_str(&line);
        };
        follow(out, log.clone());
        Ok(Server { child, address, folder: Some(folder), data, log })
    }
}

/// Keeps what comes, as it comes.
pub fn follow(mut from: impl Read + Send + 'static, log: Arc<Mutex<String>>) {
    std::thread::spawn(move || {
        let mut piece = [0; 4096];
        while let Ok(n @ 1..) = from.read(&mut piece) {
            log.lock().expect("the log").push_str(&String::from_utf8_lossy(&piece[..n]));
        }
    });
}

/// The program that is tested: what `BINARY_UNDER_TEST` names, or the one that was built with the tests.
pub fn binary() -> String {
    std::env::var("BINARY_UNDER_TEST").unwrap_or_else(|_| env!("CARGO_BIN_EXE_larder").to_owned())
}

/// Whether it is optimised.
pub fn is_optimised() -> bool {
    !cfg!(debug_assertions) || std::env::var_os("BINARY_UNDER_TEST").is_some()
}

impl Server {
    /// How to start one.
    pub fn builder() -> ServerBuilder {
        ServerBuilder {
            engine: "tiny_http".to_owned(),
            config: String::new(),
            arguments: Vec::new(),
            environment: Vec::new(),
            data: None,
            wrapper: Vec::new(),
        }
    }

    /// `127.0.0.1:port`.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// `http://127.0.0.1:port`.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Its data folder.
    pub fn data(&self) -> &Path {
        &self.data
    }

    /// The process, or the wrapper around it.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it has printed since it listened.
    pub fn log(&self) -> String {
        self.log.lock().expect("the log").clone()
    }

    /// A client without a connection yet.
    pub fn client(&self) -> Client {
        Client::new(&self.address)
    }

    /// A raw connection.
    pub fn connect(&self) -> Connection {
        Connection::open(&self.address)
    }

    /// One request on a connection of its own.
    pub fn send(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Answer {
        self.client().send(method, path, headers, body)
    }

    /// GET.
    pub fn get(&self, path: &str) -> Answer {
        self.send("GET", path, &[], b"")
    }

    /// PUT.
    pub fn put(&self, path: &str, body: &[u8]) -> Answer {
        self.send("PUT", path, &[], body)
    }

    /// DELETE.
    pub fn delete(&self, path: &str) -> Answer {
        self.send("DELETE", path, &[], b"")
    }

    /// All pages of a list as one: a page ends early when its time is over, as it is now and then on a busy machine.
    pub fn list(&self, path: &str) -> serde_json::Value {
        let mut whole = self.get(path).expect(200).json();
        while let Some(next) = whole["next"].as_str() {
            let separator = if path.contains('?') { '&' } else { '?' };
            let mut page = self.get(&format!("{path}{separator}cursor={next}")).expect(200).json();
            for part in ["items", "damaged"] {
                if let Some(more) = page[part].as_array_mut().map(std::mem::take) {
                    let into = &mut whole[part];
                    if into.is_null() {
                        *into = serde_json::json!([]);
                    }
                    into.as_array_mut().expect("a list").extend(more);
                }
            }
            whole["next"] = page["next"].take();
        }
        whole
    }

    /// One figure of the metrics page, summed over the series whose line begins with `prefix`.
    pub fn metric(&self, prefix: &str) -> f64 {
        let page = self.get("/metrics");
        let text = page.text();
        text.lines()
            .filter(|line| line.starts_with(prefix))
            .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
            .sum()
    }

    /// Sends a signal by name (`TERM`, `HUP`, `KILL`).
    pub fn signal(&self, name: &str) {
        let status = Command::new("kill").arg(format!("-{name}")).arg(self.pid().to_string()).status();
        assert!(status.is_ok_and(|status| status.success()), "kill -{name}");
    }

    /// Waits for the process to end by itself.
    pub fn wait(&mut self) -> ExitStatus {
        let give_up = Instant::now() + Duration::from_secs(60);
        loop {
            if let Some(status) = self.child.try_wait().expect("the process") {
                return status;
            }
            assert!(Instant::now() < give_up, "the server did not end within 60 s; its log:\n{}", self.log());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// How the process ended, if it has.
    pub fn try_wait(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("the process")
    }

    /// SIGTERM, and wait for a clean end.
    pub fn stop(mut self) -> ExitStatus {
        self.signal("TERM");
        self.wait()
    }

    /// SIGKILL, and wait.
    pub fn kill(mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        // Debug builds say so when an answer is not in the OpenAPI document: every test watches for that.
        let log = self.log();
        if !std::thread::panicking()
            && let Some(line) = log.lines().find(|line| line.contains("not in the contract"))
        {
            panic!("{line}");
        }
    }
}
