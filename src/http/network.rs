//! Who counts as one where connections, requests or bytes are counted by address.
//!
//! Invariant: one household, or one machine, cannot make itself many. It has one IPv4 address, or one IPv6 network with
//! 2^64 addresses in it; an IPv4 address that comes in the clothes of IPv6 is the IPv4 address.

use std::net::{IpAddr, Ipv6Addr};

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

/// Whose connections count towards the total only: those of this machine, of Unix sockets, and of proxies.
#[derive(Clone, Debug)]
pub struct Unbounded {
    /// Connections of this machine to itself.
    pub loopback: bool,
    /// Proxies, behind which all clients have one address; IPv4 ones as such.
    pub proxies: Vec<IpAddr>,
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
        let ip = ip.to_canonical();
        (self.loopback && ip.is_loopback()) || self.proxies.contains(&ip)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> Network {
        Network::of_ip(text.parse().unwrap())
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
