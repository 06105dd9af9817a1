//! One distribution over time: everything since the start, and the last minute in slices of ten seconds.
//!
//! Only the total and the open slice are HdrHistograms (10 KB each, allocated at first use). A closed slice keeps the
//! cells that were hit, at most [`CLOSED_CELLS_MAX`] of them: a hundred series with six dense slices would need 7 MB.
//! Count, sum, least and greatest are exact; quantiles are within 1 % (2 % where a closed slice had to be thinned).
//!
//! Invariant: no histogram ever holds 2^31 values, so that its u32 counts cannot saturate and quantiles stay true.

use hdrhistogram::Histogram;

/// The quantiles that are shown, ascending as hdrhistogram wants them.
pub(super) const QUANTILES: [f64; 5] = [0.5, 0.9, 0.95, 0.99, 0.999];
/// How long a slice stays open, in seconds.
pub(super) const SLICE_SECONDS: u64 = 10;
/// The greatest value a histogram tells apart: 60 s in microseconds. Greater ones count as this one in quantiles.
const VALUE_MAX: u64 = 60_000_000;
/// Closed slices that make up the last minute, together with the open one.
const CLOSED_SLICES: usize = 5;
/// Cells of a closed slice, 8 bytes each.
const CLOSED_CELLS_MAX: usize = 256;
/// Values a total may hold before its counts are halved.
const TOTAL_VALUES_MAX: u64 = 1 << 31;

/// The figures of one distribution over one span, in the unit that was recorded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Stats {
    pub count: u64,
    pub sum: u64,
    /// Zero where `count` is.
    pub min: u64,
    pub max: u64,
    /// In the order of [`QUANTILES`].
    pub quantiles: [u64; QUANTILES.len()],
}

/// What is known exactly about some values.
#[derive(Clone, Copy, Default)]
struct Exact {
    count: u64,
    sum: u64,
    min: u64,
    max: u64,
}

impl Exact {
    fn record(&mut self, value: u64) {
        self.merge(&Exact { count: 1, sum: value, min: value, max: value });
    }

    fn merge(&mut self, other: &Exact) {
        if other.count == 0 {
            return;
        }
        self.min = if self.count == 0 { other.min } else { self.min.min(other.min) };
        self.max = self.max.max(other.max);
        self.count += other.count;
        self.sum = self.sum.saturating_add(other.sum);
    }

    /// Quantiles of a histogram are upper ends of cells: none may lie outside of what was really seen.
    fn with_quantiles(&self, histogram: Option<&Histogram<u32>>) -> Stats {
        let mut stats =
            Stats { count: self.count, sum: self.sum, min: self.min, max: self.max, quantiles: [0; QUANTILES.len()] };
        if let Some(histogram) = histogram.filter(|_| self.count > 0) {
            for (slot, value) in stats.quantiles.iter_mut().zip(histogram.value_at_quantiles(QUANTILES)) {
                *slot = value.clamp(self.min, self.max);
            }
        }
        stats
    }
}

/// A histogram with its exact figures, allocated at first use.
#[derive(Default)]
struct Dense {
    exact: Exact,
    histogram: Option<Box<Histogram<u32>>>,
}

impl Dense {
    fn record(&mut self, value: u64) {
        self.exact.record(value);
        self.histogram.get_or_insert_with(|| Box::new(empty_histogram())).saturating_record(value);
    }
}

/// The cells of a closed slice: the upper end of each, and how many values fell into it. Ascending.
#[derive(Default)]
struct Closed {
    exact: Exact,
    cells: Box<[(u32, u32)]>,
}

/// A distribution since the start and over the last minute.
#[derive(Default)]
pub(super) struct Window {
    total: Dense,
    open: Dense,
    /// The newest first.
    closed: [Closed; CLOSED_SLICES],
    /// The number of the open slice, counted from the start of the process.
    slice: u64,
}

impl Window {
    /// Records a value that was seen in slice number `slice`.
    pub fn record(&mut self, value: u64, slice: u64) {
        self.advance(slice);
        self.open.record(value);
        self.total.record(value);
        if let Some(histogram) = self.total.histogram.as_mut().filter(|h| h.len() >= TOTAL_VALUES_MAX) {
            halve(histogram);
        }
    }

    /// The figures since the start.
    pub fn total(&self) -> Stats {
        self.total.exact.with_quantiles(self.total.histogram.as_deref())
    }

    /// The figures of the slice that is open at `slice` and the five before it: the last 50 to 60 seconds.
    pub fn last_minute(&mut self, slice: u64) -> Stats {
        self.advance(slice);
        let mut exact = self.open.exact;
        self.closed.iter().for_each(|closed| exact.merge(&closed.exact));
        if exact.count == 0 {
            return Stats::default();
        }
        let mut merged = empty_histogram();
        if let Some(open) = &self.open.histogram {
            open.iter_recorded()
                .for_each(|cell| merged.saturating_record_n(cell.value_iterated_to(), cell.count_at_value()));
        }
        for (value, count) in self.closed.iter().flat_map(|closed| closed.cells.iter()) {
            merged.saturating_record_n(u64::from(*value), *count);
        }
        exact.with_quantiles(Some(&merged))
    }

    /// Closes slices until `slice` is the open one. A number from the past changes nothing.
    fn advance(&mut self, slice: u64) {
        let steps = slice.saturating_sub(self.slice);
        if steps == 0 {
            return;
        }
        self.slice = slice;
        let mut newest = close(&mut self.open);
        for _ in 0..steps.min(CLOSED_SLICES as u64 + 1) {
            self.closed.rotate_right(1);
            // Only the first step has something to close; the slices that were skipped are empty.
            self.closed[0] = std::mem::take(&mut newest);
        }
    }
}

