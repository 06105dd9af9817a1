//! Values from outside: each row of the contract's table, the good answer and the bad one, on every engine.
#![allow(clippy::unwrap_used)]

mod support;

use support::{Server, on_every_engine};

const KEY: &str = "/api/v1/kv/home/sensors/t1";

#[test]
fn a_head_of_what_would_be_gzipped_announces_its_form_and_no_length() {
    on_every_engine(|server| {
        let text = "line of text\n".repeat(40_000);
        let page = "/api/v1/kv/home/sensors";
        server.send("PUT", KEY, &[("Content-Type", "text/plain")], text.as_bytes()).expect(201);
        let gzip = [("Accept-Encoding", "gzip")];
        for path in [KEY, page, "/api/v1/stats"] {
            let head = server.send("HEAD", path, &gzip, b"").expect(200);
            assert_eq!(head.header("Content-Encoding"), Some("gzip"), "{path}");
            assert_eq!((head.header("Content-Length"), head.header("Transfer-Encoding")), (None, None), "{path}");
            assert!(head.body.is_empty(), "{path}");
            let get = server.send("GET", path, &gzip, b"").expect(200);
            for field in ["ETag", "Content-Type", "Content-Encoding", "Vary", "Cache-Control", "Last-Modified"] {
                assert_eq!(head.header(field), get.header(field), "{path} {field}");
            }
            // The connection goes on behind it, and the identity form has its length.
            let mut client = server.client();
            for _ in 0..3 {
                client.send("HEAD", path, &gzip, b"").expect(200);
                let plain = client.send("HEAD", path, &[], b"").expect(200);
                assert!(plain.header("Content-Length").is_some(), "{path}");
            }
            assert_eq!(client.send("GET", KEY, &[], b"").expect(200).body.len(), text.len(), "{path}");
        }
        let tag = server.send("HEAD", KEY, &gzip, b"").header("ETag").unwrap().to_owned();
        assert!(tag.ends_with("-gzip\""), "{tag}");
        server.send("HEAD", KEY, &[gzip[0], ("If-None-Match", &tag)], b"").expect(304);
        server.send("HEAD", KEY, &[gzip[0], ("If-Match", "\"1-other\"")], b"").expect(412);
    });
}

#[test]
fn a_value_comes_back_as_it_went_in() {
    on_every_engine(|server| {
        let created = server.send("PUT", KEY, &[("Content-Type", "text/plain; charset=utf-8")], b"21.5").expect(201);
        assert_eq!(created.header("Location"), Some(KEY));
        assert_eq!(created.header("Larder-Durability"), Some("synced"));
        let version = created.version();
        assert!(version > 0);

        let read = server.get(KEY).expect(200);
        assert_eq!(read.text(), "21.5");
        assert_eq!(read.version(), version);
        assert_eq!(read.header("Content-Type"), Some("text/plain; charset=utf-8"));
        assert_eq!(read.header("Cache-Control"), Some("no-cache"));
        assert_eq!(read.header("Vary"), Some("Accept-Encoding"));
        assert_eq!(read.header("Accept-Ranges"), Some("bytes"));
        assert!(read.header("Last-Modified").is_some() && read.header("Date").is_some());
        assert!(read.header("Server").is_some_and(|name| name.starts_with("larder/")));
        assert_eq!(read.header("Larder-Ttl"), None);

        let head = server.send("HEAD", KEY, &[], b"").expect(200);
        assert_eq!(head.header("Content-Length"), Some("4"));
        assert_eq!(head.header("ETag"), read.header("ETag"));

        let replaced = server.put(KEY, b"22").expect(204);
        assert!(replaced.version() > version);
        assert_eq!(replaced.header("Location"), None);
        assert_eq!(server.get(KEY).header("Content-Type"), Some("application/octet-stream"));

        let deleted = server.delete(KEY).expect(204);
        let deletion: u64 = deleted.header("Larder-Version").unwrap().parse().unwrap();
        assert!(deletion > replaced.version());
        assert_eq!(server.get(KEY).expect(404).code(), "NOT_FOUND");
        assert_eq!(server.delete(KEY).expect(404).code(), "NOT_FOUND");
        assert!(server.put(KEY, b"").expect(201).version() > deletion);
        assert_eq!(server.get(KEY).expect(200).body, b"");
    });
}

