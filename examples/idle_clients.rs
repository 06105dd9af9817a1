//! Holds many idle keep-alive connections open and says what they cost the server:
//! `idle_clients ADDRESS PID COUNT`. Each connection has asked once, so that nothing about it is new.
//!
//! Needs `ulimit -n` above COUNT here and in the server. The clients come from 127.0.0.1 to 127.0.0.250, so that neither
//! the ports of one address nor a cap for each address ends it early.

use std::io::{Error, Read, Write};
use std::net::{SocketAddr, TcpStream};

use rustix::net::{AddressFamily, SocketType, bind, connect, socket};

fn main() -> std::io::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [address, pid, count] = arguments.as_slice() else {
        return Err(Error::other("usage: idle_clients ADDRESS PID COUNT"));
    };
    let usage = |_| Error::other("usage: idle_clients ADDRESS PID COUNT");
    let address: SocketAddr = address.parse().map_err(usage)?;
    let count: usize = count.parse().map_err(|_| Error::other("COUNT is not a number"))?;
    println!("before: {}", memory(pid)?);
    let mut clients = Vec::new();
    for index in 0..count {
        let mut client = open(address, index)?;
        client.write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")?;
        if client.read(&mut [0; 4096])? == 0 {
            return Err(Error::other(format!("connection {index} was closed")));
        }
        clients.push(client);
    }
    println!("with {count} idle connections: {}", memory(pid)?);
    let first = clients.first_mut().ok_or_else(|| Error::other("no connection"))?;
    first.write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")?;
    println!("the first still gets an answer: {}", first.read(&mut [0; 4096])? > 0);
    Ok(())
}

fn open(address: SocketAddr, index: usize) -> std::io::Result<TcpStream> {
    let socket = socket(AddressFamily::INET, SocketType::STREAM, None)?;
    if address.ip().is_loopback() {
        bind(&socket, &SocketAddr::from(([127, 0, 0, (index % 250) as u8 + 1], 0)))?;
    }
    connect(&socket, &address)?;
    Ok(TcpStream::from(socket))
}

fn memory(pid: &str) -> std::io::Result<String> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = |name| status.lines().find(|line| line.starts_with(name)).unwrap_or("?").replace('\t', " ");
    Ok(format!("{}, {}", line("VmRSS"), line("RssAnon")))
}
