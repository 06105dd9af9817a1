//! Campaigns on the simulated card, with a ledger of what clients were told: the power fails at drawn operations, or
//! operations of the card fail, and whatever was acknowledged is there afterwards, nothing else is, and larder goes on.
//!
//! Some runs here; `POWER_CUTS` and `FAULT_RUNS` ask for more, `FAULT_RUNS=all` for every operation (`make torture`).
//! Each store is drawn from a seed: `POWER_SEED=n POWER_CUTS=1` and `FAULT_RUN=n` do it again, as far as threads let
//! them. With `CAMPAIGN_STORY` they tell what they do.
#![allow(clippy::unwrap_used)]

#[path = "../support/mod.rs"]
mod support;

mod cuts;
mod faults;
mod ledger;
mod ledger_tests;
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

/// The runs with faults that are asked for.
fn fault_runs() -> Vec<u64> {
    if let Some(run) = number("FAULT_RUN") {
        return vec![run];
    }
    if std::env::var("FAULT_RUNS").is_ok_and(|text| text == "all") {
        return (0..faults::SWEEP).collect();
    }
    faults::drawn(number("FAULT_SEED").unwrap_or(1), number("FAULT_RUNS").unwrap_or(40))
}

#[test]
fn no_failure_of_the_card_makes_larder_lie_or_lose() {
    if has_cards() {
        println!("trial: {}", faults::campaign(&fault_runs()));
    }
}
