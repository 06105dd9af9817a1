//! The settings for browsers: whose pages may ask, with which fields, and which files never change.

use std::net::{Ipv4Addr, Ipv6Addr};

use super::Config;
use super::raw::Given;
use crate::http::media::is_token;

pub(super) fn set_origins(config: &mut Config, given: &Given) -> Result<(), String> {
    let origins = given.list("https://app.example")?;
    for origin in origins.iter().filter(|origin| *origin != "*") {
        check_origin(origin)?;
    }
    if origins.len() > 1 && origins.iter().any(|origin| origin == "*") {
        return Err("\"*\" is every origin: it stands alone".to_owned());
    }
    config.cors_origins = origins;
    Ok(())
}

pub(super) fn set_headers(config: &mut Config, given: &Given) -> Result<(), String> {
    let names = given.list("X-Requested-With")?;
    if let Some(bad) = names.iter().find(|name| !is_token(name)) {
        return Err(format!("expected the name of a header field, such as \"X-Device\", not `{bad}`"));
    }
    config.cors_headers = names;
    Ok(())
}

pub(super) fn set_immutable(config: &mut Config, given: &Given) -> Result<(), String> {
    let folders = given.list("/assets/")?;
    let valid = |folder: &String| folder.starts_with('/') && folder.ends_with('/') && !folder.contains("//");
    if let Some(bad) = folders.iter().find(|folder| !valid(folder)) {
        return Err(format!("expected a folder between slashes, such as \"/assets/\", or \"/\" for all, not `{bad}`"));
    }
    config.www_immutable = folders;
    Ok(())
}

/// Origins are compared byte by byte with what browsers send. One that no browser sends would never match, and nobody
/// would know why.
fn check_origin(origin: &str) -> Result<(), String> {
    match as_sent(origin) {
        Some(sent) if sent == origin => Ok(()),
        Some(sent) => Err(format!("expected an origin as browsers send it, which is `{sent}`, not `{origin}`")),
        None if origin == "null" || origin.starts_with("file:") => Err(format!(
            "`{origin}` is no origin to be listed: every page of a file and every sandboxed frame of any site has it"
        )),
        None => Err(format!(
            "expected an origin as browsers send it, such as \"https://app.example\" or \"capacitor://localhost\", not `{origin}`"
        )),
    }
}

/// The origin that a browser would send for a page there (the serialisation of the HTML standard): without a path, a
/// user, and the usual port of its scheme, in ASCII, with small letters. Hosts of schemes that are not the web's own are
/// left as they are. `None` for what is no origin.
fn as_sent(text: &str) -> Option<String> {
    let (scheme, rest) = text.split_once("://")?;
    let scheme = scheme.to_ascii_lowercase();
    let known = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'-' | b'.');
    if scheme == "file" || !scheme.bytes().all(known) || !scheme.starts_with(|first: char| first.is_ascii_alphabetic())
    {
        return None;
    }
    let authority = rest.split(['/', '?', '#']).next()?;
    let authority = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    let (host, port) = match authority.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
        _ => (authority, None),
    };
    let port = match port {
        None | Some("") => None,
        Some(port) if port.bytes().all(|byte| byte.is_ascii_digit()) => Some(port.parse::<u16>().ok()?),
        Some(_) => return None,
    };
    let usual = match scheme.as_str() {
        "http" => Some(80),
        "https" => Some(443),
        _ => None,
    };
    let host = if usual.is_some() { web_host(host)? } else { foreign_host(host)? };
    Some(match port.filter(|port| Some(*port) != usual) {
        Some(port) => format!("{scheme}://{host}:{port}"),
        None => format!("{scheme}://{host}"),
    })
}

/// The host of an http or https origin.
fn web_host(host: &str) -> Option<String> {
    if let Some(inside) = host.strip_prefix('[') {
        let address: Ipv6Addr = inside.strip_suffix(']')?.parse().ok()?;
        return Some(format!("[{address}]"));
    }
    let labels: Option<Vec<String>> = host.to_lowercase().split('.').map(label).collect();
    let host = labels?.join(".");
    let last = host.trim_end_matches('.').rsplit('.').next().unwrap_or_default();
    // A host that ends in a number is an address, or nothing.
    if last.bytes().all(|byte| byte.is_ascii_digit()) {
        return host.parse::<Ipv4Addr>().ok().map(|address| address.to_string());
    }
    Some(host)
}

fn foreign_host(host: &str) -> Option<String> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    (!host.is_empty() && host.bytes().all(allowed)).then(|| host.to_owned())
}

/// One label of a name, in ASCII (RFC 3492 with the `xn--` of RFC 5890).
fn label(text: &str) -> Option<String> {
    let allowed = |letter: char| letter.is_alphanumeric() || matches!(letter, '-' | '_');
    if !text.chars().all(allowed) {
        return None;
    }
    if text.is_ascii() { Some(text.to_owned()) } else { Some(format!("xn--{}", punycode(text))) }
}

