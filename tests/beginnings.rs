//! The first and the last moments of the process, and what it says and finds of its sockets and its folder: signals before
//! anything is served, sockets that are handed over, addresses of both families, the line to try, a folder that goes.
#![allow(clippy::unwrap_used)]

mod support;

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::fd::OwnedFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::Duration;

use support::{Client, Server, binary, engines, eventually, skipped};

const PATIENCE: Duration = Duration::from_secs(30);

/// Runs larder to its end. The code, and all that it said.
fn run(command: &mut Command) -> (Option<i32>, String) {
    let output = command.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    (output.status.code(), text)
}

fn larder(words: &[&str], data: &Path) -> Command {
    let mut command = Command::new(binary());
    command.args(words).env("LARDER_DATA_DIR", data).env("LARDER_STORE_RESERVE", "1MiB");
    command
}

/// Starts it, and waits for a line of its standard output.
fn started(command: &mut Command, part: &str) -> (Child, String, BufReader<ChildStdout>) {
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut said = String::new();
    let mut out = BufReader::new(child.stdout.take().unwrap());
    while !said.contains(part) {
        assert!(out.read_line(&mut said).unwrap() > 0, "it ended: {said}");
    }
    (child, said, out)
}

fn end(mut child: Child) -> Option<i32> {
    signal(&child, "TERM");
    child.wait().unwrap().code()
}

fn signal(child: &Child, name: &str) {
    assert!(Command::new("kill").arg(format!("-{name}")).arg(child.id().to_string()).status().unwrap().success());
}

#[test]
fn a_signal_that_comes_before_anything_is_served_ends_it_cleanly_or_not_at_all() {
    for (name, ends) in [("HUP", false), ("TERM", true), ("INT", true), ("HUP", false)] {
        let folder = tempfile::tempdir().unwrap();
        let config = folder.path().join("larder.toml");
        // The configuration comes through a pipe, so the signal comes before anything is known.
        assert!(Command::new("mkfifo").arg(&config).status().unwrap().success());
        let data = folder.path().join("data");
        let mut command = larder(&["serve", "--listen", "127.0.0.1:0", "--config", config.to_str().unwrap()], &data);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        // Opening waits until larder reads, and so has taken over what it takes over first.
        let mut pipe = fs::OpenOptions::new().write(true).open(&config).unwrap();
        signal(&child, name);
        // Whoever reads it again finds a file.
        fs::remove_file(&config).unwrap();
        fs::write(&config, "").unwrap();
        std::io::Write::write_all(&mut pipe, b"[server]\nworkers = 4\n").unwrap();
        drop(pipe);
        if !ends {
            let mut said = String::new();
            BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut said).unwrap();
            assert!(said.starts_with("larder listening on"), "{name}: {said}");
            signal(&child, "TERM");
        }
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{name}: {}", String::from_utf8_lossy(&output.stderr));
    }
}

/// Runs larder with this as descriptor 3, handed over as `LISTEN_FDS` says.
fn handed_over(socket: Option<OwnedFd>, fds: &str, data: &Path) -> (Option<i32>, String) {
    let script = "if [ \"$2\" = yes ]; then exec 3<&0; fi; export LISTEN_PID=$$ LISTEN_FDS=\"$1\"; exec \"$0\" serve";
    let mut command = Command::new("sh");
    let has = if socket.is_some() { "yes" } else { "no" };
    command.args(["-c", script, &binary(), fds, has]).env("LARDER_LISTEN", "fd://").env("LARDER_DATA_DIR", data);
    command.stdin(socket.map_or(Stdio::null(), Stdio::from));
    run(&mut command)
}

#[test]
fn what_is_handed_over_and_is_no_listening_socket_ends_it_with_the_reason() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let connected = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (pipe, _writer) = std::io::pipe().unwrap();
    let unix = std::os::unix::net::UnixListener::bind(folder.path().join("s")).unwrap();
    let cases: [(Option<OwnedFd>, &str, &str); 8] = [
        (Some(connected.into()), "1", "is a socket that does not listen"),
        (Some(UdpSocket::bind("127.0.0.1:0").unwrap().into()), "1", "without connections"),
        (Some(UnixDatagram::unbound().unwrap().into()), "1", "without connections"),
        (Some(pipe.into()), "1", "is no socket"),
        (Some(unix.into()), "1", "tiny_http has TCP only"),
        (Some(listener.try_clone().unwrap().into()), "3", "cannot listen on fd://"),
        (Some(listener.into()), "many", "cannot listen on fd://"),
        (None, "0", "there is no socket to listen on"),
    ];
    for (socket, fds, part) in cases {
        let (code, said) = handed_over(socket, fds, &data);
        assert_eq!(code, Some(78), "{part}: {said}");
        assert!(said.contains(part), "{part}: {said}");
    }
}

