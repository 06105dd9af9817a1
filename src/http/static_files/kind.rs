//! The media type of a file by its name, and what follows from it: whether other forms of the file may lie beside it.
//!
//! The table is `mime_guess`'s, as the build script has written it. What stands here is where it knows less than browsers and players do, or something else.

use std::borrow::Cow;

use super::super::media::OCTET_STREAM;

/// Extensions that the table lacks, or has under a type that browsers or players do not take. Lower case, sorted.
const OWN: &[(&str, &str)] = &[
    ("3mf", "model/3mf"),
    ("cjs", "text/javascript"),
    ("deb", "application/vnd.debian.binary-package"),
    ("ico", "image/vnd.microsoft.icon"),
    ("jsonl", "application/x-ndjson"),
    ("ktx2", "image/ktx2"),
    ("m2ts", "video/mp2t"),
    ("m3u8", "application/vnd.apple.mpegurl"),
    ("m4a", "audio/mp4"),
    ("m4s", "video/iso.segment"),
    ("map", "application/json"),
    ("mid", "audio/midi"),
    ("midi", "audio/midi"),
    ("mjs", "text/javascript"),
    ("mtl", "model/mtl"),
    ("mts", "video/mp2t"),
    ("ndjson", "application/x-ndjson"),
    ("obj", "model/obj"),
    ("otf", "font/otf"),
    ("rpm", "application/x-rpm"),
    ("sqlite", "application/vnd.sqlite3"),
    ("stl", "model/stl"),
    // It is gzip, and is not sent with the coding that a browser needs to see the picture.
    ("svgz", "application/gzip"),
    ("tgz", "application/gzip"),
    ("toml", "application/toml"),
    ("topojson", "application/json"),
    ("ts", "video/mp2t"),
    ("ttml", "application/ttml+xml"),
    ("usdz", "model/vnd.usdz+zip"),
    ("wgsl", "text/wgsl"),
    ("woff", "font/woff"),
    ("yaml", "application/yaml"),
    ("yml", "application/yaml"),
    ("zst", "application/zstd"),
];

/// A line for each extension: `extension<TAB>type`.
const TABLE: &str = include_str!(concat!(env!("OUT_DIR"), "/types.txt"));

/// The type of a file by the extension of its name, whatever its case; `application/octet-stream` if it is not known.
/// Text types name their charset, since browsers guess otherwise; XML says its own.
pub fn by_name(name: &str) -> Cow<'static, str> {
    let Some((stem, extension)) = name.rsplit_once('.') else { return OCTET_STREAM.into() };
    if stem.is_empty() || stem.ends_with('/') {
        return OCTET_STREAM.into();
    }
    let extension = extension.to_ascii_lowercase();
    let own = OWN.binary_search_by(|(known, _)| (*known).cmp(&extension)).ok().map(|index| OWN[index].1);
    match own.or_else(|| in_table(&extension)).unwrap_or(OCTET_STREAM) {
        "text/xml" => "application/xml".into(),
        "application/javascript" => "text/javascript; charset=utf-8".into(),
        text if text.starts_with("text/") => format!("{text}; charset=utf-8").into(),
        other => other.into(),
    }
}

fn in_table(extension: &str) -> Option<&'static str> {
    let line = format!("\n{extension}\t");
    let at = memchr::memmem::find(TABLE.as_bytes(), line.as_bytes())?;
    TABLE[at + line.len()..].split('\n').next()
}

/// Whether files of this type may have compressed forms beside them; for these `Vary` is sent with every form.
pub fn has_other_forms(content_type: &str) -> bool {
    const COMPRESSED: &[&str] = &[
        "application/gzip",
        "application/zip",
        "application/zstd",
        "application/x-bzip2",
        "application/x-xz",
        "application/x-7z-compressed",
        "font/woff",
        "font/woff2",
    ];
    let picture = content_type.starts_with("image/") && !matches!(content_type, "image/svg+xml" | "image/bmp");
    let sound = content_type.starts_with("video/") || content_type.starts_with("audio/");
    !picture && !sound && !COMPRESSED.contains(&content_type)
}