#[test]
fn every_byte_travels_in_keys_and_values() {
    on_every_engine(|server| {
        let all: Vec<u8> = (0..=255).collect();
        server.put("/api/v1/kv/a/b/all", &all).expect(201);
        assert_eq!(server.get("/api/v1/kv/a/b/all").body, all);
        let mut client = server.client();
        for byte in 1..=127u8 {
            if byte == b'.' {
                continue;
            }
            let path = format!("/api/v1/kv/a/keys/%{byte:02X}");
            client.send("PUT", &path, &[], &[byte]).expect(201);
            assert_eq!(client.send("GET", &path, &[], b"").expect(200).body, [byte]);
        }
        for (path, code) in [
            ("/api/v1/kv/a/keys/%00", "INVALID_KEY"),
            ("/api/v1/kv/a/keys/%FF", "INVALID_KEY"),
            ("/api/v1/kv/a/keys/%zz", "INVALID_KEY"),
            ("/api/v1/kv/a/keys/%2E%2E", "INVALID_KEY"),
            ("/api/v1/kv/_a/keys/x", "INVALID_NAMESPACE"),
            ("/api/v1/kv/a/.keys/x", "INVALID_COLLECTION"),
            ("/api/v1/kv/a/ke%20ys/x", "INVALID_COLLECTION"),
        ] {
            assert_eq!(client.send("PUT", path, &[], b"1").expect(400).code(), code, "{path}");
            assert_eq!(client.send("GET", path, &[], b"").expect(400).code(), code, "{path}");
        }
        let long = "k".repeat(512);
        client.send("PUT", &format!("/api/v1/kv/a/b/{long}"), &[], b"1").expect(201);
        assert_eq!(client.send("PUT", &format!("/api/v1/kv/a/b/{long}k"), &[], b"1").expect(400).code(), "INVALID_KEY");
        client.send("PUT", "/api/v1/kv/a/b/x%2Fy", &[], b"slash").expect(201);
        client.send("GET", "/api/v1/kv/a/b/x/y", &[], b"").expect(404);
        assert_eq!(client.send("GET", "/api/v1/kv/a/b/x%2fy", &[], b"").text(), "slash");
    });
}

#[test]
fn conditions_guard_reads_and_writes() {
    on_every_engine(|server| {
        let tag = server.put(KEY, b"1").expect(201).header("ETag").unwrap().to_owned();
        let date = server.get(KEY).header("Last-Modified").unwrap().to_owned();
        let read = |name: &str, value: &str| server.send("GET", KEY, &[(name, value)], b"");
        let unchanged = read("If-None-Match", &tag).expect(304);
        assert_eq!(unchanged.header("ETag"), Some(tag.as_str()));
        assert_eq!(unchanged.header("Cache-Control"), Some("no-cache"));
        read("If-None-Match", &format!("\"999\", W/{tag}")).expect(304);
        read("If-None-Match", "*").expect(304);
        read("If-None-Match", "\"999\"").expect(200);
        read("If-Modified-Since", &date).expect(304);
        read("If-Match", "\"999\"").expect(412);
        read("If-Unmodified-Since", "Thu, 01 Jan 1970 00:00:00 GMT").expect(412);
        read("If-None-Match", "no-quotes").expect(400);

        let write = |name: &str, value: &str| server.send("PUT", KEY, &[(name, value)], b"2");
        assert_eq!(write("If-None-Match", "*").expect(412).code(), "PRECONDITION_FAILED");
        assert_eq!(write("If-Match", "\"999\"").expect(412).code(), "PRECONDITION_FAILED");
        write("If-Match", &format!("W/{tag}")).expect(412);
        write("If-Unmodified-Since", "Thu, 01 Jan 1970 00:00:00 GMT").expect(412);
        let newer = write("If-Match", &tag).expect(204).header("ETag").unwrap().to_owned();
        write("If-Match", &tag).expect(412);
        write("If-Match", &format!("{}-gzip\"", newer.trim_end_matches('"'))).expect(204);
        server.send("DELETE", KEY, &[("If-Match", "\"1\"")], b"").expect(412);
        server.send("DELETE", KEY, &[("If-Match", "*")], b"").expect(204);
        server.send("PUT", KEY, &[("If-Match", "*")], b"").expect(412);
        server.send("DELETE", KEY, &[("If-Match", "*")], b"").expect(404);
        server.send("GET", KEY, &[("If-Match", "*")], b"").expect(404);
        server.send("PUT", KEY, &[("If-None-Match", "*")], b"").expect(201);
    });
}

