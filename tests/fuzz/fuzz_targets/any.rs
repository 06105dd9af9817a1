//! One binary for all targets: `FUZZ_TARGET` names the one that runs, as the corpus folder does.
#![no_main]

#[path = "../targets.rs"]
mod targets;

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;

static TARGET: LazyLock<fn(&[u8])> = LazyLock::new(|| {
    let name = std::env::var("FUZZ_TARGET").expect("FUZZ_TARGET names a target");
    let found = targets::TARGETS.iter().find(|(known, _)| *known == name);
    found.expect("FUZZ_TARGET is one of those in targets.rs").1
});

fuzz_target!(|data: &[u8]| (*TARGET)(data));
