//! Times, counted in classes so narrow that a quantile is wrong by at most 1.6 %.

/// Classes to each power of two, as a power of two.
const PRECISION: u32 = 6;
const WIDTH: usize = 1 << PRECISION;
/// Enough for every `u64`.
const CLASSES: usize = (64 - PRECISION as usize + 1) * WIDTH;

/// How often which time was seen; times in nanoseconds.
pub struct Histogram {
    classes: Box<[u64]>,
    count: u64,
    max: u64,
}

impl Default for Histogram {
    fn default() -> Histogram {
        Histogram { classes: vec![0; CLASSES].into(), count: 0, max: 0 }
    }
}

impl Histogram {
    /// Counts one time.
    #[inline]
    pub fn record(&mut self, nanos: u64) {
        self.classes[class(nanos)] += 1;
        self.count += 1;
        self.max = self.max.max(nanos);
    }

    /// Adds what another has counted.
    pub fn merge(&mut self, other: &Histogram) {
        for (mine, theirs) in self.classes.iter_mut().zip(&other.classes) {
            *mine += theirs;
        }
        self.count += other.count;
        self.max = self.max.max(other.max);
    }

    /// How many times were counted.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// The largest time, exactly; 0 if there is none.
    pub fn max(&self) -> u64 {
        self.max
    }

    /// The time that a share `q` (0 to 1) of all do not exceed; 0 if there is none.
    pub fn quantile(&self, q: f64) -> u64 {
        let rank = ((q * self.count as f64).ceil() as u64).clamp(1, self.count.max(1));
        let mut below = 0;
        for (at, count) in self.classes.iter().enumerate() {
            below += count;
            if below >= rank {
                return largest(at).min(self.max);
            }
        }
        self.max
    }
}

#[inline]
fn class(nanos: u64) -> usize {
    let shift = (u64::BITS - nanos.leading_zeros()).saturating_sub(PRECISION + 1);
    shift as usize * WIDTH + (nanos >> shift) as usize
}

/// The largest time of a class.
fn largest(class: usize) -> u64 {
    let shift = (class / WIDTH).saturating_sub(1);
    let next = (class - shift * WIDTH + 1) as u128;
    u64::try_from((next << shift) - 1).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_time_has_a_class_whose_largest_is_at_most_a_64th_above_it() {
        let powers = (0..64).flat_map(|bit| [(1u64 << bit) - 1, 1 << bit, (1 << bit) + 1]);
        for nanos in powers.chain([u64::MAX, 12_345_678]) {
            let largest = largest(class(nanos));
            assert!(class(nanos) < CLASSES, "{nanos}");
            assert!(largest >= nanos && largest - nanos <= nanos / 64, "{nanos}: {largest}");
        }
    }

    #[test]
    fn classes_follow_one_another_without_a_gap() {
        for at in 0..CLASSES - 1 {
            assert_eq!(class(largest(at)), at);
            assert_eq!(class(largest(at) + 1), at + 1);
        }
    }

    #[test]
    fn quantiles_are_those_of_the_sorted_times() {
        let mut times = Histogram::default();
        (1..=1_000).for_each(|micros| times.record(micros * 1_000));
        let near = |q, expected: u64| {
            let found = times.quantile(q);
            assert!(found >= expected && found <= expected + expected / 60, "{q}: {found}, not {expected}");
        };
        near(0.5, 500_000);
        near(0.9, 900_000);
        near(0.999, 999_000);
        assert_eq!(times.quantile(1.0), 1_000_000);
        assert_eq!((times.max(), times.count()), (1_000_000, 1_000));
    }

    #[test]
    fn merged_ones_count_as_one() {
        let (mut low, mut high) = (Histogram::default(), Histogram::default());
        (0..90).for_each(|_| low.record(10));
        (0..10).for_each(|_| high.record(100));
        low.merge(&high);
        assert_eq!((low.count(), low.max()), (100, 100));
        assert_eq!((low.quantile(0.9), low.quantile(0.91)), (10, 100));
    }

    #[test]
    fn without_any_time_all_is_0() {
        let none = Histogram::default();
        assert_eq!((none.quantile(0.5), none.max(), none.count()), (0, 0, 0));
    }
}