#[test]
fn a_ttl_ends_a_value_and_a_write_without_one_clears_it() {
    on_every_engine(|server| {
        server.put(&format!("{KEY}?ttl=100"), b"long").expect(201);
        let left: f64 = server.get(KEY).expect(200).header("Larder-Ttl").unwrap().parse().unwrap();
        assert!(left > 0.0 && left <= 100.0, "{left}");
        server.put(&format!("{KEY}?ttl=0.1"), b"short").expect(204);
        support::eventually("the value expires", || server.get(KEY).status == 404);
        server.delete(KEY).expect(404);
        server.put(&format!("{KEY}?ttl=100"), b"long").expect(201);
        server.put(KEY, b"for ever").expect(204);
        assert_eq!(server.get(KEY).header("Larder-Ttl"), None);
        for bad in ["0", "-1", "x", "", "1e10", "9999999999999999"] {
            assert_eq!(server.put(&format!("{KEY}?ttl={bad}"), b"").expect(400).code(), "INVALID_TTL", "{bad}");
        }
    });
}

#[test]
fn a_relaxed_write_says_so_and_can_be_read_at_once() {
    on_every_engine(|server| {
        let answer = server.put(&format!("{KEY}?durability=relaxed"), b"1").expect(201);
        // More than the interval where syncs take longer.
        let durability = answer.header("Larder-Durability").unwrap();
        let seconds = durability.strip_prefix("relaxed; max-loss=").and_then(|rest| rest.strip_suffix('s')).unwrap();
        assert!(seconds.parse::<f64>().unwrap() >= 1.0, "{durability}");
        assert_eq!(server.get(KEY).expect(200).text(), "1");
        assert_eq!(server.put(&format!("{KEY}?durability=maybe"), b"1").expect(400).code(), "INVALID_QUERY");
        assert_eq!(server.put(&format!("{KEY}?tll=1"), b"1").expect(400).code(), "INVALID_QUERY");
        assert_eq!(server.put(&format!("{KEY}?ttl=1&ttl=2"), b"1").expect(400).code(), "INVALID_QUERY");
        assert_eq!(server.get(&format!("{KEY}?x=1")).expect(400).code(), "INVALID_QUERY");
    });
}

#[test]
fn limits_are_answered_not_clamped() {
    on_every_engine(|server| {
        let mib = vec![b'x'; 1 << 20];
        server.put(KEY, &mib).expect(201);
        assert_eq!(server.get(KEY).body.len(), mib.len());
        let over = server.put(KEY, &vec![b'x'; (1 << 20) + 1]).expect(413);
        assert_eq!(over.code(), "VALUE_TOO_LARGE");
        assert_eq!(server.get(KEY).body.len(), mib.len());
        let long = format!("/api/v1/kv/a/b/{}", "x".repeat(9000));
        assert_eq!(server.get(&long).status, 414);
    });
}

#[test]
fn chunked_and_empty_bodies_are_bodies() {
    on_every_engine(|server| {
        let mut connection = server.connect();
        connection.write(
            format!("PUT {KEY} HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n")
                .as_bytes(),
        );
        connection.read(false).expect(201);
        connection.write(format!("GET {KEY} HTTP/1.1\r\nHost: localhost\r\n\r\n").as_bytes());
        assert_eq!(connection.read(false).text(), "abcde");
        connection.write(format!("PUT {KEY} HTTP/1.1\r\nHost: localhost\r\n\r\n").as_bytes());
        assert_eq!(connection.read(false).expect(411).code(), "LENGTH_REQUIRED");
        let refused = server.send("PUT", KEY, &[("Transfer-Encoding", "gzip, chunked")], b"0\r\n\r\n");
        assert_eq!(refused.expect(501).code(), "NOT_IMPLEMENTED");
    });
}

