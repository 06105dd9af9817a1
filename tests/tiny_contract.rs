//! What every engine owes its handler and its clients, shown on the tiny_http engine with real sockets.

#![allow(clippy::unwrap_used, missing_docs)]

#[path = "support/tiny.rs"]
mod support;

use std::sync::atomic::Ordering;
use std::time::Duration;

use larder::http::Ended;
use larder::limits::Limits;
use support::{Client, eventually, start, start_with};

#[test]
fn a_quick_answer_keeps_the_connection() {
    let server = start(Limits::default());
    let mut client = server.connect();
    for _ in 0..100 {
        let got = client.get("/const");
        assert_eq!((got.status, got.text()), (200, "hello"));
        assert_eq!(got.field("connection"), None);
    }
    eventually("every answer is told", || server.handler.finished.lock().len() == 100);
    assert!(server.handler.finished.lock().iter().all(|told| *told == (200, true)));
}

#[test]
fn pipelined_answers_keep_their_order_when_the_first_comes_late_from_another_thread() {
    let server = start(Limits::default());
    let mut client = server.connect();
    client.send(
        "GET /hold?1 HTTP/1.1\r\nHost: x\r\n\r\nGET /const HTTP/1.1\r\nHost: x\r\n\r\n\
         GET /later?ms=1 HTTP/1.1\r\nHost: x\r\n\r\nGET /status?code=204 HTTP/1.1\r\nHost: x\r\n\r\n",
    );
    server.wait_held(1);
    server.release("/hold?1");
    assert_eq!(client.receive(false).text(), "/hold?1");
    assert_eq!(client.receive(false).text(), "hello");
    assert_eq!(client.receive(false).text(), "/later?ms=1");
    assert_eq!(client.receive(false).status, 204);
}

#[test]
fn nothing_is_begun_behind_an_unanswered_request_of_the_same_connection() {
    let server = start_with(Limits::default(), 4);
    let mut client = server.connect();
    client.send("GET /hold HTTP/1.1\r\nHost: x\r\n\r\nGET /const HTTP/1.1\r\nHost: x\r\n\r\n");
    server.wait_held(1);
    // Another connection is served meanwhile, and proves that the second request had its chance.
    let mut other = server.connect();
    for _ in 0..50 {
        assert_eq!(other.get("/status?code=200").status, 200);
    }
    assert!(!server.handler.begun.lock().contains(&"/const".to_owned()));
    server.release("/hold");
    assert_eq!(client.receive(false).text(), "/hold");
    assert_eq!(client.receive(false).text(), "hello");
}

#[test]
fn more_pipelined_requests_than_may_wait_end_the_connection() {
    let server = start(Limits { pipelined_requests_max: 4, ..Limits::default() });
    let mut client = server.connect();
    client.send("GET /hold HTTP/1.1\r\nHost: x\r\n\r\n");
    server.wait_held(1);
    client.send(&"GET /const HTTP/1.1\r\nHost: x\r\n\r\n".repeat(5));
    assert!(client.is_ended());
    server.release("/hold");
    assert!(!server.handler.begun.lock().contains(&"/const".to_owned()));
    assert_eq!(server.connect().get("/const").text(), "hello");
}

#[test]
fn a_long_pipeline_read_as_it_is_answered_is_fine() {
    let server = start(Limits { pipelined_requests_max: 16, ..Limits::default() });
    let mut client = server.connect();
    for round in 0..20 {
        for at in 0..16 {
            client.send(&format!("GET /later?ms=0&at={round}-{at} HTTP/1.1\r\nHost: x\r\n\r\n"));
        }
        for at in 0..16 {
            assert_eq!(client.receive(false).text(), format!("/later?ms=0&at={round}-{at}"));
        }
    }
}

#[test]
fn sixty_four_clients_at_once_on_a_fresh_server_are_all_answered() {
    let server = start(Limits::default());
    let clients: Vec<Client> = (0..64).map(|_| server.connect()).collect();
    let threads: Vec<_> = clients
        .into_iter()
        .map(|mut client| {
            std::thread::spawn(move || {
                for _ in 0..10 {
                    assert_eq!(client.get("/const").text(), "hello");
                }
                client
            })
        })
        .collect();
    // They stay open until all are served, so that no thread of tiny_http comes free by itself.
    let kept: Vec<Client> = threads.into_iter().map(|thread| thread.join().unwrap()).collect();
    assert_eq!(kept.len(), 64);
}

