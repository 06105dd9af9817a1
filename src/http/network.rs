//! Who counts as one where connections, requests or bytes are counted by address.
//!
//! Invariant: one household, or one machine, cannot make itself many. It has one IPv4 address, or one IPv6 network with
//! 2^64 addresses in it; an IPv4 address that comes in the clothes of IPv6 is the IPv4 address.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use super::message::Peer;

/// An IPv4 address, an IPv6 network of 64 bits, or everyone behind the Unix sockets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Network {
    /// All peers on Unix sockets.
    Unix,
    /// The address, or the first address of the network.
    Ip(IpAddr),
}

impl Network {
    /// The network of a peer.
    pub fn of(peer: Peer) -> Network {
        match peer {
            Peer::Unix => Network::Unix,
            Peer::Tcp(ip, _) => Network::of_ip(ip),
        }
    }

    /// The network of an address.
    pub fn of_ip(ip: IpAddr) -> Network {
        Network::Ip(match ip.to_canonical() {
            IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX)).into(),
            v4 => v4,
        })
    }
}

/// A proxy, or a network of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Proxy {
    /// Whoever connects to a Unix socket.
    Unix,
    /// The addresses of a network: its first one, and how many bits they have in common with it.
    Network(IpAddr, u8),
}

/// The proxies whose word counts.
pub type Proxies = Vec<Proxy>;

impl Proxy {
    /// Whether a peer is one of them; an IPv4 address in the clothes of IPv6 is the IPv4 address.
    pub fn has(&self, peer: Peer) -> bool {
        match (*self, peer) {
            (Proxy::Unix, Peer::Unix) => true,
            (Proxy::Network(first, bits), Peer::Tcp(ip, _)) => {
                let ip = ip.to_canonical();
                ip.is_ipv4() == first.is_ipv4() && network_of(ip, bits) == first
            }
            _ => false,
        }
    }
}

/// The first address that has so many bits in common with this one.
fn network_of(ip: IpAddr, bits: u8) -> IpAddr {
    match ip {
        IpAddr::V4(ip) => {
            let mask = u32::MAX.checked_shl(32 - u32::from(bits)).unwrap_or(0);
            Ipv4Addr::from_bits(ip.to_bits() & mask).into()
        }
        IpAddr::V6(ip) => {
            let mask = u128::MAX.checked_shl(128 - u32::from(bits)).unwrap_or(0);
            Ipv6Addr::from_bits(ip.to_bits() & mask).into()
        }
    }
}

impl fmt::Display for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Proxy::Unix => f.write_str("unix"),
            Proxy::Network(ip, 32) if ip.is_ipv4() => write!(f, "{ip}"),
            Proxy::Network(ip, 128) => write!(f, "{ip}"),
            Proxy::Network(ip, bits) => write!(f, "{ip}/{bits}"),
        }
    }
}

impl FromStr for Proxy {
    type Err = String;

    fn from_str(text: &str) -> Result<Proxy, String> {
        let expected = || {
            format!(
                "expected an address (10.1.2.3), a network (10.0.0.0/8, fd00::/8), or \"unix\" for the Unix sockets, not `{text}`"
            )
        };
        if text == "unix" {
            return Ok(Proxy::Unix);
        }
        let (ip, bits) = text.split_once('/').map_or((text, None), |(ip, bits)| (ip, Some(bits)));
        let ip: IpAddr = ip.parse().map_err(|_| expected())?;
        let most: u8 = if ip.is_ipv4() { 32 } else { 128 };
        let is_plain = |bits: &&str| bits.bytes().all(|byte| byte.is_ascii_digit());
        let bits = match bits {
            None => most,
            Some(bits) => {
                let bits = Some(bits).filter(is_plain).and_then(|bits| bits.parse().ok());
                bits.filter(|bits| *bits <= most).ok_or_else(expected)?
            }
        };
        // The last 32 bits of an IPv4 address in the clothes of IPv6 are the address.
        let (ip, bits) = match ip.to_canonical() {
            v4 if v4.is_ipv4() && ip.is_ipv6() && bits >= 96 => (v4, bits - 96),
            _ => (ip, bits),
        };
        let first = network_of(ip, bits);
        if first == ip {
            Ok(Proxy::Network(first, bits))
        } else {
            Err(format!("`{text}` is an address within a network: did you mean {first}/{bits}, or {ip}?"))
        }
    }
}

/// Whose connections count towards the total only: those of this machine, of Unix sockets, and of proxies.
#[derive(Clone, Debug)]
pub struct Unbounded {
    /// Connections of this machine to itself.
    pub loopback: bool,
    /// Proxies, behind which all clients have one address.
    pub proxies: Proxies,
}

