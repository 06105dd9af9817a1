//! How long a file may be kept by caches, told from its name alone.
//!
//! Three kinds: what a browser must ask for again each time, since a new release shows only through it (pages, service
//! workers, web manifests); what never changes under its name, since build tools put a hash of the content into it; and
//! all else, which has an age.
//!
//! A year for a file that does change cannot be taken back, and a day too little for one that does not costs a question.
//! So a name counts as hashed only where it can hardly be anything else: in a folder that build tools write to, or, for
//! the kinds of files that only they make, by a hash of the old form. Cameras, loggers and boards put dates, addresses
//! and numbers into names that look just like short hashes.

/// How long a file may be kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Freshness {
    /// To be asked for again each time.
    Asked,
    /// For the common age.
    Aged,
    /// For ever.
    Immutable,
}

/// The folders that build tools of today fill with names of their own making.
pub const FOLDERS: &[&str] = &[
    "/assets/",
    "/build/",
    "/static/css/",
    "/static/js/",
    "/static/media/",
    "/_app/immutable/",
    "/_astro/",
    "/_next/static/",
    "/_nuxt/",
];

/// Judges a file by its path beneath the folder and its type. `folders` are those of hashed names, each between slashes,
/// wherever they lie; without any nothing is immutable.
pub fn of(path: &str, content_type: &str, folders: &[String]) -> Freshness {
    let (folder, name) = path.rsplit_once('/').map_or(("/".into(), path), |(dir, name)| (format!("/{dir}/"), name));
    if is_asked_for_again(name, content_type) {
        return Freshness::Asked;
    }
    let hashed = match folders.iter().any(|built| folder.contains(built.as_str())) {
        true => (pieces(name).any(|(_, piece)| is_hex_hash(piece, 8)) && !holds_uuid(name)) || ends_in_hash(name),
        false => !folders.is_empty() && is_built(name) && pieces(name).any(|(by, piece)| is_old_hash(by, piece)),
    };
    if hashed { Freshness::Immutable } else { Freshness::Aged }
}

/// What says which release all the rest is of, by its name in lower case: of web manifests and service workers, and of what
/// Next, SvelteKit, Nuxt, Angular, Gatsby, Blazor, Flutter and module federation write.
const RELEASE: &[&str] = &[
    "ngsw.json",
    "version.json",
    "latest.json",
    "builds.json",
    "env.js",
    "config.js",
    "config.json",
    "settings.json",
    "page-data.json",
    "app-data.json",
    "blazor.boot.json",
    "remoteentry.js",
    "main.dart.js",
    "flutter.js",
    "flutter_bootstrap.js",
    "robots.txt",
    "sitemap.xml",
    "feed.xml",
    "rss.xml",
    "atom.xml",
];

/// Pages and manifests, and lists that are written again as what they list comes: live video, feeds, calendars.
const ASKED_TYPES: &[&str] = &[
    "text/html",
    "application/xhtml+xml",
    "application/manifest+json",
    "text/cache-manifest",
    "application/vnd.apple.mpegurl",
    "application/x-mpegurl",
    "audio/mpegurl",
    "audio/x-mpegurl",
    "application/dash+xml",
    "application/rss+xml",
    "application/atom+xml",
    "text/calendar",
];

/// Pages, service workers and web manifests: what says which release all the rest is of.
fn is_asked_for_again(name: &str, content_type: &str) -> bool {
    let name = name.to_ascii_lowercase();
    let is_script = content_type.starts_with("text/javascript");
    let stem = name.split('.').next().unwrap_or_default();
    let flat = name.replace(['-', '_', '.'], "");
    let is_worker = stem == "sw"
        || name.contains(".sw.")
        || ["-sw", "_sw"].iter().any(|end| stem.ends_with(end))
        || ["sw-", "sw_"].iter().any(|start| stem.starts_with(start))
        || ["serviceworker", "ngswworker", "registersw", "sdkworker", "updaterworker", "safetyworker"]
            .iter()
            .any(|part| flat.contains(part));
    ASKED_TYPES.iter().any(|asked| content_type.starts_with(asked))
        || name.ends_with("manifest.json")
        || RELEASE.contains(&name.as_str())
        || (is_script && is_worker)
}