#[test]
fn a_body_that_is_cut_is_not_stored() {
    on_every_engine(|server| {
        let cut = ["Content-Length: 9\r\n\r\nhalf", "Content-Length: 2000\r\n\r\nhalf"];
        let cut_chunks = ["9\r\nhalf", "4\r\nhalf\r\n9\r\nha", "4\r\nhalf", "4\r\nhalf\r\n", "4\r\nhalf\r\n0\r\n"];
        let cut_chunks = cut_chunks.map(|chunks| format!("Transfer-Encoding: chunked\r\n\r\n{chunks}"));
        for rest in cut.iter().copied().chain(cut_chunks.iter().map(String::as_str)) {
            let mut connection = server.connect();
            connection.write(format!("PUT {KEY} HTTP/1.1\r\nHost: localhost\r\n{rest}").as_bytes());
            connection.stream().shutdown(std::net::Shutdown::Write).unwrap();
            let answer = String::from_utf8(connection.read_to_end()).unwrap();
            assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 400 "), "{rest:?}: {answer}");
            server.get(KEY).expect(404);
        }
    });
}

#[test]
fn a_continue_is_sent_only_for_a_body_that_is_wanted() {
    on_every_engine(|server| {
        let mut connection = server.connect();
        let head = |length: usize| {
            format!("PUT {KEY} HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\nContent-Length: {length}\r\n\r\n")
        };
        connection.write(head(2000).as_bytes());
        assert_eq!(connection.read_head().unwrap().0, 100);
        connection.write(&[b'x'; 2000]);
        connection.read(false).expect(201);
        let mut connection = server.connect();
        connection.write(head(5 << 20).as_bytes());
        assert_eq!(connection.read_head().unwrap().0, 413);
    });
}

#[test]
fn other_methods_and_paths_are_told_what_there_is() {
    on_every_engine(|server| {
        let refused = server.send("POST", KEY, &[], b"").expect(405);
        assert_eq!(refused.code(), "METHOD_NOT_ALLOWED");
        assert_eq!(refused.header("Allow"), Some("GET, HEAD, PUT, PATCH, DELETE, OPTIONS"));
        let options = server.send("OPTIONS", KEY, &[], b"").expect(204);
        assert_eq!(options.header("Allow"), refused.header("Allow"));
        for path in ["/api/v1/kv/a/b/c/", "/api/v1/kv/a/b/", "/api/v2", "/nothing", "/health/", "/api/v1/kv/a/b/c/d/e"]
        {
            assert_eq!(server.get(path).expect(404).code(), "NOT_FOUND", "{path}");
        }
        assert_eq!(server.send("DELETE", "/health", &[], b"").expect(405).header("Allow"), Some("GET, HEAD, OPTIONS"));
        let health = server.get("/health").expect(200).json();
        assert_eq!(health["status"], "ok");
        assert_eq!(health["store"], "ok");
        assert!(health["version"].is_string() && health["uptime_seconds"].is_u64(), "{health}");
        server.get("/health/live").expect(200);
    });
}

#[test]
fn identifiers_are_echoed_and_stand_in_problems() {
    on_every_engine(|server| {
        let parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        let headers = [("X-Request-Id", "abc-1"), ("traceparent", parent)];
        let missing = server.send("GET", KEY, &headers, b"").expect(404);
        assert_eq!(missing.json()["request_id"], "abc-1");
        assert_eq!(missing.header("X-Request-Id"), Some("abc-1"));
        assert_eq!(missing.header("traceparent"), Some(parent));
        let put = server.send("PUT", KEY, &headers, b"1").expect(201);
        assert_eq!(put.header("X-Request-Id"), Some("abc-1"));
        let odd = server.send("GET", KEY, &[("X-Request-Id", "a b"), ("traceparent", "junk")], b"").expect(200);
        assert_eq!((odd.header("X-Request-Id"), odd.header("traceparent")), (None, None));
    });
}

