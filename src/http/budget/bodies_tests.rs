//! Bodies against a budget of 32 MiB, of which 8 are the reserve.

use std::sync::atomic::{AtomicU64, Ordering};

use super::*;
use crate::limits::MIB;

const M: u64 = MIB as u64;
const POOL: u64 = 32 * M - 8 * M - FREE_BYTES;

struct Scene {
    bodies: Arc<Bodies>,
    /// Bits of those who were told to go on, and of those who were told not to, or to give up.
    admitted: Arc<AtomicU64>,
    refused: Arc<AtomicU64>,
}

impl Scene {
    fn new() -> Scene {
        let bodies = Arc::new(Bodies::new(Arc::new(LiveLimits::new(Limits::default())), &Registry::default()));
        Scene { bodies, admitted: Arc::default(), refused: Arc::default() }
    }

    fn begin(&self, name: &str) -> Share {
        let refused = self.refused.clone();
        self.bodies.begin(
            Client::of_token(name),
            Box::new(move || {
                refused.fetch_add(1 << 32, Ordering::SeqCst);
            }),
        )
    }

    fn wait(&self, share: &Share, need: u64, bit: u64) -> u64 {
        let (admitted, refused) = (self.admitted.clone(), self.refused.clone());
        let admit = move |may: bool| {
            if may { &admitted } else { &refused }.fetch_add(bit, Ordering::SeqCst);
        };
        self.bodies.wait(share.who(), need, Box::new(admit))
    }

    fn told(&self) -> (u64, u64) {
        (self.admitted.swap(0, Ordering::SeqCst), self.refused.swap(0, Ordering::SeqCst))
    }
}

#[test]
fn what_comes_is_charged_up_to_the_pool_and_given_back() {
    let scene = Scene::new();
    let (mut small, mut large, mut other) = (scene.begin("a"), scene.begin("a"), scene.begin("b"));
    assert!(small.grow(FREE_BYTES) && scene.bodies.set_aside.get() == 0, "small ones cost nothing");
    assert!(large.grow(POOL - M) && !other.grow(M + 1) && other.grow(M));
    assert_eq!(scene.bodies.set_aside.get(), POOL);
    assert!(!scene.bodies.has_room() && !small.grow(FREE_BYTES + 1));
    large.settle(M);
    assert!(scene.bodies.has_room() && small.grow(FREE_BYTES + 1));
    drop((small, large, other));
    assert_eq!(scene.bodies.set_aside.get(), 0);
}

#[test]
fn the_reserve_is_for_bodies_that_then_need_nothing_more_and_the_lightest_comes_first() {
    let scene = Scene::new();
    let mut full = scene.begin("a");
    assert!(full.grow(POOL));
    let (mut first, second, third) = (scene.begin("a"), scene.begin("b"), scene.begin("c"));
    scene.wait(&first, 8 * M, 1);
    assert_eq!(scene.told(), (1, 0), "there is room for one");
    first.was_admitted(8 * M);
    assert!(first.grow(8 * M), "it waits no more");
    // A client that holds something waits behind those that hold nothing, whoever came first.
    let late = scene.begin("a");
    scene.wait(&late, 8 * M, 2);
    scene.wait(&second, 8 * M, 4);
    let turn = scene.wait(&third, 8 * M, 8);
    assert_eq!(scene.told(), (0, 0));
    assert!(!scene.begin("d").grow(FREE_BYTES + 1), "nobody passes those who wait");
    drop(first);
    assert_eq!(scene.told(), (4, 0));
    drop(second);
    assert_eq!(scene.told(), (8, 0));
    scene.bodies.leave(turn);
    drop(third);
    assert_eq!(scene.told(), (2, 0));
}

#[test]
fn a_body_larger_than_all_of_it_has_its_turn_alone() {
    let scene = Scene::new();
    let (mut full, huge) = (scene.begin("a"), scene.begin("b"));
    assert!(full.grow(M));
    scene.wait(&huge, 100 * M, 1);
    assert_eq!(scene.told(), (0, 0));
    drop(full);
    assert_eq!((scene.told(), scene.bodies.set_aside.get()), ((1, 0), 100 * M));
}

#[test]
fn who_waits_too_long_is_told_so_and_who_left_is_told_nothing() {
    let scene = Scene::new();
    let (mut full, waits, leaves) = (scene.begin("a"), scene.begin("b"), scene.begin("c"));
    assert!(full.grow(POOL));
    scene.wait(&waits, 20 * M, 1);
    let turn = scene.wait(&leaves, 20 * M, 2);
    scene.bodies.tend(Duration::from_secs(3600));
    assert_eq!(scene.told(), (0, 0), "nobody stands still yet");
    scene.bodies.leave(turn);
    std::thread::sleep(Duration::from_millis(5));
    scene.bodies.tend(Duration::ZERO);
    assert_eq!((scene.told(), scene.bodies.refused.get(), scene.bodies.waits.get()), ((0, 1), 1, 2));
}

#[test]
fn no_bytes_decode_to_more_than_they_can() {
    assert_eq!(decoded_bytes_max(false, 10, M), None);
    assert_eq!(decoded_bytes_max(true, 10, M), Some(10_320));
    assert_eq!(decoded_bytes_max(true, M, M), Some(M));
    assert_eq!(decoded_bytes_max(true, u64::MAX, M), Some(M));
}
