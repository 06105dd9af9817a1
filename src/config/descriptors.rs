//! Who gets the files and sockets that the process may have open: first the store and larder itself, then clients.
//!
//! A flush that finds none left ends the store's writes until a restart, and a connection that finds none only waits. So
//! as many connections are let in as leave the store what it may need at its busiest, whatever `limits.connections_max`
//! says. Invariant: what is set aside here for a connection is the most that it can take, in any state.

use super::{Config, EngineKind, StoreKind, addresses};
use crate::http::door::beside_max;
use crate::http::tiny::DESCRIPTORS_PER_CONNECTION;
use crate::store::fjall::{CACHED_FILES, descriptors_max};

/// Standard streams, sockets, epolls and their bells, signals, the log, the lock, imports, and what is open for a moment.
const OWN: usize = 56;
/// A thread that runs handlers may look at a file and its compressed forms, and at a table of the store.
const PER_WORKER: usize = 4;
/// An epoll and its bell.
const PER_IO_THREAD: usize = 2;
/// Fewer connections than these are no service.
const CONNECTIONS_MIN: usize = 4;

/// Tables that the store keeps open, of those that it reads.
pub fn cached_files(config: &Config) -> usize {
    let all = config.inputs.board.descriptors.unwrap_or(u64::MAX);
    usize::try_from(all / 16).unwrap_or(usize::MAX).clamp(CACHED_FILES.0, CACHED_FILES.1)
}

/// What is not for clients.
fn kept(config: &Config) -> usize {
    let store = match config.store {
        StoreKind::Fjall => descriptors_max(cached_files(config)),
        StoreKind::Memory => 0,
    };
    OWN + PER_WORKER * config.workers + PER_IO_THREAD * config.io_threads + store
}

/// The most that one connection can take: its socket as often as the engine has it, and a file that is being sent.
fn per_connection(config: &Config) -> usize {
    let sockets = if config.engine == EngineKind::TinyHttp { DESCRIPTORS_PER_CONNECTION } else { 1 };
    sockets + usize::from(config.www_dir.is_some())
}

/// Cuts the number of connections to what there are descriptors for. The error says why none can be served.
pub fn cut_connections(config: &mut Config) -> Result<(), String> {
    config.connections_wanted = config.limits.connections_max;
    let Some(all) = config.inputs.board.descriptors else { return Ok(()) };
    let (kept, each) = (kept(config), per_connection(config));
    let places = places(usize::try_from(all).unwrap_or(usize::MAX).saturating_sub(kept) / each);
    let least = CONNECTIONS_MIN.min(config.connections_wanted);
    if places < least {
        let needed = kept + each * (least + beside_max(least));
        return Err(format!(
            "this process may open {all} files, and larder needs {needed} with these settings, {kept} of them for itself \
             and the store: raise the limit (ulimit -n, LimitNOFILE= of the unit)"
        ));
    }
    let limits = &mut config.limits;
    limits.connections_max = limits.connections_max.min(places);
    limits.connections_per_address_max = limits.connections_per_address_max.min(limits.connections_max);
    Ok(())
}

/// What was cut, in words.
pub fn cut(config: &Config) -> Option<String> {
    if let Some(text) = addresses::cut(config) {
        return Some(text);
    }
    let (wanted, most) = (config.connections_wanted, config.limits.connections_max);
    let all = config.inputs.board.descriptors.filter(|_| wanted > most)?;
    Some(format!(
        "limits.connections_max is cut from {wanted} to {most}: of the {all} files that this process may open (ulimit -n, \
         LimitNOFILE= of the unit), {} are kept for larder itself and the store",
        kept(config)
    ))
}

/// The most connections that fit, with those that may be beside them, among so many.
fn places(all: usize) -> usize {
    (all - all.div_ceil(5)).max(all.saturating_sub(beside_max(usize::MAX))).min(all.saturating_sub(beside_max(0)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_and_what_is_beside_them_fit_and_one_more_would_not() {
        for all in (0..3000).chain([100_000, 1 << 30]) {
            let most = places(all);
            assert!(most == 0 || most + beside_max(most) <= all, "{all}: {most}");
            assert!(most + 2 + beside_max(most + 2) > all, "{all}: {most}");
        }
    }
}
