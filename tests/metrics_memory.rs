//! The memory of all histograms, counted at the allocator, in a process of its own so that nothing else allocates.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use larder::metrics::Registry;

/// Counts the bytes that are allocated and not freed.
struct Counting;

static LIVE_BYTES: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call goes to the system's allocator unchanged; only a number is kept beside it.
#[allow(unsafe_code)]
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        LIVE_BYTES.fetch_add(layout.size(), Ordering::Relaxed);
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        LIVE_BYTES.fetch_sub(layout.size(), Ordering::Relaxed);
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const BYTES_MAX: usize = 4_000_000;
const THREADS: usize = 8;
const ROUTES: [&str; 20] = [
    "/r01", "/r02", "/r03", "/r04", "/r05", "/r06", "/r07", "/r08", "/r09", "/r10", "/r11", "/r12", "/r13", "/r14",
    "/r15", "/r16", "/r17", "/r18", "/r19", "/r20",
];
const STATUSES: [u16; 5] = [100, 200, 304, 404, 503];
const DISTRIBUTIONS: [&str; 8] = [
    "larder_a_seconds",
    "larder_b_seconds",
    "larder_c_seconds",
    "larder_d_seconds",
    "larder_e_seconds",
    "larder_f_seconds",
    "larder_g_seconds",
    "larder_h_seconds",
];

/// Values that hit every cell of a histogram: powers of a number close to one, from a microsecond to a minute.
fn durations() -> impl Iterator<Item = Duration> {
    std::iter::successors(Some(1.0f64), |micros| Some((micros * 1.004).max(micros + 1.0)))
        .take_while(|micros| *micros < 60e6)
        .map(|micros| Duration::from_micros(micros as u64))
}

#[test]
fn twenty_routes_in_five_classes_on_eight_threads_stay_under_four_megabytes() {
    let before = LIVE_BYTES.load(Ordering::Relaxed);
    let registry = Registry::default();
    let distributions = DISTRIBUTIONS.map(|name| registry.distribution(name, "Filler.", &[]));
    let barrier = &std::sync::Barrier::new(THREADS + 1);
    let most = std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let (registry, distributions) = (registry.clone(), distributions.clone());
            scope.spawn(move || {
                for _ in 0..8 {
                    barrier.wait();
                    for duration in durations().skip(thread).step_by(THREADS) {
                        for (route, status) in ROUTES.iter().flat_map(|route| STATUSES.map(|status| (*route, status))) {
                            registry.request(route, "GET", status, None, duration, true);
                        }
                        distributions.iter().for_each(|distribution| distribution.record_duration(duration));
                    }
                    barrier.wait();
                }
            });
        }
        // Eight rounds in eight slices: every slice of the last minute is full, and the oldest have been dropped.
        let mut most = 0;
        for slice in 0..8 {
            barrier.wait();
            barrier.wait();
            most = most.max(LIVE_BYTES.load(Ordering::Relaxed) - before);
            registry.open_slice_at(Duration::from_secs(10 * (slice + 1)));
        }
        most
    });
    println!("all histograms hold {most} bytes at most");
    let page = registry.expose();
    let expected = durations().count() * 8;
    let count = format!(
        "larder_http_request_duration_seconds_count{{method=\"GET\",route=\"/r20\",class=\"5xx\"}} {expected}\n"
    );
    assert!(page.contains(&count), "{count} is missing");
    assert!(most < BYTES_MAX, "{most} bytes");
}