/// Takes the values out of the open slice. A series that had none in a whole slice gives its memory back.
fn close(open: &mut Dense) -> Closed {
    let exact = std::mem::take(&mut open.exact);
    if exact.count == 0 {
        open.histogram = None;
        return Closed::default();
    }
    let Some(histogram) = &mut open.histogram else { return Closed::default() };
    let mut cells: Vec<(u32, u32)> = histogram
        .iter_recorded()
        .map(|cell| (u32::try_from(cell.value_iterated_to()).unwrap_or(u32::MAX), cell.count_at_value()))
        .collect();
    histogram.reset();
    while cells.len() > CLOSED_CELLS_MAX {
        cells = thin(&cells);
    }
    Closed { exact, cells: cells.into_boxed_slice() }
}

/// Joins each cell with its neighbour; the upper end of the two stands for both.
fn thin(cells: &[(u32, u32)]) -> Vec<(u32, u32)> {
    cells
        .chunks(2)
        .map(|pair| (pair[pair.len() - 1].0, pair.iter().fold(0, |sum: u32, cell| sum.saturating_add(cell.1))))
        .collect()
}

/// Halves every count, rounding up: the shape stays, and a rare value is never lost.
fn halve(histogram: &mut Histogram<u32>) {
    let cells: Vec<(u64, u32)> =
        histogram.iter_recorded().map(|cell| (cell.value_iterated_to(), cell.count_at_value())).collect();
    histogram.reset();
    for (value, count) in cells {
        histogram.saturating_record_n(value, count.div_ceil(2));
    }
}

fn empty_histogram() -> Histogram<u32> {
    Histogram::new_with_bounds(1, VALUE_MAX, 2)
        .expect("1, 60 000 000 and 2 digits are bounds that hdrhistogram accepts")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exact_figures_are_exact_and_quantiles_within_one_percent() {
        let mut window = Window::default();
        (1..=100_000u64).for_each(|value| window.record(value, 0));
        for stats in [window.total(), window.last_minute(0)] {
            assert_eq!((stats.count, stats.min, stats.max), (100_000, 1, 100_000));
            assert_eq!(stats.sum, 100_000 * 100_001 / 2);
            for (quantile, value) in QUANTILES.iter().zip(stats.quantiles) {
                let wanted = quantile * 100_000.0;
                assert!((value as f64 - wanted).abs() <= wanted * 0.01, "{quantile}: {value}");
            }
        }
    }

    #[test]
    fn the_last_minute_forgets_a_slice_after_six_and_the_total_never() {
        let mut window = Window::default();
        window.record(7_000_000, 0);
        window.record(100, 3);
        assert_eq!(window.last_minute(5).count, 2);
        let later = window.last_minute(6);
        assert_eq!((later.count, later.min, later.max), (1, 100, 100));
        assert_eq!(window.last_minute(9), Stats::default());
        assert_eq!(window.last_minute(1_000_000), Stats::default());
        assert_eq!((window.total().count, window.total().max), (2, 7_000_000));
    }

    #[test]
    fn closed_slices_keep_their_quantiles_even_when_thinned() {
        let mut window = Window::default();
        (1..=2_000_000u64).step_by(17).for_each(|value| window.record(value, 0));
        let open = window.last_minute(0);
        let closed = window.last_minute(1);
        assert!(window.closed[0].cells.len() <= CLOSED_CELLS_MAX);
        assert_eq!((open.count, open.sum, open.min, open.max), (closed.count, closed.sum, closed.min, closed.max));
        for (before, after) in open.quantiles.iter().zip(closed.quantiles) {
            assert!(before.abs_diff(after) * 20 <= *before, "{before} became {after}");
        }
    }

    #[test]
    fn an_idle_series_gives_its_open_histogram_back() {
        let mut window = Window::default();
        window.record(5, 0);
        window.last_minute(1);
        assert!(window.open.histogram.is_some());
        window.last_minute(2);
        assert!(window.open.histogram.is_none());
    }

    #[test]
    fn values_beyond_the_range_count_as_the_greatest_in_quantiles_and_exactly_elsewhere() {
        let mut window = Window::default();
        window.record(0, 0);
        window.record(90_000_000, 0);
        let stats = window.total();
        assert_eq!((stats.min, stats.max, stats.sum), (0, 90_000_000, 90_000_000));
        assert!(stats.quantiles[4] >= VALUE_MAX && stats.quantiles[4] <= 90_000_000);
        assert_eq!(stats.quantiles[0], 0);
    }

    #[test]
    fn a_single_value_is_every_quantile() {
        let mut window = Window::default();
        window.record(1_234_567, 0);
        assert_eq!(window.total().quantiles, [1_234_567; 5]);
    }

    #[test]
    fn halving_keeps_the_shape_and_the_rare_values() {
        let mut histogram = empty_histogram();
        histogram.saturating_record_n(100, 3_000_000_000);
        histogram.saturating_record_n(50_000, 1);
        let before = histogram.value_at_quantile(0.99);
        halve(&mut histogram);
        assert_eq!(histogram.len(), 1_500_000_001);
        assert_eq!(histogram.value_at_quantile(0.99), before);
        assert!(histogram.max() >= 50_000);
    }
}
