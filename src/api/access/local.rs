//! Who counts as this machine: what an open store on a loopback address needs so that neither a proxy nor a web page
//! elsewhere turns it into an open store for all. And what a store that was opened to all (`auth.mode = "open"`) still
//! needs, so that "all" are those of its network and not every page that a browser there looks at.
//!
//! SECURITY: each rule closes a way in. `Forwarded`, `Via` and `X-Forwarded-*` tell of a proxy. A foreign `Host` is a
//! name that was made to point here (DNS rebinding), or a proxy. A foreign `Origin` or `Sec-Fetch-Site` is a page of
//! another site in this machine's browser, whose simple POSTs come without a preflight.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;

use crate::http::network::Proxy;
use crate::http::{Head, HeaderName, Peer};

/// Domains in which no stranger can have a name that leads here: the public tree of names does not have them (RFC 6761,
/// 6762 and its appendix G, 8375).
const PRIVATE_DOMAINS: [&str; 10] = [
    ".local",
    ".localhost",
    ".localdomain",
    ".lan",
    ".home",
    ".home.arpa",
    ".internal",
    ".intranet",
    ".private",
    ".corp",
];

/// What counts as local besides the loopback addresses.
#[derive(Debug, Default)]
pub struct LocalRules {
    /// Paths of our Unix sockets.
    pub sockets: Vec<PathBuf>,
    /// Origins of web pages that were named in `cors.origins`; `*` names none.
    pub origins: Vec<String>,
    /// Names of this machine for an open store: its own, and those of `auth.hosts`.
    pub hosts: Vec<String>,
    /// An open store takes requests of every page: `cors.origins = ["*"]` beside `auth.mode = "open"`.
    pub any_page: bool,
}

/// Why an open store does not answer a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Foreign {
    /// `Host` names something that may have been made to point here.
    Host,
    /// A web page of another origin sent it.
    Page,
}

/// The name that this machine gives itself.
pub fn own_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

impl LocalRules {
    /// Whether a request comes from this machine and from no web page elsewhere. Allocates nothing.
    pub fn is_local(&self, head: &Head, peer: Peer) -> bool {
        let near = match peer {
            Peer::Tcp(address, _) => address.is_loopback(),
            Peer::Unix => true,
        };
        near && !has_proxy_fields(head) && self.is_local_host(head, peer) && self.is_local_page(head)
    }

    /// Whether a request would be of this machine if it named a host.
    pub fn lacks_only_host(&self, head: &Head, peer: Peer) -> bool {
        let near = match peer {
            Peer::Tcp(address, _) => address.is_loopback(),
            Peer::Unix => true,
        };
        let names_none = head.all(HeaderName::Host).all(str::is_empty);
        near && names_none && !has_proxy_fields(head) && self.is_local_page(head)
    }

    /// What makes a request foreign to a store that is open to its whole network, if anything does.
    pub fn foreign(&self, head: &Head, peer: Peer) -> Option<Foreign> {
        // Every browser says which host it means; what says nothing (HTTP/1.0) is none.
        let host_is_ours = match head.count(HeaderName::Host) {
            0 => true,
            1 => self.is_local_host(head, peer) || head.get(HeaderName::Host).is_some_and(|host| self.is_private(host)),
            _ => false,
        };
        match (host_is_ours, self.any_page || self.is_local_page(head)) {
            (false, _) => Some(Foreign::Host),
            (true, false) => Some(Foreign::Page),
            (true, true) => None,
        }
    }