#[test]
fn gzip_is_offered_for_text_and_has_its_own_tag() {
    on_every_engine(|server| {
        let text = "all work and no play ".repeat(200);
        server.send("PUT", KEY, &[("Content-Type", "text/plain")], text.as_bytes()).expect(201);
        let read = |headers: &[(&str, &str)]| server.send("GET", KEY, headers, b"");
        for _ in 0..3 {
            let zipped = read(&[("Accept-Encoding", "gzip")]).expect(200);
            assert_eq!(zipped.header("Content-Encoding"), Some("gzip"));
            assert!(zipped.body.len() < text.len() / 4);
            let tag = zipped.header("ETag").unwrap().to_owned();
            assert!(tag.ends_with("-gzip\""), "{tag}");
            let same = read(&[("Accept-Encoding", "gzip"), ("If-None-Match", &tag)]).expect(304);
            assert_eq!(same.header("ETag"), Some(tag.as_str()));
        }
        assert_eq!(read(&[("Accept-Encoding", "gzip"), ("X-No-Compression", "1")]).text(), text);
        assert_eq!(read(&[("Accept-Encoding", "gzip;q=0")]).text(), text);
        assert_eq!(read(&[]).text(), text);
        assert_eq!(read(&[("Accept-Encoding", "identity;q=0, gzip;q=0")]).expect(406).code(), "NOT_ACCEPTABLE");
        let part = read(&[("Range", "bytes=4-7"), ("Accept-Encoding", "gzip")]).expect(206);
        assert_eq!(part.text(), &text[4..8]);
        assert_eq!(part.header("Content-Range"), Some(format!("bytes 4-7/{}", text.len()).as_str()));
        assert_eq!(read(&[("Range", "bytes=99999-")]).expect(416).code(), "RANGE_NOT_SATISFIABLE");
        assert_eq!(read(&[("Range", "bytes=4-7"), ("If-Range", "\"999\"")]).expect(200).text(), text);
    });
}

#[test]
fn metrics_count_what_happened() {
    on_every_engine(|server: &Server| {
        server.put(KEY, b"1").expect(201);
        for _ in 0..3 {
            server.get(KEY).expect(200);
        }
        server.get("/api/v1/kv/home/sensors/none").expect(404);
        support::eventually("the requests are counted", || {
            let route = "route=\"/api/v1/kv/{namespace}/{collection}/{key}\"";
            let page = server.get("/metrics").expect(200).text();
            let count = |method: &str, status: &str| {
                page.lines()
                    .filter(|line| line.starts_with("larder_http_requests_total{"))
                    .filter(|line| line.contains(route) && line.contains(method) && line.contains(status))
                    .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
                    .sum::<f64>()
            };
            count("\"GET\"", "\"200\"") == 3.0
                && count("\"GET\"", "\"404\"") == 1.0
                && count("\"PUT\"", "\"201\"") == 1.0
        });
        assert!(server.metric("larder_http_errors_total{code=\"NOT_FOUND\"}") >= 1.0);
        assert_eq!(server.get("/metrics").header("Content-Type"), Some("text/plain; version=0.0.4; charset=utf-8"));
    });
}

#[test]
fn values_survive_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let first = Server::builder().data(folder.path()).start();
    let version = first.put(KEY, b"kept").expect(201).version();
    let log = first.log();
    assert!(first.stop().success(), "{log}");
    let second = Server::builder().data(folder.path()).start();
    let read = second.get(KEY).expect(200);
    assert_eq!((read.text().as_str(), read.version()), ("kept", version));
    assert!(second.put(KEY, b"newer").expect(204).version() > version);
}

#[test]
fn a_slow_body_has_its_own_time() {
    for engine in support::engines() {
        let server = Server::builder().engine(&engine).config("[limits]\nrequest_timeout = \"1s\"").start();
        let mut connection = server.connect();
        connection.write(format!("PUT {KEY} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 4000\r\n\r\n").as_bytes());
        for _ in 0..8 {
            std::thread::sleep(std::time::Duration::from_millis(200));
            connection.write(&[b'x'; 500]);
        }
        connection.read(false).expect(201);
    }
}