/// Files that only build tools give names with a hash.
fn is_built(name: &str) -> bool {
    let name = name.strip_suffix(".map").unwrap_or(name);
    let extension = name.rsplit_once('.').map_or("", |(_, extension)| extension);
    ["js", "mjs", "cjs", "css", "wasm", "woff", "woff2"].iter().any(|built| built.eq_ignore_ascii_case(extension))
}

/// The pieces of a name between dots and dashes, without the extension, each with what stands before it (`\0` for the
/// first).
fn pieces(name: &str) -> impl Iterator<Item = (char, &str)> {
    let stem = stem(name);
    let mut before = '\0';
    stem.split_inclusive(['.', '-', '_']).map(move |piece| {
        let (text, next) = match piece.char_indices().next_back() {
            Some((at, separator @ ('.' | '-' | '_'))) => (&piece[..at], separator),
            _ => (piece, '\0'),
        };
        (std::mem::replace(&mut before, next), text)
    })
}

fn stem(name: &str) -> &str {
    let name = name.strip_suffix(".map").unwrap_or(name);
    name.rsplit_once('.').map_or("", |(stem, _)| stem)
}

/// `app.3f2a9c1b.js`, and `app-` with sixteen digits and more: eight behind a dash are as often half of an address.
fn is_old_hash(before: char, piece: &str) -> bool {
    match before {
        '.' => is_hex_hash(piece, 8),
        '-' => is_hex_hash(piece, 16),
        _ => false,
    }
}

/// Hexadecimal digits, letters and figures among them, that begin with no date.
fn is_hex_hash(text: &str, least: usize) -> bool {
    let is_date = ["19", "20"].iter().any(|century| text.starts_with(century))
        && text.bytes().take(8).all(|byte| byte.is_ascii_digit());
    text.len() >= least
        && text.bytes().all(|byte| byte.is_ascii_hexdigit())
        && text.bytes().any(|byte| byte.is_ascii_digit())
        && text.bytes().any(|byte| byte.is_ascii_alphabetic())
        && !is_date
}

/// A UUID names a thing, whatever becomes of it.
fn holds_uuid(name: &str) -> bool {
    let lengths: Vec<usize> = pieces(name).map(|(_, piece)| piece.len()).collect();
    lengths.windows(5).any(|group| group == [8, 4, 4, 4, 12])
}

/// Whether a name ends in the eight characters that Vite, Rollup and esbuild put there: base64url, which may hold dashes
/// itself. Words are told from them by how seldom they change between capitals, small letters and figures.
fn ends_in_hash(name: &str) -> bool {
    let stem = stem(name);
    let Some(at) = stem.len().checked_sub(8).filter(|at| stem.is_char_boundary(*at)) else { return false };
    let (before, hash) = stem.split_at(at);
    let kind = |byte: u8| match byte {
        b'a'..=b'z' => Some('a'),
        b'A'..=b'Z' => Some('A'),
        b'0'..=b'9' => Some('0'),
        _ => None,
    };
    let kinds: Vec<char> = hash.bytes().filter_map(kind).collect();
    let changes = kinds.windows(2).filter(|pair| pair[0] != pair[1]).count();
    (before.is_empty() || before.ends_with(['-', '.', '_']))
        && hash.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
        && kinds.contains(&'A')
        && changes >= 3
}

#[cfg(test)]
mod tests {
    use super::super::kind::by_name;
    use super::*;

    fn judged(path: &str) -> Freshness {
        let folders: Vec<String> = FOLDERS.iter().map(|&folder| folder.to_owned()).collect();
        of(path, &by_name(path), &folders)
    }