    /// Whether a `Host` is an address, or a name that nobody elsewhere can have made to point here.
    fn is_private(&self, host: &str) -> bool {
        if let Some((literal, rest)) = host.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
            return literal.parse::<Ipv6Addr>().is_ok() && (rest.is_empty() || is_port(rest));
        }
        let (name, port) = host.split_at(host.find(':').unwrap_or(host.len()));
        let name = name.strip_suffix('.').unwrap_or(name);
        let in_domain = |domain: &&str| {
            name.len().checked_sub(domain.len()).is_some_and(|at| at > 0 && name[at..].eq_ignore_ascii_case(domain))
        };
        (port.is_empty() || is_port(port))
            && name.is_ascii()
            && !name.is_empty()
            && (!name.contains('.')
                || name.parse::<Ipv4Addr>().is_ok()
                || PRIVATE_DOMAINS.iter().any(in_domain)
                || self.hosts.iter().any(|ours| ours.eq_ignore_ascii_case(name)))
    }

    fn is_local_host(&self, head: &Head, peer: Peer) -> bool {
        if head.count(HeaderName::Host) != 1 {
            return false;
        }
        let Some(host) = head.get(HeaderName::Host) else { return false };
        is_loopback_name(host) || (peer == Peer::Unix && self.is_socket(host))
    }

    /// Clients of a Unix socket name it in `Host`: as a path, percent-encoded, or not at all.
    fn is_socket(&self, host: &str) -> bool {
        let decoded = percent_encoding::percent_decode_str(host);
        host.is_empty()
            || self.sockets.iter().any(|path| {
                let path = path.as_os_str().as_encoded_bytes();
                decoded.clone().eq(path.iter().copied())
            })
    }

    fn is_local_page(&self, head: &Head) -> bool {
        if head.has(HeaderName::Origin) {
            return head.count(HeaderName::Origin) == 1 && self.is_local_origin(head);
        }
        let site = head.get(HeaderName::SecFetchSite);
        !head.has(HeaderName::SecFetchSite) || matches!(site, Some("same-origin" | "none"))
    }

    fn is_local_origin(&self, head: &Head) -> bool {
        let Some(origin) = head.get(HeaderName::Origin) else { return false };
        let host = origin.strip_prefix("http://").or_else(|| origin.strip_prefix("https://"));
        let same =
            host.is_some_and(|host| head.get(HeaderName::Host).is_some_and(|ours| host.eq_ignore_ascii_case(ours)));
        same || self.origins.iter().any(|named| named != "*" && named == origin)
    }
}

fn has_proxy_fields(head: &Head) -> bool {
    use HeaderName::{Forwarded, Via, XForwardedFor, XForwardedHost, XForwardedOther, XForwardedProto};
    head.has_any(&[Forwarded, Via, XForwardedFor, XForwardedHost, XForwardedProto, XForwardedOther])
}

/// `localhost` or a loopback literal, with or without a port.
fn is_loopback_name(host: &str) -> bool {
    let (name, port) = match host.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((literal, rest)) => {
            return literal.parse::<Ipv6Addr>().is_ok_and(|ip| ip.is_loopback()) && (rest.is_empty() || is_port(rest));
        }
        None => host.split_at(host.bytes().position(|byte| byte == b':').unwrap_or(host.len())),
    };
    (port.is_empty() || is_port(port))
        // The two that nearly every request names need no parser.
        && (name == "127.0.0.1"
            || name.eq_ignore_ascii_case("localhost")
            || name.parse::<Ipv4Addr>().is_ok_and(|ip| ip.is_loopback()))
}

fn is_port(text: &str) -> bool {
    text.strip_prefix(':').is_some_and(|port| port.len() <= 5 && port.bytes().all(|byte| byte.is_ascii_digit()))
}

/// Whom a request is counted under: the peer, or what a trusted proxy says of its own peer.
///
/// The field is read from its end, since only what our proxies added there can be believed.
pub fn client(head: &Head, peer: Peer, trusted_proxies: &[Proxy]) -> Peer {
    let is_trusted = |peer: Peer| trusted_proxies.iter().any(|proxy| proxy.has(peer));
    if trusted_proxies.is_empty() || !head.has(HeaderName::XForwardedFor) || !is_trusted(peer) {
        return peer;
    }
    let mut known = peer;
    // The lines of the field are one list; the last line's last entry is the nearest.
    let lines = head.count(HeaderName::XForwardedFor);
    for line in (0..lines).rev() {
        let Some(line) = head.all(HeaderName::XForwardedFor).nth(line) else { return known };
        for hop in line.rsplit(',') {
            let Some(hop) = parse_hop(hop.trim()) else { return known };
            known = Peer::Tcp(hop, 0);
            if !is_trusted(known) {
                return known;
            }
        }
    }
    known
}