#[cfg(test)]
mod tests {
    use super::super::super::media;
    use super::*;

    #[test]
    fn every_type_is_well_formed_and_no_text_is_without_its_charset() {
        assert!(OWN.windows(2).all(|pair| pair[0].0 < pair[1].0));
        let known = mime_guess::get_extensions("*", "*").unwrap();
        assert!(known.len() > 1000);
        for extension in known {
            assert_eq!(in_table(&extension.to_lowercase()), mime_guess::from_ext(extension).first_raw(), "{extension}");
            assert!(media::validate(&by_name(&format!("x.{extension}"))).is_ok(), "{extension}");
        }
        for (extension, own) in OWN {
            let content_type = by_name(&format!("x.{extension}"));
            assert!(content_type.starts_with(own) && media::validate(&content_type).is_ok(), "{content_type}");
            assert_eq!(content_type.starts_with("text/"), content_type.ends_with("; charset=utf-8"), "{content_type}");
        }
    }

    #[test]
    fn names_get_the_types_that_browsers_and_players_take() {
        for (name, expected) in [
            ("app.3f2a9c1b.WASM", "application/wasm"),
            ("index.html", "text/html; charset=utf-8"),
            ("a.js", "text/javascript; charset=utf-8"),
            ("a.mjs", "text/javascript; charset=utf-8"),
            ("a.cjs", "text/javascript; charset=utf-8"),
            ("a.js.map", "application/json"),
            ("a.css", "text/css; charset=utf-8"),
            ("a.md", "text/markdown; charset=utf-8"),
            ("a.csv", "text/csv; charset=utf-8"),
            ("a.json", "application/json"),
            ("a.webmanifest", "application/manifest+json"),
            ("feed.xml", "application/xml"),
            ("a.xsl", "application/xml"),
            ("a.svg", "image/svg+xml"),
            ("a.svgz", "application/gzip"),
            ("live.m3u8", "application/vnd.apple.mpegurl"),
            ("live.TS", "video/mp2t"),
            ("a.vtt", "text/vtt; charset=utf-8"),
            ("a.srt", "application/x-subrip"),
            ("a.mov", "video/quicktime"),
            ("a.m4v", "video/x-m4v"),
            ("a.mkv", "video/x-matroska"),
            ("a.mpd", "application/dash+xml"),
            ("a.m4a", "audio/mp4"),
            ("a.opus", "audio/ogg"),
            ("larder.log", "text/plain; charset=utf-8"),
            ("a.tsv", "text/tab-separated-values; charset=utf-8"),
            ("a.glb", "model/gltf-binary"),
            ("a.gltf", "model/gltf+json"),
            ("a.jxl", "image/jxl"),
            ("a.heic", "image/heic"),
            ("a.eot", "application/vnd.ms-fontobject"),
            ("a.woff", "font/woff"),
            ("a.woff2", "font/woff2"),
            ("a.otf", "font/otf"),
            ("a.ttf", "font/ttf"),
            ("a.gpx", "application/gpx+xml"),
            ("a.geojson", "application/geo+json"),
            ("a.yml", "application/yaml"),
            ("favicon.ico", "image/vnd.microsoft.icon"),
            ("a.tar.gz", "application/gzip"),
            ("a.bin", OCTET_STREAM),
        ] {
            assert_eq!(by_name(name), expected, "{name}");
        }
        for name in ["README", "a.unknown", ".html", "sub/.html", "a.", "", "a.é", "a.html/b"] {
            assert_eq!(by_name(name), OCTET_STREAM, "{name}");
        }
    }

    #[test]
    fn what_is_compressed_already_has_no_other_forms() {
        for name in ["a.zip", "a.tgz", "a.zst", "a.7z", "a.xz", "a.png", "a.mp4", "a.ts", "a.m4a", "a.woff2", "a.heic"]
        {
            assert!(!has_other_forms(&by_name(name)), "{name}");
        }
        for name in ["a.html", "a.m3u8", "a.wasm", "a.svg", "a.bmp", "a.glb", "a.ttf", "a.unknown"] {
            assert!(has_other_forms(&by_name(name)), "{name}");
        }
    }
}