#[test]
fn one_port_serves_both_families_side_by_side_and_the_unspecified_one_alone() {
    if TcpListener::bind("[::1]:0").is_err() {
        return skipped("this machine has no IPv6");
    }
    let ask = |address: &str| Client::new(address).send("GET", "/health", &[], b"").status;
    for engine in engines() {
        for listen in [
            &["0.0.0.0:P", "[::]:P"][..],
            &["[::]:P", "0.0.0.0:P"],
            &["127.0.0.1:P", "[::]:P"],
            &["127.0.0.1:P", "[::1]:P"],
            &["[::]:P"],
        ] {
            let folder = tempfile::tempdir().unwrap();
            // Taken for a moment, so that it is free of both families.
            let probe = TcpListener::bind("[::]:0").unwrap();
            let port = probe.local_addr().unwrap().port().to_string();
            drop(probe);
            let mut command = larder(&["serve", "--engine", &engine], &folder.path().join("data"));
            for address in listen {
                command.args(["--listen", &address.replace('P', &port)]);
            }
            let last = listen.last().unwrap().replace('P', &port);
            let (child, ..) = started(command.env("LARDER_AUTH_MODE", "open"), &format!("listening on http://{last}"));
            for address in ["127.0.0.1", "[::1]"] {
                assert_eq!(ask(&format!("{address}:{port}")), 200, "{engine} {listen:?} {address}");
            }
            assert_eq!(end(child), Some(0), "{engine} {listen:?}");
        }
    }
}

#[test]
fn a_service_manager_is_told_on_any_kind_of_socket() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("notify");
    let name = format!("larder-beginnings-{}", std::process::id());
    let hidden = SocketAddr::from_abstract_name(name.as_bytes()).unwrap();
    for (manager, address) in [
        (UnixDatagram::bind(&path).unwrap(), path.to_str().unwrap().to_owned()),
        (UnixDatagram::bind_addr(&hidden).unwrap(), format!("@{name}")),
    ] {
        manager.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut command = larder(&["serve", "--listen", "127.0.0.1:0"], &folder.path().join("data"));
        let (child, ..) = started(command.env("NOTIFY_SOCKET", &address), "listening on");
        assert!(heard(&manager, "READY=1").contains("STATUS=listening on http://127.0.0.1:"), "{address}");
        assert_eq!(end(child), Some(0));
        heard(&manager, "STOPPING=1");
    }
}

/// Waits for a message.
fn heard(manager: &UnixDatagram, part: &str) -> String {
    let mut buffer = [0; 1024];
    loop {
        let length = manager.recv(&mut buffer).unwrap_or_else(|error| panic!("{part} was not heard: {error}"));
        let text = String::from_utf8_lossy(&buffer[..length]).into_owned();
        if text.contains(part) {
            return text;
        }
    }
}

#[test]
fn after_three_starts_that_end_at_once_the_next_waits_and_a_stop_ends_the_wait() {
    let folder = tempfile::tempdir().unwrap();
    let (path, taken) = (folder.path().join("notify"), TcpListener::bind("127.0.0.1:0").unwrap());
    let manager = UnixDatagram::bind(&path).unwrap();
    manager.set_read_timeout(Some(PATIENCE)).unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let try_to_start = || {
        let mut command = larder(&["serve", "--listen", &address], &folder.path().join("data"));
        command.env("NOTIFY_SOCKET", &path).env("RUNTIME_DIRECTORY", format!("{}:/x", folder.path().display()));
        command
    };
    for round in 0..2 {
        for attempt in 0..3 {
            let (code, said) = run(&mut try_to_start());
            assert!(code == Some(1) && said.contains("in use"), "{round} {attempt}: {said}");
        }
        let child = try_to_start().stderr(Stdio::null()).spawn().unwrap();
        heard(&manager, "STATUS=the last 3 starts ended at once: the next one is in 2 s");
        assert_eq!(end(child), Some(0), "a stop is clean, and all is forgotten");
    }
}

#[test]
fn an_address_that_is_not_there_yet_is_waited_for_and_told() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    // Of the networks for documentation.
    let words = ["--listen", "127.0.0.1:0", "--listen", "192.0.2.77:0"];
    let environment = ("LARDER_AUTH_MODE", "open");
    let (code, said) = run(larder(&[&["check"][..], &words].concat(), &data).env(environment.0, environment.1));
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("warning: this machine does not have the address 192.0.2.77 now"), "{said}");
    for engine in engines() {
        let all = [&["serve", "--engine", &engine][..], &words].concat();
        let (child, said, _) = started(larder(&all, &data).env(environment.0, environment.1), "try: curl");
        assert!(said.contains("try: curl -i -X PUT http://127.0.0.1:"), "{said}");
        assert_eq!(end(child), Some(0), "{engine}");
    }
}