#[test]
fn a_slow_reader_of_large_answers_does_not_stop_the_workers() {
    let server = start(Limits { answers_bytes_max: 100_000_000, ..Limits::default() });
    let mut slow: Vec<Client> = (0..4).map(|_| server.connect()).collect();
    for client in &mut slow {
        client.send("GET /big?bytes=8000000 HTTP/1.1\r\nHost: x\r\n\r\n");
    }
    eventually("the large answers are made", || server.handler.begun.lock().len() == 4);
    let mut other = server.connect();
    for _ in 0..50 {
        assert_eq!(other.get("/const").text(), "hello");
        assert_eq!(other.get("/work?ms=0").text(), "done");
    }
    // Only two of them are written at a time, and nobody reads these two now: the others must get their turn.
    for client in slow.iter_mut().rev() {
        assert_eq!(client.receive(false).body.len(), 8_000_000);
        assert_eq!(client.get("/const").text(), "hello");
    }
}

#[test]
fn many_unread_answers_of_a_pipeline_do_not_stop_the_workers() {
    let server = start(Limits { pipelined_requests_max: 64, ..Limits::default() });
    let mut slow = server.connect();
    for _ in 0..40 {
        slow.send("GET /big?bytes=150000 HTTP/1.1\r\nHost: x\r\n\r\n");
    }
    let mut other = server.connect();
    for _ in 0..50 {
        assert_eq!(other.get("/work?ms=0").text(), "done");
    }
    for _ in 0..40 {
        assert_eq!(slow.receive(false).body.len(), 150_000);
    }
}

#[test]
fn busy_workers_do_not_hold_up_quick_requests() {
    let server = start_with(Limits::default(), 2);
    let mut busy: Vec<Client> = (0..6).map(|_| server.connect()).collect();
    for client in &mut busy {
        client.send("GET /work?ms=300 HTTP/1.1\r\nHost: x\r\n\r\n");
    }
    let mut quick = server.connect();
    eventually("both workers are at work", || server.handler.working.load(std::sync::atomic::Ordering::SeqCst) == 2);
    assert_eq!(quick.get("/const").text(), "hello");
    let working = server.handler.working.load(std::sync::atomic::Ordering::SeqCst);
    assert!(working <= 2, "no more handlers run than there are workers");
    for mut client in busy {
        assert_eq!(client.receive(false).text(), "done");
    }
}

#[test]
fn more_requests_than_may_wait_for_a_worker_are_503_with_retry_after() {
    let server = start_with(Limits { queued_requests_max: 1, ..Limits::default() }, 1);
    let mut clients: Vec<Client> = (0..4).map(|_| server.connect()).collect();
    for client in &mut clients {
        client.send("GET /work?ms=500 HTTP/1.1\r\nHost: x\r\n\r\n");
    }
    let mut statuses: Vec<u16> = Vec::new();
    for client in &mut clients {
        let got = client.receive(false);
        if got.status == 503 {
            assert!(got.text().contains("OVERLOADED"), "{got:?}");
            assert!(got.field("retry-after").is_some());
        }
        statuses.push(got.status);
    }
    assert!(statuses.contains(&503) && statuses.contains(&200), "{statuses:?}");
    assert_eq!(clients[0].get("/const").text(), "hello", "the connection goes on");
}

