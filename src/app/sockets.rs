//! Where larder listens: the sockets that it binds or is handed, and what is said of them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::{fmt, io};

use super::{EXIT_CONFIG, Refusal};
use crate::board::notify;
use crate::config::{AuthMode, Config, ConfigError, EngineKind, ListenAddress};
use crate::http::listener::{Binding, Listener};
use crate::logging;

/// Sockets that were handed over, or why none can be taken.
pub type HandedOver = io::Result<Vec<(OwnedFd, String)>>;

/// What the kernel cuts every backlog to.
const SOMAXCONN: &str = "/proc/sys/net/core/somaxconn";

/// Binds what is to be bound, and takes what was handed over.
pub fn listen(config: &Config, handed_over: HandedOver) -> Result<Vec<Listener>, Refusal> {
    let mut handed_over = Some(handed_over);
    let mut listeners = Vec::new();
    for address in &config.listen {
        let wrong = |error: io::Error| format!("cannot listen on {address}: {error}");
        match address {
            ListenAddress::Tcp(address) => listeners.push(bind(config, *address).map_err(wrong)?),
            ListenAddress::Unix(path) => {
                listeners.push(Listener::bind_unix(path).map_err(|error| match error.kind() {
                    io::ErrorKind::InvalidInput => of_configuration(wrong(error)),
                    _ => Refusal::from(wrong(error)),
                })?)
            }
            ListenAddress::Inherited => {
                let taken = handed_over.take().unwrap_or_else(|| Ok(Vec::new())).and_then(|sockets| {
                    sockets.into_iter().map(|(fd, _)| Listener::from_fd(fd)).collect::<io::Result<Vec<_>>>()
                });
                listeners.extend(taken.map_err(|error| of_configuration(wrong(error)))?);
            }
        }
    }
    if listeners.is_empty() {
        return Err(of_configuration("there is no socket to listen on; fd:// needs a systemd socket unit"));
    }
    if config.engine == EngineKind::TinyHttp && listeners.iter().any(|listener| matches!(listener, Listener::Unix(_))) {
        return Err(of_configuration("a Unix socket needs server.engine = \"epoll\": tiny_http has TCP only"));
    }
    for listener in &listeners {
        listener.set_backlog(config.backlog).map_err(|error| format!("cannot set server.backlog: {error}"))?;
    }
    Ok(listeners)
}

fn of_configuration(reason: impl fmt::Display) -> Refusal {
    Refusal { code: EXIT_CONFIG, reason: reason.to_string() }
}

fn bind(config: &Config, address: SocketAddr) -> io::Result<Listener> {
    let v6_only = config.is_v6_only(address);
    match Listener::bind_tcp_as(address, Binding { v6_only, is_awaited: false }) {
        Err(error) if error.kind() == io::ErrorKind::AddrNotAvailable => {
            let listener = Listener::bind_tcp_as(address, Binding { v6_only, is_awaited: true })?;
            log::warn!("{}: nobody can connect there before it has", not_here(address.ip()));
            Ok(listener)
        }
        result => result,
    }
}

fn not_here(ip: IpAddr) -> String {
    format!("this machine does not have the address {ip} now")
}

/// Whether this machine has an address. Makes a socket of another kind there for a moment.
fn is_here(mut address: SocketAddr) -> bool {
    address.set_port(0);
    UdpSocket::bind(address).map_or_else(|error| error.kind() != io::ErrorKind::AddrNotAvailable, |_| true)
}

fn awaited(config: &Config) -> impl Iterator<Item = IpAddr> {
    let tcp = config.listen.iter().filter_map(|address| match address {
        ListenAddress::Tcp(address) => Some(*address),
        ListenAddress::Unix(_) | ListenAddress::Inherited => None,
    });
    tcp.filter(|address| !is_here(*address)).map(|address| address.ip())
}