    #[test]
    fn what_names_a_release_is_asked_for_each_time() {
        for path in [
            "index.html",
            "sub/page.htm",
            "a.xhtml",
            "sw.js",
            "SW.js",
            "firebase-messaging-sw.js",
            "service-worker.js",
            "serviceWorker.js",
            "app/service_worker.min.js",
            "ngsw-worker.js",
            "ngsw.json",
            "registerSW.js",
            "OneSignalSDKWorker.js",
            "OneSignalSDKUpdaterWorker.js",
            "upup.sw.min.js",
            "build-manifest.json",
            "manifest.json",
            "site.webmanifest",
            "asset-manifest.json",
            "assets/index-BxY3kQ9z.html",
            "old.appcache",
            "live/stream.m3u8",
            "live/radio.m3u",
            "live/stream.mpd",
            "blog/index.rss",
            "news.atom",
            "bins.ics",
            "feed.xml",
            "_app/env.js",
            "config.json",
            "_nuxt/builds/latest.json",
            "page-data/page-data.json",
            "_framework/blazor.boot.json",
            "remoteEntry.js",
            "flutter_bootstrap.js",
        ] {
            assert_eq!(judged(path), Freshness::Asked, "{path}");
        }
        for path in ["app.js", "swiper.js", "answer.js", "sw.css", "manifest.js", "data.json", "a.txt"] {
            assert_eq!(judged(path), Freshness::Aged, "{path}");
        }
    }

    #[test]
    fn hashes_are_taken_for_such_where_build_tools_write_them() {
        for path in [
            "assets/index-BxY3kQ9z.js",
            "assets/index-DiwrgTda.css",
            "assets/react-CHdo91hT.svg",
            "assets/index-C_QWg1rM.js",
            "assets/a-B-3kQ9_z.js.map",
            "assets/index-3f2a9c1b.js",
            "panel/assets/index-BxY3kQ9z.js",
            "assets/fonts/inter-BxY3kQ9z.woff2",
            "_nuxt/BxY3kQ9z.js",
            "_app/immutable/chunks/BxY3kQ9z.js",
            "_astro/index.BxY3kQ9z.css",
            "_next/static/chunks/123-0a1b2c3d4e5f6071.js",
            "static/media/logo.6ce24c58023cc2f8fd88fe9d219db5c6.svg",
            "app.3f2a9c1b.js",
            "app.3f2a9c1b.chunk.js",
            "app.3f2a9c1b.js.map",
            "main-0123456789abcdef.css",
            "a.0123456789abcdef.wasm",
        ] {
            assert_eq!(judged(path), Freshness::Immutable, "{path}");
        }
    }

    #[test]
    fn dates_addresses_numbers_and_words_are_no_hashes() {
        for path in [
            "cam-a4cf12fe.jpg",
            "cam.a4cf12fe.jpg",
            "config-5ccf7f3a.json",
            "log.20240115a.txt",
            "log.20240115a.js",
            "dev-a4cf12fe.js",
            "dev-a4cf12fe0b3c.js",
            "550e8400-e29b-41d4-a716-44665544abcd.json",
            "index-BxY3kQ9z.js",
            "my/assetsx/index-BxY3kQ9z.js",
            "app.deadbeef.js",
            "app.20240131.js",
            "app.3f2a9c1.js",
            "3f2a9c1b.js",
            "x.3f2a9c1b",
            "assets/log.20240115a.txt",
            "assets/550e8400-e29b-41d4-a716-44665544abcd.json",
            "assets/report-20240131.csv",
            "assets/logo-download.png",
            "assets/logo-Settings.png",
            "assets/cam-picture1.jpg",
            "assets/IMG_2024.jpg",
            "assets/photo-DSC00123.jpg",
            "assets/a-big-icon.png",
            "assets/logo.png",
            "assets/x",
            "assets/é-BxY3kQ9.js",
            "",
        ] {
            assert_eq!(judged(path), Freshness::Aged, "{path}");
        }
    }

    #[test]
    fn the_folders_decide() {
        let of = |path: &str, folders: &[&str]| {
            of(path, &by_name(path), &folders.iter().map(|&folder| folder.to_owned()).collect::<Vec<_>>())
        };
        assert_eq!(of("index-BxY3kQ9z.js", &["/"]), Freshness::Immutable);
        assert_eq!(of("a/b/index-BxY3kQ9z.js", &["/"]), Freshness::Immutable);
        assert_eq!(of("dist/index-BxY3kQ9z.js", &["/dist/"]), Freshness::Immutable);
        assert_eq!(of("assets/index-BxY3kQ9z.js", &["/dist/"]), Freshness::Aged);
        assert_eq!(of("assets/index-BxY3kQ9z.js", &[]), Freshness::Aged);
        assert_eq!(of("app.3f2a9c1b.js", &[]), Freshness::Aged);
        assert_eq!(of("index.html", &[]), Freshness::Asked);
    }
}