#[test]
fn the_line_to_try_works_as_it_stands_or_is_not_there() {
    let folder = tempfile::tempdir().unwrap();
    let socket = format!("unix:{}", folder.path().join("l.sock").display());
    let spaced = format!("unix:{}", folder.path().join("l 2.sock").display());
    let with_token = folder.path().join("with-token");
    assert!(run(&mut larder(&["token", "add", "one", "--scope", "read"], &with_token)).0 == Some(0));
    let fresh = folder.path().join("fresh");
    for (listen, data, open, has) in [
        (&["127.0.0.1:0"][..], &fresh, false, true),
        (&["[::1]:0"], &fresh, false, true),
        (&["0.0.0.0:0"], &fresh, true, true),
        (&["[::]:0"], &fresh, true, true),
        (&[socket.as_str()], &fresh, false, true),
        (&[&spaced, "127.0.0.1:0"], &fresh, false, true),
        (&[spaced.as_str()], &fresh, false, false),
        (&["127.0.0.1:0"], &with_token, false, false),
        (&["0.0.0.0:0"], &with_token, false, false),
        (&["0.0.0.0:0"], &with_token, true, true),
    ] {
        let mut command = larder(&["serve", "--engine", "epoll"], data);
        listen.iter().for_each(|address| _ = command.args(["--listen", address]));
        command.env("LARDER_AUTH_MODE", if open { "open" } else { "tokens" });
        let (child, said, mut out) = started(&mut command, if has { "try: " } else { "listening on" });
        if let Some(line) = said.lines().find_map(|line| line.strip_prefix("try: ")) {
            let (code, said) = run(Command::new("sh").args(["-c", line]));
            assert!(code == Some(0) && (said.contains(" 201 ") || said.contains(" 204 ")), "{listen:?} {line}: {said}");
        }
        assert_eq!(end(child), Some(0), "{listen:?}");
        let mut rest = String::new();
        out.read_to_string(&mut rest).unwrap();
        assert!(has || !(said + &rest).contains("try: "), "{listen:?}");
    }
}

/// Runs a command that takes the data folder away, from within the mounts that the server sees if it is one of these.
fn takes_its_place(engine: &str, what: &str, reason: &str, is_mount: bool) {
    let in_mounts = [
        "unshare",
        "--mount",
        "sh",
        "-c",
        "mount -t tmpfs none \"$1\" && mkdir \"$1/data\" && shift && exec \"$@\"",
        "sh",
    ];
    let folder = tempfile::tempdir().unwrap();
    let (card, data) = (folder.path().join("card"), folder.path().join("card/data"));
    fs::create_dir_all(&data).unwrap();
    let wrapper = [&in_mounts[..], &[card.to_str().unwrap()]].concat();
    let builder = Server::builder().engine(engine).data(&data);
    let server = if is_mount { builder.wrapper(&wrapper).start() } else { builder.start() };
    server.put("/api/v1/kv/a/b/before", b"x").expect(201);
    let pid = server.pid().to_string();
    let inside = ["-t", &pid, "-m", "sh", "-c", what];
    let mut doing = if is_mount { Command::new("nsenter") } else { Command::new("sh") };
    doing.args(if is_mount { &inside[..] } else { &inside[4..] }).arg(&data);
    let (code, said) = run(&mut doing);
    assert_eq!(code, Some(0), "{what}: {said}");
    eventually(what, || server.get("/health").status == 503);
    let health = server.get("/health").json();
    assert_eq!(health["store"], "read_only", "{what}: {health}");
    let told = health["reason"].as_str().unwrap();
    assert!(told.contains(reason) && !told.contains('/'), "{what}: {told}");
    let refused = server.put("/api/v1/kv/a/b/after", b"x");
    assert_eq!((refused.status, refused.json()["written"].as_str()), (503, Some("no")), "{what}: {refused:?}");
    server.get("/api/v1/kv/a/b/before").expect(200);
    eventually("the log names the place", || server.log().contains(&data.display().to_string()));
}