/// What a start would meet.
pub fn remarks(config: &Config) -> Vec<String> {
    let waits = |ip| format!("warning: {}: larder would wait for it", not_here(ip));
    let mut remarks: Vec<String> = awaited(config).map(waits).collect();
    let allowed = std::fs::read_to_string(SOMAXCONN).ok().and_then(|text| text.trim().parse().ok());
    remarks.extend(cut_backlog(config.backlog, allowed).map(|text| format!("note: {text}")));
    remarks
}

fn cut_backlog(wanted: usize, allowed: Option<usize>) -> Option<String> {
    let allowed = allowed.filter(|allowed| *allowed < wanted)?;
    Some(format!("server.backlog is {wanted}, and the kernel cuts it to {allowed}: sysctl net.core.somaxconn={wanted}"))
}

/// Looks at the addresses as they are: those that systemd bound stand in no configuration.
pub fn check_exposure(config: &Config, listeners: &[Listener], tokens: bool) -> Result<(), ConfigError> {
    for listener in listeners {
        let Listener::Tcp(socket) = listener else { continue };
        let Ok(address) = socket.local_addr() else { continue };
        config.check_exposure(address, tokens).map_err(|message| ConfigError { source: None, message })?;
    }
    Ok(())
}

/// Says on stdout where larder listens, and to the service manager that it is ready. `is_served`: the store is open, and
/// `tokens`: there are some.
pub fn announce(listeners: &[Listener], config: &Config, tokens: bool, is_served: bool) {
    let urls: Vec<String> = listeners.iter().map(Listener::url).collect();
    let mut text: String = urls.iter().map(|url| format!("larder listening on {url}\n")).collect();
    let asks = tokens && config.auth_mode != AuthMode::Open;
    if let Some(at) = listeners.iter().find_map(where_to_try).filter(|_| is_served && !asks) {
        let path = "/api/v1/kv/home/notes/first";
        text.push_str(&format!("try: curl -i -X PUT {at}{path} -H 'Content-Type: text/plain' -d 'hello'\n"));
    }
    logging::say(text);
    if config.engine == EngineKind::TinyHttp {
        log::info!("engine tiny_http: for trusted networks; --engine epoll is for many or untrusted clients");
    }
    let waits: String = awaited(config).map(|ip| format!(" ({})", not_here(ip))).collect();
    notify::ready(&format!("listening on {}{waits}", urls.join(", ")));
}

/// What curl on this machine needs to be told to come to a socket, if it can be told in a line.
fn where_to_try(listener: &Listener) -> Option<String> {
    match listener {
        Listener::Tcp(socket) => {
            let mut address = socket.local_addr().ok().filter(|address| is_here(*address))?;
            match address {
                SocketAddr::V4(v4) if v4.ip().is_unspecified() => address.set_ip(Ipv4Addr::LOCALHOST.into()),
                SocketAddr::V6(v6) if v6.ip().is_unspecified() => address.set_ip(Ipv6Addr::LOCALHOST.into()),
                SocketAddr::V6(v6) if v6.scope_id() != 0 => return None,
                _ => {}
            }
            Some(format!("http://{address}"))
        }
        Listener::Unix(socket) => {
            let address = socket.local_addr().ok()?;
            let path = address.as_pathname().and_then(Path::to_str)?;
            let is_plain = |c: char| c.is_ascii_alphanumeric() || "/._-+".contains(c);
            path.chars().all(is_plain).then(|| format!("--unix-socket {path} http://localhost"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_backlog_that_the_kernel_cuts_is_told() {
        assert_eq!(cut_backlog(4096, Some(4096)), None);
        assert_eq!(cut_backlog(4096, None), None);
        let told = cut_backlog(4096, Some(128)).unwrap();
        assert!(told.contains("is 4096") && told.contains("to 128") && told.ends_with("somaxconn=4096"), "{told}");
    }

    #[test]
    fn only_an_address_that_is_here_is_one() {
        assert!(is_here(([127, 0, 0, 1], 1).into()) && is_here(([0, 0, 0, 0], 80).into()));
        assert!(!is_here(([192, 0, 2, 77], 0).into()));
    }
}
