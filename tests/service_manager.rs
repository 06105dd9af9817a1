//! larder's side of systemd's protocols, in a child process whose environment is the one a unit would have.
#![allow(clippy::unwrap_used)]

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixDatagram;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use larder::board::notify;
use larder::http::listener::Listener;
use larder::logging;

const PATIENCE: Duration = Duration::from_secs(30);

/// Runs one test of this file in a process of its own.
fn child(test: &str, stdin: Stdio, stderr: Stdio, environment: &[(&str, String)]) -> Child {
    // LISTEN_PID must be the child's own number: the shell sets it and then becomes the child. It also moves the
    // listening socket from standard input to where systemd puts it.
    let script =
        "exec 3<&0; export LISTEN_PID=$$ LISTEN_FDS=1 LISTEN_FDNAMES=http; exec \"$0\" --exact \"$1\" --nocapture";
    let mut command = Command::new("sh");
    command.args(["-c", script]).arg(std::env::current_exe().unwrap()).arg(test);
    command.envs(environment.iter().map(|(name, value)| (name, value))).env("LARDER_TEST_CHILD", "1");
    command.stdin(stdin).stdout(Stdio::null()).stderr(stderr).spawn().unwrap()
}

fn is_child() -> bool {
    std::env::var_os("LARDER_TEST_CHILD").is_some()
}

#[test]
fn a_socket_is_taken_over_once_and_readiness_is_told() {
    if is_child() {
        let mut sockets = notify::listen_fds().unwrap();
        assert!(notify::listen_fds().unwrap().is_empty());
        let (socket, name) = sockets.pop().unwrap();
        assert!(sockets.is_empty());
        assert_eq!(notify::watchdog_interval(), Some(Duration::from_secs(60)));
        notify::ready("serving\nMAINPID=1");
        let Listener::Tcp(listener) = Listener::from_fd(socket).unwrap() else {
            panic!("a TCP socket was handed over")
        };
        listener.accept().unwrap().0.write_all(name.as_bytes()).unwrap();
        notify::watchdog_ping();
        notify::stopping("bye");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("notify");
    let manager = UnixDatagram::bind(&path).unwrap();
    manager.set_read_timeout(Some(PATIENCE)).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let environment = [
        ("NOTIFY_SOCKET", path.to_str().unwrap().to_owned()),
        ("WATCHDOG_USEC", Duration::from_secs(60).as_micros().to_string()),
    ];
    let stdin = Stdio::from(OwnedFd::from(listener));
    let mut child = child("a_socket_is_taken_over_once_and_readiness_is_told", stdin, Stdio::inherit(), &environment);
    let mut connection = TcpStream::connect(address).unwrap();
    connection.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut name = String::new();
    connection.read_to_string(&mut name).unwrap();
    assert_eq!(name, "http");
    let mut buffer = [0; 256];
    for wanted in ["READY=1\nSTATUS=serving MAINPID=1\n", "WATCHDOG=1\n", "STOPPING=1\nSTATUS=bye\n"] {
        let length = manager.recv(&mut buffer).unwrap();
        assert_eq!(std::str::from_utf8(&buffer[..length]).unwrap(), wanted);
    }
    assert!(child.wait().unwrap().success());
}

#[test]
fn the_journal_gets_priorities_and_no_forged_lines() {
    if is_child() {
        logging::init(log::LevelFilter::Info).unwrap();
        log::info!(target: "larder::test", "asked for {}", "a\n<0>larder: forged");
        log::debug!(target: "larder::test", "too quiet");
        log::info!(target: "fjall", "of no concern");
        log::logger().flush();
        return;
    }
    let (mut reader, writer) = std::io::pipe().unwrap();
    let stat = rustix::fs::fstat(&writer).unwrap();
    let environment = [("JOURNAL_STREAM", format!("{}:{}", stat.st_dev, stat.st_ino))];
    let test = "the_journal_gets_priorities_and_no_forged_lines";
    let mut child = child(test, Stdio::null(), Stdio::from(writer), &environment);
    let mut text = String::new();
    reader.read_to_string(&mut text).unwrap();
    assert!(child.wait().unwrap().success(), "{text}");
    assert_eq!(text, "<6>larder::test: asked for a\\n<0>larder: forged\n");
}