fn punycode(text: &str) -> String {
    let mut out: String = text.chars().filter(char::is_ascii).collect();
    let basic = out.len() as u32;
    if basic > 0 {
        out.push('-');
    }
    let (mut code, mut delta, mut bias, mut handled) = (128u32, 0u32, 72u32, basic);
    let length = text.chars().count() as u32;
    while handled < length {
        let next = text.chars().map(u32::from).filter(|point| *point >= code).min().unwrap_or(u32::MAX);
        delta = delta.saturating_add((next - code).saturating_mul(handled + 1));
        code = next;
        for point in text.chars().map(u32::from) {
            if point < code {
                delta = delta.saturating_add(1);
            } else if point == code {
                push_delta(&mut out, delta, bias);
                bias = adapted(delta, handled + 1, handled == basic);
                (delta, handled) = (0, handled + 1);
            }
        }
        (delta, code) = (delta.saturating_add(1), code.saturating_add(1));
    }
    out
}

fn push_delta(out: &mut String, mut delta: u32, bias: u32) {
    let digit = |value: u32| char::from(if value < 26 { b'a' + value as u8 } else { b'0' + (value - 26) as u8 });
    let mut step: u32 = 36;
    loop {
        let threshold = step.saturating_sub(bias).clamp(1, 26);
        if delta < threshold {
            return out.push(digit(delta));
        }
        out.push(digit(threshold + (delta - threshold) % (36 - threshold)));
        delta = (delta - threshold) / (36 - threshold);
        step += 36;
    }
}

fn adapted(delta: u32, points: u32, is_first: bool) -> u32 {
    let mut delta = if is_first { delta / 700 } else { delta / 2 };
    delta += delta / points;
    let mut steps = 0;
    while delta > 35 * 26 / 2 {
        delta /= 35;
        steps += 36;
    }
    steps + 36 * delta / (delta + 38)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn origins_are_those_that_browsers_send() {
        for origin in [
            "https://app.example",
            "http://app.example:8080",
            "http://localhost:5173",
            "http://192.168.1.5:3000",
            "http://[::1]:8080",
            "https://xn--bcher-kva.example",
            "https://a_b.example",
            "http://tauri.localhost",
            "capacitor://localhost",
            "ionic://localhost",
            "tauri://localhost",
            "app://localhost",
            "chrome-extension://abcdefghijklmnopabcdefghijklmnop",
            "moz-extension://0a1b2c3d-4e5f-6071-8293-a4b5c6d7e8f9",
            "safari-web-extension://0A1B2C3D-4E5F-6071-8293-A4B5C6D7E8F9",
            "vscode-webview://1qsoc0c5b",
        ] {
            assert_eq!(check_origin(origin), Ok(()), "{origin}");
        }
    }

    #[test]
    fn what_no_browser_sends_is_refused_with_what_it_would_send() {
        for (origin, sent) in [
            ("http://app.example:80", "http://app.example"),
            ("https://app.example:443", "https://app.example"),
            ("https://app.example:", "https://app.example"),
            ("https://app.example:08443", "https://app.example:8443"),
            ("https://App.Example", "https://app.example"),
            ("HTTPS://app.example", "https://app.example"),
            ("Capacitor://localhost", "capacitor://localhost"),
            ("https://app.example/", "https://app.example"),
            ("https://app.example/path?x", "https://app.example"),
            ("https://me@app.example", "https://app.example"),
            ("capacitor://localhost/", "capacitor://localhost"),
            ("https://bücher.example", "https://xn--bcher-kva.example"),
            ("https://BÜCHER.example:8443", "https://xn--bcher-kva.example:8443"),
            ("https://münchen.de", "https://xn--mnchen-3ya.de"),
            ("https://例え.テスト", "https://xn--r8jz45g.xn--zckzah"),
            ("https://правда.рф", "https://xn--80aafi6cg.xn--p1ai"),
            ("http://[0:0::1]", "http://[::1]"),
        ] {
            let error = check_origin(origin).unwrap_err();
            assert!(error.contains(&format!("which is `{sent}`")), "{origin}: {error}");
            assert_eq!(check_origin(sent), Ok(()), "{sent}");
        }
    }

    #[test]
    fn what_is_no_origin_is_refused() {
        for origin in [
            "",
            "app.example",
            "https:app.example",
            "https://",
            "://app.example",
            "1a://app.example",
            "https://*.example",
            "chrome-extension://*",
            "https://a b",
            "https://a,b",
            "https://app.example:x",
            "https://app.example:70000",
            "https://1.2.3",
            "https://a%2eb",
            "null",
            "file://",
            "file:///index.html",
        ] {
            let error = check_origin(origin).unwrap_err();
            assert!(error.contains("expected an origin") || error.contains("no origin to be listed"), "{error}");
        }
    }
}