impl Default for Unbounded {
    fn default() -> Unbounded {
        Unbounded { loopback: true, proxies: Vec::new() }
    }
}

impl Unbounded {
    /// Whether this is one of them.
    pub fn has(&self, peer: Peer) -> bool {
        let Peer::Tcp(ip, _) = peer else { return true };
        (self.loopback && ip.to_canonical().is_loopback()) || self.proxies.iter().any(|proxy| proxy.has(peer))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> Network {
        Network::of_ip(text.parse().unwrap())
    }

    #[test]
    fn a_proxy_is_an_address_a_network_or_whoever_uses_a_unix_socket() {
        let cases = [
            ("192.0.2.1", "192.0.2.1", &["192.0.2.1", "::ffff:192.0.2.1"][..], &["192.0.2.2", "2001:db8::1"][..]),
            ("10.0.0.0/8", "10.0.0.0/8", &["10.0.0.0", "10.255.255.255", "::ffff:10.1.2.3"], &["11.0.0.0", "9.9.9.9"]),
            ("172.16.0.0/12", "172.16.0.0/12", &["172.31.255.255"], &["172.32.0.0", "172.15.255.255"]),
            ("0.0.0.0/0", "0.0.0.0/0", &["1.2.3.4", "255.255.255.255"], &["::1"]),
            ("192.0.2.7/32", "192.0.2.7", &["192.0.2.7"], &["192.0.2.6"]),
            ("fd00::/8", "fd00::/8", &["fdff::1"], &["fe00::1", "253.0.0.1"]),
            ("2001:db8::1", "2001:db8::1", &["2001:db8::1"], &["2001:db8::2"]),
            ("::/0", "::/0", &["2001:db8::2"], &["192.0.2.1", "::ffff:192.0.2.1"]),
            ("::ffff:192.0.2.1", "192.0.2.1", &["192.0.2.1"], &["192.0.2.2"]),
            ("::ffff:10.0.0.0/104", "10.0.0.0/8", &["10.9.9.9"], &["11.0.0.0"]),
        ];
        for (text, shown, inside, outside) in cases {
            let proxy: Proxy = text.parse().unwrap();
            assert_eq!(proxy.to_string(), shown, "{text}");
            let has = |ip: &&str| proxy.has(Peer::Tcp(ip.parse().unwrap(), 1));
            assert!(inside.iter().all(has) && !outside.iter().any(has), "{text}");
            assert!(!proxy.has(Peer::Unix), "{text}");
        }
        let unix: Proxy = "unix".parse().unwrap();
        assert!(unix.has(Peer::Unix) && !unix.has(Peer::Tcp([127, 0, 0, 1].into(), 1)));
        for (text, part) in [
            ("10.0.0.1/8", "did you mean 10.0.0.0/8, or 10.0.0.1?"),
            ("::ffff:10.0.0.1/104", "did you mean 10.0.0.0/8, or 10.0.0.1?"),
            ("10.0.0.0/33", "expected an address"),
            ("10.0.0.0/", "expected an address"),
            ("10.0.0.0/+8", "expected an address"),
            ("fd00::/129", "expected an address"),
            ("proxy.lan", "expected an address"),
            ("unix:/run/x", "expected an address"),
            ("10.0.0.0/255.0.0.0", "expected an address"),
        ] {
            assert!(text.parse::<Proxy>().is_err_and(|error| error.contains(part)), "{text}");
        }
    }

    #[test]
    fn an_ipv4_address_and_an_ipv6_network_count_as_one_each() {
        let same = [
            ("192.0.2.1", "192.0.2.1"),
            ("192.0.2.1", "::ffff:192.0.2.1"),
            ("2001:db8:1:2::1", "2001:db8:1:2:ffff:ffff:ffff:ffff"),
            ("fe80::1", "fe80::2"),
        ];
        let different = [
            ("192.0.2.1", "192.0.2.2"),
            ("::ffff:192.0.2.1", "::ffff:192.0.2.2"),
            ("2001:db8:1:2::1", "2001:db8:1:3::1"),
            ("::1", "127.0.0.1"),
        ];
        same.iter().for_each(|(a, b)| assert_eq!(of(a), of(b), "{a} {b}"));
        different.iter().for_each(|(a, b)| assert_ne!(of(a), of(b), "{a} {b}"));
        assert_eq!(Network::of(Peer::Unix), Network::Unix);
        assert_eq!(Network::of(Peer::Tcp([192, 0, 2, 1].into(), 7)), of("192.0.2.1"));
    }
}