#[test]
fn what_a_rule_says_never_outlives_the_value() {
    for engine in support::engines() {
        for (rule, forever, short) in [
            (
                "public, max-age=600, stale-while-revalidate=6000",
                "public, max-age=600, stale-while-revalidate=6000",
                "public, max-age=99, stale-while-revalidate=0",
            ),
            (
                "public, max-age=0, s-maxage=600, stale-if-error=6000",
                "public, max-age=0, s-maxage=600, stale-if-error=6000",
                "public, max-age=0, s-maxage=99, stale-if-error=0",
            ),
            (
                "Public, stale-while-revalidate=6000",
                "public, stale-while-revalidate=6000",
                "public, stale-while-revalidate=99, max-age=0",
            ),
            ("max-age=600, immutable", "max-age=600, immutable", "max-age=99"),
            ("public", "public", "public, max-age=0"),
            ("no-store", "no-store", "no-store"),
        ] {
            let config =
                format!("[auth]\npublic_read = \"a\"\n[[cache_control]]\nnamespace = \"a\"\nvalue = \"{rule}\"");
            let server = Server::builder().engine(&engine).config(&config).start();
            server.put("/api/v1/kv/a/b/forever", b"x").expect(201);
            assert_eq!(server.get("/api/v1/kv/a/b/forever").header("Cache-Control"), Some(forever), "{rule}");
            // However slow this test is: the seconds left are 99 at most, and what is said is at most that.
            server.put("/api/v1/kv/a/b/short?ttl=99.999", b"x").expect(201);
            let read = server.get("/api/v1/kv/a/b/short").expect(200);
            let tag = read.header("ETag").expect("a tag").to_owned();
            let same = server.send("GET", "/api/v1/kv/a/b/short", &[("If-None-Match", &tag)], b"").expect(304);
            let head = server.send("HEAD", "/api/v1/kv/a/b/short", &[], b"").expect(200);
            for answer in [read, same, head] {
                let said = answer.header("Cache-Control").expect("Cache-Control");
                let shape = |text: &str| text.replace(|c: char| c.is_ascii_digit(), "");
                assert_eq!(shape(said), shape(short), "{rule}: {said}");
                let seconds =
                    |text: &str| text.split(['=', ',']).filter_map(|word| word.parse().ok()).collect::<Vec<u64>>();
                assert!(seconds(said).iter().zip(seconds(short)).all(|(said, most)| *said <= most), "{rule}: {said}");
            }
        }
    }
}

#[test]
fn what_a_token_protects_is_kept_out_of_shared_caches() {
    for engine in support::engines() {
        let config = "[auth]\npublic_read = \"site\"\n[[cache_control]]\nvalue = \"max-age=60\"";
        let server = Server::builder().engine(&engine).config(config).start();
        for (path, said) in [(KEY, "private, max-age=60"), ("/api/v1/kv/site/b/c", "max-age=60")] {
            server.put(path, b"x").expect(201);
            let read = server.get(path).expect(200);
            assert_eq!(read.header("Cache-Control"), Some(said), "{path}");
            let tag = read.header("ETag").expect("a tag");
            let same = server.send("GET", path, &[("If-None-Match", tag)], b"").expect(304);
            assert_eq!(same.header("Cache-Control"), Some(said), "{path}");
            let part = server.send("GET", path, &[("Range", "bytes=0-0")], b"").expect(206);
            assert_eq!(part.header("Cache-Control"), Some(said), "{path}");
            server.put(&format!("{path}?ttl=50"), b"x").expect(204);
            let short = server.get(path).expect(200).header("Cache-Control").expect("Cache-Control").to_owned();
            assert_eq!(short.starts_with("private, max-age="), path == KEY, "{short}");
        }
    }
}

#[test]
fn only_what_asks_for_it_is_read_past_the_cache() {
    on_every_engine(|server| {
        server.put(KEY, b"x").expect(201);
        server.get(KEY).expect(200);
        for (lines, past) in [
            (&["no-cache"][..], true),
            (&["No-Cache"], true),
            (&["max-age=0"], true),
            (&["foo, no-cache=\"x\""], true),
            (&["foo", "bar, no-cache"], true),
            (&["x-no-cache-please"], false),
            (&["no-cache-x"], false),
            (&["foo=\"a, no-cache\""], false),
            (&["max-age=10"], false),
            (&["max-age=+0"], false),
            (&["min-fresh=0, no-store"], false),
        ] {
            let hits = server.metric("larder_cache_hits_total");
            let fields: Vec<_> = lines.iter().map(|line| ("Cache-Control", *line)).collect();
            server.send("GET", KEY, &fields, b"").expect(200);
            let hit = server.metric("larder_cache_hits_total") > hits;
            assert_eq!(hit, !past, "{lines:?}");
        }
    });
}

#[test]
fn an_error_of_a_value_is_never_cacheable() {
    let rules = "[[cache_control]]\nvalue = \"private, max-age=60\"";
    let server = Server::builder().config(rules).start();
    server.put(&format!("{KEY}?ttl=100"), b"short").expect(201);
    assert_eq!(server.get(KEY).header("Cache-Control"), Some("private, max-age=60"));
    let error = server.send("GET", KEY, &[("Range", "bytes=90-")], b"").expect(416);
    let fields: Vec<_> = error.headers.iter().filter(|(name, _)| name == "Cache-Control").collect();
    assert_eq!(fields.len(), 1, "{fields:?}");
    assert_eq!(fields[0].1, "no-store");
}
