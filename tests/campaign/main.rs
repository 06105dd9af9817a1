//! Campaigns on the simulated card, with a ledger of what clients were told: the power fails at drawn operations, or
//! operations of the card fail, and whatever was acknowledged is there afterwards, nothing else is, and larder goes on.
//!
//! Some runs here; `POWER_CUTS` and `FAULT_RUNS` ask for more (`make torture`). Each store is drawn from a seed:
//! `POWER_SEED=n POWER_CUTS=1` does it again, as far as threads let it.
#![allow(clippy::unwrap_used)]

#[path = "../support/mod.rs"]
mod support;

mod cuts;
mod ledger;
mod scene;
mod traffic;

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok().and_then(|text| text.parse().ok())
}

/// Whether there can be cards.
fn has_cards() -> bool {
    let mounted = support::Card::mount(tempfile::tempdir().unwrap().path(), support::CardOptions::default());
    mounted.map_err(|error| support::skipped(&format!("no FUSE here: {error}"))).is_ok()
}

#[test]
fn what_was_promised_is_there_after_every_power_cut() {
    if has_cards() {
        let (seed, cuts) = (number("POWER_SEED").unwrap_or(1), number("POWER_CUTS").unwrap_or(30));
        println!("trial: {}", cuts::campaign(seed, cuts));
    }
}
