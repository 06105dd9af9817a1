//! From the figures of a card to settings, each with its reason in words. Nothing here measures.

use std::time::Duration;

use crate::config::units::{show_duration, show_size};

/// A sync up to here disturbs nobody who waits for one write.
const SYNC_QUICK: Duration = Duration::from_millis(10);
/// A sync from here on is felt in every write.
const SYNC_SLOW: Duration = Duration::from_millis(50);
/// Relaxed writes should keep the card busy with syncs for at most this part of the time.
const SYNC_SHARE: f64 = 0.05;
const INTERVAL_LEAST: Duration = Duration::from_secs(1);
const INTERVAL_MOST: Duration = Duration::from_secs(10);
/// With more than this of the memory in use, the cache is not made larger.
const MEMORY_TIGHT: f64 = 0.6;

/// What is known of a board.
#[derive(Clone, Copy, Debug)]
pub struct Machine {
    /// Memory, bytes.
    pub ram_bytes: u64,
    /// The part of it in use now.
    pub ram_used_share: Option<f64>,
    /// What `cache.size` is if nobody sets it.
    pub cache_bytes_default: u64,
    /// A usual sync.
    pub sync_p50: Duration,
    /// A slow sync.
    pub sync_p99: Duration,
    /// Synced writes a second by many clients.
    pub synced_writes_per_second: f64,
    /// Bytes to the card for each byte, each write synced by itself.
    pub amplification_alone: Option<f64>,
    /// Bytes to the card for each byte, relaxed.
    pub amplification_relaxed: Option<f64>,
}

/// A setting and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Advice {
    /// Its name.
    pub setting: &'static str,
    /// Its value, as the configuration file has it.
    pub value: String,
    /// Why, in words.
    pub reason: String,
}

/// What to set on this board.
pub fn advise(machine: &Machine) -> Vec<Advice> {
    vec![durability(machine), sync_interval(machine), cache_size(machine)]
}

fn durability(machine: &Machine) -> Advice {
    let ms = |time: Duration| format!("{:.1} ms", time.as_secs_f64() * 1000.0);
    let (p50, p99) = (ms(machine.sync_p50), ms(machine.sync_p99));
    let one = 1.0 / machine.sync_p50.as_secs_f64().max(1e-6);
    let many = machine.synced_writes_per_second;
    let rates = format!("one client gets about {one:.0} synced writes a second, many together {many:.0}");
    let mut advice = Advice { setting: "store.durability", value: "\"sync\"".to_owned(), reason: String::new() };
    if machine.sync_p99 <= SYNC_QUICK {
        advice.reason = format!("a sync takes {p50}, rarely {p99}: nobody will notice; {rates}.");
    } else if machine.sync_p50 <= SYNC_SLOW {
        advice.reason = format!(
            "a sync takes {p50}, now and then {p99}: fine for what must not be lost; {rates}. Let what may be lost for \
             a second, such as readings, ask for durability=relaxed."
        );
    } else {
        advice.value = "\"relaxed\"".to_owned();
        advice.reason = format!(
            "a sync takes {p50}, now and then {p99}: every write would feel it ({rates}). A power cut then costs at most \
             store.sync_interval; let what must not be lost ask for durability=sync."
        );
    }
    if let (Some(alone), Some(relaxed)) = (machine.amplification_alone, machine.amplification_relaxed)
        && alone > 2.0 * relaxed
    {
        let factor = alone / relaxed;
        advice.reason.push_str(&format!(
            " Writes that are synced one by one wear the card {factor:.0} times as much as relaxed ones: batch them where \
             you can."
        ));
    }
    advice
}

fn sync_interval(machine: &Machine) -> Advice {
    let wanted = machine.sync_p99.as_secs_f64() / SYNC_SHARE;
    let seconds = wanted.ceil().clamp(INTERVAL_LEAST.as_secs_f64(), INTERVAL_MOST.as_secs_f64());
    let interval = Duration::from_secs(seconds as u64);
    let reason = if interval == INTERVAL_LEAST {
        "the default: syncing once a second keeps the card busy for less than a twentieth of the time, and a power cut \
         costs a second of relaxed writes at most."
            .to_owned()
    } else {
        format!(
            "a slow sync takes {} ms: more often than this and the card would sync for more than a twentieth of the time. \
             A power cut costs so much of the relaxed writes at most.",
            machine.sync_p99.as_millis()
        )
    };
    Advice { setting: "store.sync_interval", value: format!("\"{}\"", show_duration(interval)), reason }
}

fn cache_size(machine: &Machine) -> Advice {
    let default = machine.cache_bytes_default;
    let is_tight = machine.ram_used_share.is_none_or(|share| share > MEMORY_TIGHT);
    let (bytes, reason) = if is_tight {
        (default, "the default: memory is in use by others, or nobody knows.".to_owned())
    } else if machine.sync_p99 > SYNC_QUICK {
        let double = (2 * default).min(machine.ram_bytes / 8);
        (
            double,
            format!(
                "twice the default of {}: a card this slow makes misses dear while it syncs, and memory is free now. Look \
                 at the hit ratio of `larder bench` before and after.",
                show_size(default)
            ),
        )
    } else {
        (default, "the default: misses are cheap on a disk this fast.".to_owned())
    };
    Advice { setting: "cache.size", value: format!("\"{}\"", show_size(bytes)), reason }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(sync_p50_ms: u64, sync_p99_ms: u64, used: f64) -> Vec<String> {
        let machine = Machine {
            ram_bytes: 512 << 20,
            ram_used_share: Some(used),
            cache_bytes_default: 16 << 20,
            sync_p50: Duration::from_millis(sync_p50_ms),
            sync_p99: Duration::from_millis(sync_p99_ms),
            synced_writes_per_second: 1000.0,
            amplification_alone: Some(12.0),
            amplification_relaxed: Some(3.0),
        };
        let advice = advise(&machine);
        assert!(advice[0].reason.contains("4 times as much"), "{advice:?}");
        advice.into_iter().map(|advice| advice.value).collect()
    }

    #[test]
    fn the_slower_the_card_the_rarer_the_syncs() {
        assert_eq!(values(1, 3, 0.2), ["\"sync\"", "\"1s\"", "\"16MiB\""]);
        assert_eq!(values(8, 60, 0.2), ["\"sync\"", "\"2s\"", "\"32MiB\""]);
        assert_eq!(values(80, 400, 0.2), ["\"relaxed\"", "\"8s\"", "\"32MiB\""]);
        assert_eq!(values(300, 5000, 0.2), ["\"relaxed\"", "\"10s\"", "\"32MiB\""]);
        assert_eq!(values(8, 60, 0.9)[2], "\"16MiB\"", "memory that others use is not taken");
    }

    #[test]
    fn what_is_advised_can_be_set() {
        let advice = values(300, 5000, 0.1);
        let unquoted: Vec<&str> = advice.iter().map(|value| value.trim_matches('"')).collect();
        assert!(crate::config::units::parse_duration(unquoted[1]).is_ok());
        assert!(crate::config::units::parse_size(unquoted[2]).is_ok());
    }
}
