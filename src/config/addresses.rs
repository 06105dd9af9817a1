//! Who gets the addresses that the process has: 3 GiB of them on a machine of 32 bits, or what `ulimit -v` allows.
//!
//! tiny_http spends a thread on a connection, and each has its stack. One more than there are addresses for is the end of
//! the process. So as many connections are let in as fit beside what larder itself may need, whatever
//! `limits.connections_max` says; for all other machines the addresses have no end.

use super::{Config, EngineKind};
use crate::board::process::{STACK_BYTES, STACK_VARIABLE};
use crate::http::door::beside_max;

/// The program with its libraries, what the allocator has taken and given to nobody, tables that are read.
const OWN_BYTES: u64 = 256 << 20;
/// Threads that serve no connection in particular, besides workers and those that own connections.
const OWN_THREADS: u64 = 64;
/// Beside its stack: the guard page, buffers of both directions, a head.
const PER_CONNECTION_BYTES: u64 = 160 << 10;

/// Memory that the settings allow for.
pub fn budgets(config: &Config) -> u64 {
    let memtables = config.memtable_bytes.saturating_mul(5);
    let limits = &config.limits;
    let store = [memtables, config.block_cache_bytes, config.cache_bytes];
    let clients = [limits.bodies_bytes_max, limits.heads_bytes_max, limits.answers_bytes_max];
    store.into_iter().chain(clients).fold(0, u64::saturating_add)
}

/// The stack of a thread, as the environment has it.
fn stack_bytes(config: &Config) -> u64 {
    let named = config.inputs.environment.iter().find(|(name, _)| name == STACK_VARIABLE);
    named.and_then(|(_, value)| value.to_str()?.parse().ok()).unwrap_or(STACK_BYTES as u64)
}

/// The most connections that there are addresses for; `None`: as many as anyone likes.
fn places(config: &Config) -> Option<usize> {
    let all = config.inputs.board.addresses.filter(|_| config.engine == EngineKind::TinyHttp)?;
    let threads = OWN_THREADS + config.workers as u64 + config.io_threads as u64;
    let stack = stack_bytes(config);
    let kept = budgets(config).saturating_add(OWN_BYTES).saturating_add(threads.saturating_mul(stack));
    let fit = all.saturating_sub(kept) / stack.saturating_add(PER_CONNECTION_BYTES);
    let fit = usize::try_from(fit).unwrap_or(usize::MAX);
    Some(fit.saturating_sub(beside_max(fit)))
}

/// Cuts the number of connections to what there are addresses for. The error says that none can be served.
pub fn cut_connections(config: &mut Config) -> Result<(), String> {
    let Some(places) = places(config) else { return Ok(()) };
    if places == 0 {
        let all = config.inputs.board.addresses.unwrap_or(0) >> 20;
        return Err(format!(
            "this process has addresses for {all} MiB, and these settings leave none for connections: make cache.size and \
             the memory for bodies and answers smaller, or take server.engine = \"epoll\", which spends no thread on them"
        ));
    }
    let limits = &mut config.limits;
    limits.connections_max = limits.connections_max.min(places);
    limits.connections_per_address_max = limits.connections_per_address_max.min(limits.connections_max);
    Ok(())
}

/// What was cut, in words.
pub fn cut(config: &Config) -> Option<String> {
    let (wanted, most) = (config.connections_wanted, config.limits.connections_max);
    let all = config.inputs.board.addresses.filter(|_| wanted > most && places(config) == Some(most))?;
    Some(format!(
        "limits.connections_max is cut from {wanted} to {most}: the process has addresses for {} MiB, and tiny_http wants a \
         stack of {} KiB for each",
        all >> 20,
        stack_bytes(config) >> 10
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(addresses: Option<u64>, stack: Option<&str>) -> Config {
        let mut config = Config::defaults(2 << 30, 4);
        config.inputs.board.addresses = addresses;
        config.inputs.environment.extend(stack.map(|bytes| (STACK_VARIABLE.into(), bytes.into())));
        config.limits.connections_max = 100_000;
        config.connections_wanted = 100_000;
        config
    }

    #[test]
    fn as_many_connections_are_let_in_as_there_are_stacks_for() {
        let cut_to = |addresses, stack| {
            let mut config = config(addresses, stack);
            cut_connections(&mut config).map(|()| (config.limits.connections_max, cut(&config)))
        };
        let small = cut_to(Some(3 << 30), Some("262144")).unwrap();
        assert!((2000..8000).contains(&small.0), "{small:?}");
        assert!(small.1.unwrap().contains("cut from 100000 to "));
        let large = cut_to(Some(3 << 30), Some("2097152")).unwrap();
        assert!((500..1700).contains(&large.0), "stacks of 2 MiB: {large:?}");
        let fewer = cut_to(Some(1 << 30), Some("262144")).unwrap();
        assert!(fewer.0 < small.0 / 2, "{fewer:?}");
        assert_eq!(cut_to(None, None).unwrap(), (100_000, None));
        assert!(cut_to(Some(256 << 20), None).unwrap_err().contains("epoll"));
        let mut epoll = Config { engine: EngineKind::Epoll, ..config(Some(1 << 30), None) };
        cut_connections(&mut epoll).unwrap();
        assert_eq!(epoll.limits.connections_max, 100_000, "which has no thread for each");
    }

    #[test]
    fn what_is_left_holds_every_connection_that_may_be_there() {
        for megabytes in [700, 1024, 2048, 3072] {
            let mut config = config(Some(megabytes << 20), Some("262144"));
            cut_connections(&mut config).unwrap();
            let most = config.limits.connections_max;
            let threads = (most + beside_max(most)) as u64;
            assert!(threads * (262_144 + PER_CONNECTION_BYTES) + budgets(&config) + OWN_BYTES < megabytes << 20);
        }
    }
}