#[test]
fn a_request_that_waited_too_long_for_a_worker_is_told_while_the_workers_are_still_busy() {
    let server = start_with(Limits { request_timeout: Duration::from_millis(200), ..Limits::default() }, 1);
    let mut busy: Vec<Client> = (0..2).map(|_| server.connect()).collect();
    for client in &mut busy {
        client.send("GET /work?ms=3000 HTTP/1.1\r\nHost: x\r\n\r\n");
    }
    eventually("a worker is at work", || server.handler.working.load(Ordering::SeqCst) >= 1);
    let mut queued = server.connect();
    queued.send("DELETE /work HTTP/1.1\r\nHost: x\r\n\r\n");
    let got = queued.receive(false);
    assert_eq!(got.status, 503);
    assert!(got.text().contains("OVERLOADED") && got.text().contains(r#""written":"no""#), "{}", got.text());
    assert!(server.handler.working.load(Ordering::SeqCst) >= 1, "no worker became free for it");
    assert!(!server.handler.finished.lock().contains(&(200, true)));
}

#[test]
fn a_panic_is_500_and_the_server_lives() {
    let server = start(Limits::default());
    let mut client = server.connect();
    for _ in 0..5 {
        for target in ["/panic", "/panic-quick", "/drop"] {
            let got = client.get(target);
            assert_eq!(got.status, 500, "{target}");
            assert!(got.text().contains("INTERNAL"), "{target}");
        }
        client.send("PUT /panic-admit HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\nhi");
        assert!(client.receive(false).text().contains("\"written\":\"unknown\""));
    }
    assert_eq!(client.get("/const").text(), "hello");
    assert!(server.figure("larder_http_handler_panics_total") >= 15.0);
}

#[test]
fn head_and_bodiless_statuses_send_no_body() {
    let server = start(Limits::default());
    let mut client = server.connect();
    client.send("HEAD /const HTTP/1.1\r\nHost: x\r\n\r\n");
    assert_eq!(client.receive(true).field("content-length"), Some("5"));
    client.send("HEAD /pull HTTP/1.1\r\nHost: x\r\n\r\n");
    assert_eq!(client.receive(true).status, 200);
    for code in [204, 304] {
        let got = client.get(&format!("/status?code={code}"));
        assert_eq!((got.status, got.field("content-length")), (code, None));
    }
    assert_eq!(client.get("/const").text(), "hello", "nothing is left over on the connection");
}

#[test]
fn streamed_answers_are_chunked_or_have_their_length() {
    let server = start(Limits::default());
    let mut client = server.connect();
    let got = client.get("/pull?pieces=3");
    assert_eq!((got.field("transfer-encoding"), got.text()), (Some("chunked"), "piece;piece;piece;"));
    let got = client.get("/pull?pieces=20000");
    assert_eq!(got.body.len(), 120_000);
    let got = client.get("/pull?pieces=2&length=12");
    assert_eq!((got.field("content-length"), got.text()), (Some("12"), "piece;piece;"));
    assert_eq!(client.get("/const").text(), "hello");
}

#[test]
fn a_stream_that_breaks_its_length_ends_the_connection() {
    let server = start(Limits::default());
    let mut client = server.connect();
    client.send("GET /pull?pieces=1&length=12 HTTP/1.1\r\nHost: x\r\n\r\n");
    let mut all = Vec::new();
    let _ = std::io::Read::read_to_end(&mut client.stream, &mut all);
    let text = String::from_utf8(all).unwrap();
    assert!(!text.ends_with("piece;piece;"), "{text}");
    eventually("the handler is told", || server.handler.finished.lock().contains(&(200, false)));
}

#[test]
fn http_1_0_closes_unless_asked_to_keep() {
    let server = start(Limits::default());
    let mut client = server.connect();
    client.send("GET /const HTTP/1.0\r\n\r\n");
    let got = client.receive(false);
    assert_eq!((got.text(), got.field("connection")), ("hello", Some("close")));
    assert!(client.is_ended());

    let mut client = server.connect();
    for _ in 0..2 {
        client.send("GET /const HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
        assert_eq!(client.receive(false).field("connection"), Some("keep-alive"));
    }
    client.send("GET /pull?pieces=2 HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
    let got = client.receive(false);
    assert_eq!((got.text(), got.field("transfer-encoding")), ("piece;piece;", None));
}

#[test]
fn a_close_of_either_side_ends_the_connection_after_the_answer() {
    let server = start(Limits::default());
    let requests = [
        "GET /const HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
        "GET /const HTTP/1.1\r\nHost: x\r\nConnection: x\r\nConnection: close\r\n\r\n",
        "GET /close HTTP/1.1\r\nHost: x\r\n\r\n",
    ];
    for request in requests {
        let mut client = server.connect();
        client.send(request);
        let got = client.receive(false);
        assert_eq!((got.status, got.field("connection")), (200, Some("close")), "{request}");
        assert!(client.is_ended(), "{request}");
    }
}

#[test]
fn bodies_of_every_kind_arrive_whole() {
    let server = start(Limits::default());
    let mut client = server.connect();
    for size in [1, 1024, 1025, 70_000, 1 << 20] {
        let body = "b".repeat(size);
        client.send(&format!("PUT /echo HTTP/1.1\r\nHost: x\r\nContent-Length: {size}\r\n\r\n{body}"));
        assert_eq!(client.receive(false).body.len(), size);
    }
    client.send("PUT /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n");
    assert_eq!(client.receive(false).text(), "abcde");
    client.send("PUT /echo HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n");
    assert_eq!(client.receive(false).status, 100);
    client.send("hello");
    assert_eq!(client.receive(false).text(), "hello");
    client.send("PUT /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n");
    assert_eq!(client.receive(false).text(), "");
    assert_eq!(client.get("/const").text(), "hello");
}

#[test]
fn a_client_that_offers_an_upgrade_with_its_body_is_served_without_it() {
    let server = start(Limits::default());
    let long = "b".repeat(5000);
    let bodies = [
        ("Content-Length: 5\r\n\r\nhello".to_owned(), "hello"),
        (format!("Content-Length: 5000\r\n\r\n{long}"), &long),
        ("Transfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n".to_owned(), "hello"),
        ("Content-Length: 0\r\n\r\n".to_owned(), ""),
    ];
    for offer in ["Upgrade, HTTP2-Settings", "keep-alive, upgrade", "UPGRADE", "x\r\nConnection: upgrade"] {
        for (body, text) in &bodies {
            let request = format!(
                "PUT /echo HTTP/1.1\r\nHost: x\r\nConnection: {offer}\r\nUpgrade: h2c\r\nHTTP2-Settings: A\r\n{body}"
            );
            let mut client = server.connect();
            for cut in [0, request.find("grade").unwrap(), request.len() - 1] {
                client.send(&request[..cut]);
                client.send(&request[cut..]);
                let got = client.receive(false);
                assert_eq!((got.text(), got.field("connection")), (*text, None), "{offer}");
            }
            assert_eq!(client.get("/const").text(), "hello", "the connection goes on");
        }
    }
    let mut client = server.connect();
    client.send("GET /const HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n");
    assert_eq!(client.receive(false).text(), "hello");
    assert_eq!(client.get("/const").text(), "hello");
}

#[test]
fn imports_read_their_own_body_a_few_at_a_time() {
    let server = start(Limits { imports_max: 1, ..Limits::default() });
    let mut first = server.connect();
    first.send("POST /import HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n");
    eventually("the import runs", || server.handler.working.load(std::sync::atomic::Ordering::SeqCst) == 1);
    let mut second = server.connect();
    second.send("POST /import HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello");
    assert_eq!(second.receive(false).status, 503);
    first.send(&"i".repeat(100_000));
    assert_eq!(first.receive(false).text(), "100000");
    assert_eq!(first.get("/const").text(), "hello", "a body read to its end keeps the connection");
    first.send("POST /import HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n");
    assert_eq!(first.receive(false).text(), "3");
}

#[test]
fn an_import_may_be_longer_than_tiny_http_knows_and_the_last_of_its_connection() {
    let server = start(Limits::default());
    let bytes = (64 << 20) + 1;
    let piece = "i".repeat(1 << 20);
    for (start, fields, is_last) in [
        ("POST /import HTTP/1.1\r\nHost: x", format!("Content-Length: {bytes}"), false),
        ("POST /import HTTP/1.1\r\nHost: x\r\nConnection: close", format!("Content-Length: {bytes}"), true),
        ("POST /import HTTP/1.0", format!("Content-Length: {bytes}"), true),
        ("POST /import HTTP/1.1\r\nHost: x\r\nExpect: 100-continue", format!("Content-Length: {bytes}"), false),
        ("POST /import HTTP/1.1\r\nHost: x\r\nConnection: close", "Transfer-Encoding: chunked".to_owned(), true),
    ] {
        let mut client = server.connect();
        client.send(&format!("{start}\r\n{fields}\r\n\r\n"));
        if start.contains("Expect") {
            assert_eq!(client.receive(false).status, 100);
        }
        let is_chunked = fields.starts_with('T');
        for _ in 0..64 {
            client.send(&if is_chunked { format!("{:x}\r\n{piece}\r\n", piece.len()) } else { piece.clone() });
        }
        client.send(if is_chunked { "1\r\ni\r\n0\r\n\r\n" } else { "i" });
        assert_eq!(client.receive(false).text(), bytes.to_string(), "{start} {fields}");
        if is_last {
            assert!(client.is_ended());
        } else {
            assert_eq!(client.get("/const").text(), "hello");
        }
    }
    assert_eq!(server.figure("larder_tiny_http_leaked_threads"), 0.0);
}

#[test]
fn a_drain_answers_what_it_holds_and_takes_nothing_new() {
    let server = start(Limits::default());
    let mut idle = server.connect();
    assert_eq!(idle.get("/const").status, 200);
    let mut client = server.connect();
    client.send("GET /hold HTTP/1.1\r\nHost: x\r\n\r\nGET /const HTTP/1.1\r\nHost: x\r\n\r\n");
    server.wait_held(1);
    server.drain.start();
    assert!(idle.is_ended(), "an idle connection ends at once");
    assert!(!server.has_ended());
    server.release("/hold");
    let got = client.receive(false);
    assert_eq!((got.text(), got.field("connection")), ("/hold", Some("close")));
    assert_eq!(server.join(), Ended::Drained);
}

#[test]
fn a_drain_waits_for_bodies_that_are_still_coming_and_not_for_a_head_that_has_stalled() {
    let server = start(Limits { drain_timeout: Duration::from_secs(600), ..Limits::default() });
    let mut stalled = server.connect();
    stalled.send("GET /const HTTP/1.1\r\nHos");
    let bodies = ["Content-Length: 100\r\n", "Content-Length: 5000\r\n", "Transfer-Encoding: chunked\r\n"];
    let mut coming: Vec<Client> = bodies.iter().map(|_| server.connect()).collect();
    for (client, field) in coming.iter_mut().zip(bodies) {
        client.send(&format!("PUT /echo HTTP/1.1\r\nHost: x\r\n{field}\r\n"));
    }
    std::thread::sleep(Duration::from_millis(100));
    server.drain.start();
    // Longer than what stalls is given.
    for _ in 0..4 {
        std::thread::sleep(Duration::from_millis(400));
        coming[0].send(&"a".repeat(25));
        coming[1].send(&"a".repeat(1250));
        coming[2].send("3\r\naaa\r\n");
    }
    coming[2].send("0\r\n\r\n");
    for (client, bytes) in coming.iter_mut().zip([100, 5000, 12]) {
        let got = client.receive(false);
        assert_eq!((got.status, got.body.len()), (200, bytes));
    }
    assert!(stalled.is_ended());
    assert_eq!(server.stop(), Ended::Drained);
}

#[test]
fn a_drain_that_lasts_too_long_is_cut_short() {
    let server = start(Limits { drain_timeout: Duration::from_millis(300), ..Limits::default() });
    let mut client = server.connect();
    client.send("GET /hold HTTP/1.1\r\nHost: x\r\n\r\n");
    server.wait_held(1);
    let handler = std::sync::Arc::clone(&server.handler);
    assert_eq!(server.stop(), Ended::CutShort);
    assert!(client.is_ended());
    drop(handler);
}

#[test]
fn an_idle_engine_drains_at_once() {
    let server = start(Limits::default());
    assert_eq!(server.stop(), Ended::Drained);
}

#[test]
fn a_unix_listener_is_refused_with_the_name_of_the_engine_that_serves_it() {
    use larder::http::{DrainSignal, Engine, EngineOptions};
    let dir = tempfile::tempdir().unwrap();
    let listener = larder::http::listener::Listener::bind_unix(&dir.path().join("s")).unwrap();
    let options = EngineOptions {
        workers: 1,
        io_threads: 1,
        limits: Default::default(),
        unbounded: Default::default(),
        drain: DrainSignal::default(),
        registry: Default::default(),
        watchdog: Default::default(),
    };
    let handler = std::sync::Arc::new(support::Steered::default());
    let error = larder::http::tiny::TinyHttp.serve(vec![listener], handler, options).unwrap_err();
    assert!(error.to_string().contains("epoll"), "{error}");
}