/// An entry of `X-Forwarded-For`: some proxies add brackets or a port.
fn parse_hop(text: &str) -> Option<IpAddr> {
    let plain = text.parse::<IpAddr>().ok();
    let with_port = || text.parse::<std::net::SocketAddr>().ok().map(|address| address.ip());
    let bracketed = || text.strip_prefix('[')?.strip_suffix(']')?.parse::<Ipv6Addr>().ok().map(IpAddr::V6);
    plain.or_else(with_port).or_else(bracketed).map(|ip| ip.to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::network::Network;

    const LOOPBACK: Peer = Peer::Tcp(IpAddr::V4(Ipv4Addr::LOCALHOST), 5);

    fn head(fields: &[(&str, &str)]) -> Head {
        let mut head = Head::new("/");
        for (name, value) in fields {
            head.push(name.as_bytes(), value.as_bytes());
        }
        head
    }

    fn rules() -> LocalRules {
        LocalRules {
            sockets: vec!["/run/larder.sock".into()],
            origins: vec!["http://localhost:5173".into(), "*".into()],
            hosts: vec!["board.example.org".into()],
            any_page: false,
        }
    }

    #[test]
    fn only_hosts_that_name_this_machine_are_local() {
        for (host, local) in [
            ("localhost", true),
            ("LocalHost:8080", true),
            ("127.0.0.1", true),
            ("127.1.2.3:80", true),
            ("[::1]:8080", true),
            ("[::1]", true),
            ("", false),
            ("localhost:", true),
            ("localhost.", false),
            ("localhost.evil.example", false),
            ("evil.example", false),
            ("127.0.0.1.evil.example", false),
            ("127.0.0.1:80@evil.example", false),
            ("192.168.1.5:8080", false),
            ("[::2]:80", false),
            ("[::1]x", false),
            ("0.0.0.0:80", false),
            ("/run/larder.sock", false),
        ] {
            assert_eq!(rules().is_local(&head(&[("Host", host)]), LOOPBACK), local, "{host}");
        }
        assert!(!rules().is_local(&head(&[]), LOOPBACK), "no Host");
        assert!(!rules().is_local(&head(&[("Host", "localhost"), ("Host", "localhost")]), LOOPBACK));
    }

    #[test]
    fn a_unix_socket_is_local_under_its_own_name_too() {
        for (host, local) in [
            ("localhost", true),
            ("", true),
            ("%2Frun%2Flarder.sock", true),
            ("/run/larder.sock", true),
            ("%2Frun%2Fother", false),
            ("evil.example", false),
        ] {
            assert_eq!(rules().is_local(&head(&[("Host", host)]), Peer::Unix), local, "{host}");
        }
    }

    #[test]
    fn any_trace_of_a_proxy_is_not_local() {
        for name in [
            "Forwarded",
            "Via",
            "X-Forwarded-For",
            "x-forwarded-host",
            "X-Forwarded-Proto",
            "X-Forwarded-Port",
            "X-FORWARDED-Server",
        ] {
            assert!(!rules().is_local(&head(&[("Host", "localhost"), (name, "")]), LOOPBACK), "{name}");
        }
        assert!(rules().is_local(&head(&[("Host", "localhost"), ("X-Forward", "1")]), LOOPBACK));
    }

    #[test]
    fn other_machines_are_never_local() {
        for address in ["192.168.1.5", "10.0.0.1", "fe80::1", "::", "0.0.0.0"] {
            assert!(
                !rules().is_local(&head(&[("Host", "localhost")]), Peer::Tcp(address.parse().unwrap(), 1)),
                "{address}"
            );
        }
        assert!(rules().is_local(&head(&[("Host", "localhost")]), Peer::Tcp("::1".parse().unwrap(), 1)));
    }

    #[test]
    fn pages_of_other_sites_are_not_local() {
        for (fields, local) in [
            (&[("Origin", "http://localhost:8080")][..], true),
            (&[("Origin", "https://localhost:8080")], true),
            (&[("Origin", "http://localhost:5173")], true),
            (&[("Origin", "http://localhost:3000")], false),
            (&[("Origin", "http://evil.example")], false),
            (&[("Origin", "null")], false),
            (&[("Origin", "*")], false),
            (&[("Origin", "")], false),
            (&[("Origin", "http://localhost:8080"), ("Origin", "http://evil.example")], false),
            (&[("Origin", "http://localhost:5173"), ("Sec-Fetch-Site", "cross-site")], true),
            (&[("Sec-Fetch-Site", "same-origin")], true),
            (&[("Sec-Fetch-Site", "none")], true),
            (&[("Sec-Fetch-Site", "same-site")], false),
            (&[("Sec-Fetch-Site", "cross-site")], false),
            (&[], true),
        ] {
            let mut all = vec![("Host", "localhost:8080")];
            all.extend_from_slice(fields);
            assert_eq!(rules().is_local(&head(&all), LOOPBACK), local, "{fields:?}");
        }
    }

    #[test]
    fn an_open_store_answers_under_addresses_and_names_that_only_its_network_has() {
        for (host, ours) in [
            ("192.168.1.5:8080", true),
            ("8.8.8.8", true),
            ("[fd00::5]:8080", true),
            ("[fe80::1]", true),
            ("localhost:8080", true),
            ("attic-pi", true),
            ("larder:8080", true),
            ("attic-pi.local:8080", true),
            ("Attic-Pi.Local.", true),
            ("pi.home.arpa", true),
            ("a.b.lan:80", true),
            ("kv.svc.internal", true),
            ("board.example.org:443", true),
            ("Board.Example.ORG.", true),
            ("evil.example", false),
            ("evil.example:8080", false),
            ("board.example.org.evil.example", false),
            ("sub.board.example.org", false),
            ("local.evil.example", false),
            ("evillocal.example", false),
            ("192.168.1.5.evil.example", false),
            ("192.168.1.5.", true),
            ("192.168.1", false),
            (".local", false),
            ("", false),
            (".", false),
            ("attic-pi:x", false),
            ("attic-pi.local@evil.example", false),
            ("[::1", false),
            ("[evil.example]", false),
            ("/run/larder.sock", false),
        ] {
            let peer = Peer::Tcp("192.168.1.9".parse().unwrap(), 1);
            let found = rules().foreign(&head(&[("Host", host)]), peer);
            assert_eq!(found, (!ours).then_some(Foreign::Host), "{host}");
        }
        assert_eq!(rules().foreign(&head(&[]), LOOPBACK), None, "HTTP/1.0 needs no Host, and no browser speaks it");
        assert_eq!(rules().foreign(&head(&[("Host", "a"), ("Host", "a")]), LOOPBACK), Some(Foreign::Host));
        let proxied = head(&[("Host", "attic-pi"), ("X-Forwarded-For", "1.2.3.4"), ("Via", "1.1 p")]);
        assert_eq!(rules().foreign(&proxied, LOOPBACK), None, "an open store may stand behind a proxy");
    }

    #[test]
    fn an_open_store_serves_its_own_pages_and_those_that_were_named() {
        let any = LocalRules { any_page: true, ..rules() };
        for (fields, ours) in [
            (&[][..], true),
            (&[("Origin", "http://attic-pi.local:8080")], true),
            (&[("Origin", "http://localhost:5173")], true),
            (&[("Sec-Fetch-Site", "same-origin")], true),
            (&[("Sec-Fetch-Site", "none")], true),
            (&[("Origin", "http://attic-pi.local:3000")], false),
            (&[("Origin", "http://evil.example")], false),
            (&[("Origin", "null")], false),
            (&[("Origin", "*")], false),
            (&[("Sec-Fetch-Site", "cross-site")], false),
            (&[("Sec-Fetch-Site", "same-site")], false),
            (&[("Origin", "http://attic-pi.local:8080"), ("Origin", "http://evil.example")], false),
        ] {
            let mut all = vec![("Host", "attic-pi.local:8080")];
            all.extend_from_slice(fields);
            assert_eq!(rules().foreign(&head(&all), LOOPBACK), (!ours).then_some(Foreign::Page), "{fields:?}");
            assert_eq!(any.foreign(&head(&all), LOOPBACK), None, "{fields:?}");
        }
        let rebound = head(&[("Host", "evil.example"), ("Origin", "http://evil.example")]);
        assert_eq!(any.foreign(&rebound, LOOPBACK), Some(Foreign::Host));
    }

    #[test]
    fn only_trusted_proxies_say_who_their_client_is() {
        let proxies = ["10.0.0.1", "10.0.0.2", "172.16.0.0/12", "unix"].map(|text| text.parse().unwrap());
        for (from, lines, client) in [
            ("10.0.0.1", &["1.2.3.4"][..], "1.2.3.4"),
            ("10.0.0.9", &["1.2.3.4"], "10.0.0.9"),
            ("10.0.0.1", &[], "10.0.0.1"),
            ("10.0.0.1", &["6.6.6.6, 1.2.3.4"], "1.2.3.4"),
            ("10.0.0.1", &["6.6.6.6, 1.2.3.4, 10.0.0.2"], "1.2.3.4"),
            ("10.0.0.1", &["6.6.6.6", "1.2.3.4"], "1.2.3.4"),
            ("10.0.0.1", &["1.2.3.4, junk"], "10.0.0.1"),
            ("10.0.0.1", &["junk, 1.2.3.4:99"], "1.2.3.4"),
            ("10.0.0.1", &["[2001:db8::1]:443"], "2001:db8::1"),
            ("10.0.0.1", &["[2001:db8::1]"], "2001:db8::1"),
            ("10.0.0.1", &["::ffff:1.2.3.4"], "1.2.3.4"),
            ("10.0.0.1", &["10.0.0.2"], "10.0.0.2"),
            ("10.0.0.1", &[""], "10.0.0.1"),
            ("172.31.0.9", &["6.6.6.6, 1.2.3.4, 172.16.3.4"], "1.2.3.4"),
            ("172.32.0.9", &["1.2.3.4"], "172.32.0.9"),
            ("::ffff:172.16.0.1", &["1.2.3.4, ::ffff:10.0.0.2"], "1.2.3.4"),
            ("unix", &["6.6.6.6, 1.2.3.4"], "1.2.3.4"),
            ("unix", &["2001:db8::1, 10.0.0.2"], "2001:db8::1"),
            ("unix", &["unix:"], "unix"),
            ("unix", &[], "unix"),
        ] {
            let fields: Vec<_> = lines.iter().map(|line| ("X-Forwarded-For", *line)).collect();
            let peer = |text: &str| text.parse().map_or(Peer::Unix, |ip| Peer::Tcp(ip, 1));
            let found = super::client(&head(&fields), peer(from), &proxies);
            assert_eq!(Network::of(found), Network::of(peer(client)), "{from} {lines:?}");
        }
        assert_eq!(super::client(&head(&[("X-Forwarded-For", "1.2.3.4")]), Peer::Unix, &proxies[..3]), Peer::Unix);
    }
}