#[test]
fn a_data_folder_that_goes_below_a_running_server_ends_its_writes_and_is_told() {
    let can_mount = run(Command::new("unshare").args(["--mount", "mount", "-t", "tmpfs", "none", "/mnt"])).0 == Some(0);
    for engine in &engines() {
        // At once: each waits for a few looks.
        std::thread::scope(|scope| {
            for (what, reason) in [
                // Again while the store takes files away and makes new ones meanwhile.
                ("until rm -rf \"$0\"; do :; done", "was removed or replaced"),
                ("until rm -rf \"$0\"/*; do :; done", "was removed or replaced"),
                ("mv \"$0\" \"$0.old\"; mkdir \"$0\"", "was removed or replaced"),
                ("mv \"$0/fjall\" \"$0/aside\"", "was removed or replaced"),
                ("rm \"$0\"/fjall/*.jnl", "the journal was removed"),
                ("mount --bind \"$0\" \"$0\" && mount -o remount,bind,ro \"$0\"", "has become read-only"),
                ("umount -l \"$0/..\"", "was removed or replaced"),
                ("mount -t tmpfs none \"$0\"", "was removed or replaced"),
            ] {
                let is_mount = what.contains("mount ");
                if is_mount && !can_mount {
                    skipped("mounting is not allowed here");
                    continue;
                }
                scope.spawn(move || takes_its_place(engine, what, reason, is_mount));
            }
        });
    }
}

#[test]
fn what_is_no_socket_is_not_replaced_by_one_and_a_stale_socket_is() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("l.sock");
    let address = format!("unix:{}", path.display());
    for (what, is_bound) in [
        ("echo precious > \"$0\"", false),
        ("mkdir \"$0\"", false),
        ("mkfifo \"$0\"", false),
        ("ln -s nothing \"$0\"", false),
        ("ln -s /dev/null \"$0\"", false),
        ("", true),
    ] {
        if is_bound {
            drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        }
        assert_eq!(run(Command::new("sh").args(["-c", what]).arg(&path)).0, Some(0));
        let before = fs::symlink_metadata(&path).unwrap();
        let data = tempfile::tempdir().unwrap();
        let mut command = larder(&["serve", "--engine", "epoll", "--listen", &address], data.path());
        command.env("LARDER_AUTH_MODE", "open");
        if is_bound {
            assert_eq!(end(started(&mut command, "listening on").0), Some(0));
            continue;
        }
        let (code, said) = run(&mut command);
        assert!(code == Some(78) && said.contains("no socket stands there"), "{what}: {code:?} {said}");
        assert_eq!(before.ino(), fs::symlink_metadata(&path).unwrap().ino());
        run(Command::new("rm").arg("-r").arg(&path));
    }
}

#[test]
fn as_many_connections_may_wait_as_is_set_and_the_kernel_allows() {
    let allowed: usize = fs::read_to_string("/proc/sys/net/core/somaxconn").unwrap().trim().parse().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("l.sock");
    let unix = format!("unix:{}", socket.display());
    for (engine, listen, set, backlog) in [
        ("tiny_http", "127.0.0.1:0", "", 1024),
        ("epoll", "127.0.0.1:0", "", 1024),
        ("tiny_http", "127.0.0.1:0", "7", 7),
        ("epoll", "[::]:0", "300", 300),
        ("epoll", &unix, "", 1024),
        ("epoll", &unix, "9", 9),
        ("epoll", "127.0.0.1:0", "65535", 65_535),
    ] {
        let mut command = larder(&["serve", "--engine", engine, "--listen", listen], &folder.path().join("data"));
        command.env("LARDER_AUTH_MODE", "open");
        if !set.is_empty() {
            command.env("LARDER_SERVER_BACKLOG", set);
        }
        let (child, said, _) = started(&mut command, "listening on ");
        let at = said.lines().next().unwrap().rsplit([' ', '/']).next().unwrap().to_owned();
        let Ok(output) = Command::new("ss").args(["-lntxH"]).output() else {
            return skipped("ss is not installed");
        };
        let listed = String::from_utf8_lossy(&output.stdout).into_owned();
        let port = at.rsplit(':').next().unwrap();
        let is_ours = |line: &&str| line.contains(&format!(":{port} ")) || line.contains(&socket.display().to_string());
        let line = listed.lines().find(is_ours).unwrap_or_else(|| panic!("{at} is not in {listed}"));
        // State, those that wait, those that may.
        let may = line.split_whitespace().skip_while(|word| *word != "LISTEN").nth(2).unwrap();
        assert_eq!(may, backlog.min(allowed).to_string(), "{engine} {listen} {set}: {line}");
        assert_eq!(end(child), Some(0));
        let mut check = larder(&["check", "--engine", engine, "--listen", listen], &folder.path().join("data"));
        let (_, said) = run(check.env("LARDER_AUTH_MODE", "open").env("LARDER_SERVER_BACKLOG", backlog.to_string()));
        assert_eq!(said.contains("the kernel cuts it to"), backlog > allowed, "{said}");
    }
}
