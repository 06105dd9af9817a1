//! Small requests that could become large ones: import lines, conditions, cursors, compressed files.

use crate::scenarios::gzip;
use crate::scene::{Held, Scene, status};

/// Imports run on so many lanes; the others are refused.
const IMPORTS: usize = 2;

fn imports(scene: &Scene, lines: &[u8]) -> Held {
    let body = gzip(lines);
    let head = format!(
        "POST /api/v1/import?partial=true HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {}\r\n\
         Content-Type: application/x-ndjson\r\nContent-Encoding: gzip\r\nContent-Length: {}\r\n\r\n",
        scene.admin,
        body.len()
    );
    let mut held = scene.send(IMPORTS, |_| [head.as_bytes(), &body].concat());
    for stream in &mut held {
        assert_eq!(status(stream), Some(200), "{}", scene.engine);
    }
    held
}

fn line(value: &str) -> String {
    format!(r#"{{"namespace":"n","collection":"c","key":"k","value":{value}}}{}"#, "\n")
}

/// Values of very many small members, of very many levels, and a line without an end.
pub fn imported_values(scene: &Scene) -> Held {
    let members: Vec<String> = (0..80_000).map(|n| format!("\"{n}\":1")).collect();
    let many = line(&format!("{{{}}}", members.join(",")));
    let deep = line(&format!("{}{}", "[".repeat(400_000), "]".repeat(400_000)));
    let huge = line(&format!("\"{}\"", "x".repeat(40 << 20)));
    imports(scene, [many, deep, huge].concat().as_bytes())
}

/// What is wrong with a line is told; the line itself is not told again.
pub fn imported_faults(scene: &Scene) -> Held {
    let long = "\\u0001".repeat(80_000);
    let faults = [
        format!("{{\"{long}\":1}}\n"),
        format!("{{\"namespace\":\"n\",\"version\":\"{long}\"}}\n"),
        format!("{{\"namespace\":\"n\",\"{long}\":1}}\n"),
    ];
    imports(scene, faults.concat().repeat(20).as_bytes())
}

/// Operations that name what there is not, at length.
pub fn faulty_batches(scene: &Scene) -> Held {
    let long = "\\u0001".repeat(150_000);
    let operation = format!(r#"{{"namespace":"n","collection":"c","operations":[{{"op":"put","{long}":1}}]}}"#);
    let document = format!(r#"{{"namespace":"n","{long}":1}}"#);
    let bodies = [gzip(operation.as_bytes()), gzip(document.as_bytes())];
    let batch = |n: usize| {
        let body = &bodies[n % 2];
        let fields =
            format!("Content-Type: application/json\r\nContent-Encoding: gzip\r\nContent-Length: {}\r\n", body.len());
        [scene.head("POST /api/v1/batch", &fields).as_bytes(), body].concat()
    };
    let mut held = scene.send(16, batch);
    for stream in &mut held {
        assert_eq!(status(stream), Some(400), "{}", scene.engine);
    }
    held
}

/// Thousands of tags, on reads and on writes.
pub fn many_tags(scene: &Scene) -> Held {
    let tags = vec!["\"1\""; 7000].join(",");
    scene.send(200, |n| match n % 2 {
        0 => scene.head("GET /api/v1/kv/n/c/k", &format!("If-None-Match: {tags}\r\n")).into(),
        _ => scene.head("PUT /api/v1/kv/n/c/k", &format!("If-None-Match: {tags}\r\nContent-Length: 0\r\n")).into(),
    })
}

/// Cursors that nobody gave out, as long as a head may be.
pub fn long_cursors(scene: &Scene) -> Held {
    let cursor = "A".repeat(28_000);
    let mut held = scene.send(200, |_| scene.head(&format!("GET /api/v1/kv/n/c?cursor={cursor}"), "").into());
    for stream in &mut held {
        assert!(matches!(status(stream), Some(400 | 414 | 431)), "{}", scene.engine);
    }
    held
}

/// A file that is compressed while it is sent, and that nobody reads.
pub fn unread_compressed_files(scene: &Scene) -> Held {
    let words = crate::scenarios::noise(3, 4 << 20).iter().map(|byte| b'a' + byte % 64).collect::<Vec<u8>>();
    std::fs::write(scene.www().join("large.txt"), words).unwrap();
    let head = scene.head("GET /large.txt", "Accept-Encoding: gzip\r\n");
    let mut held = scene.send(150, |_| head.clone().into());
    // Whichever was read first: some find no room.
    assert!(held.iter_mut().any(|stream| status(stream) == Some(200)), "{}", scene.engine);
    held
}
