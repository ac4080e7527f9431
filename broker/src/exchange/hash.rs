//! Hashes that stay: the same on every machine and in every run, so that a key leads to the same destination after a
//! restart. The standard library's hashers promise that for one process only.

use std::cell::Cell;
use std::hash::{BuildHasher, Hash, Hasher, RandomState};

/// An odd number without a pattern in its bits (2^64 over the golden ratio).
const STEP: u64 = 0x9e37_79b9_7f4a_7c15;

/// Eight octets at a time, mixed once more at the end.
#[derive(Default)]
struct Stable(u64);

impl Hasher for Stable {
    fn write(&mut self, bytes: &[u8]) {
        let mut chunks = bytes.chunks_exact(8);
        for chunk in &mut chunks {
            self.add(chunk.iter().fold(0, |word, byte| word << 8 | u64::from(*byte)));
        }
        let rest = chunks.remainder();
        let word = rest.iter().fold(0, |word, byte| word << 8 | u64::from(*byte));
        // The length goes in as well: what ends in a zero octet is not what ends before it.
        self.add(word << 8 | bytes.len() as u64 & 0xff);
    }

    fn write_u8(&mut self, number: u8) {
        self.add(number.into());
    }

    fn write_u32(&mut self, number: u32) {
        self.add(number.into());
    }

    fn write_u64(&mut self, number: u64) {
        self.add(number);
    }

    fn write_usize(&mut self, number: usize) {
        self.add(number as u64);
    }

    fn finish(&self) -> u64 {
        mix(self.0)
    }
}

impl Stable {
    fn add(&mut self, word: u64) {
        self.0 = mix(self.0 ^ word).wrapping_add(STEP);
    }
}

/// A bijection in which every bit of the input moves half of those of the output (the finalizer of SplitMix64).
pub(super) fn mix(mut word: u64) -> u64 {
    word = (word ^ word >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    word = (word ^ word >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ word >> 31
}

/// The lasting hash of a value.
pub(super) fn stable<T: Hash + ?Sized>(value: &T) -> u64 {
    let mut hasher = Stable::default();
    value.hash(&mut hasher);
    hasher.finish()
}

/// A number below `end`, each as likely as the others. For spreading load, not for secrets.
pub(super) fn random_below(end: usize) -> usize {
    thread_local! {
        static STATE: Cell<u64> = Cell::new(RandomState::new().build_hasher().finish());
    }
    let state = STATE.get().wrapping_add(STEP);
    STATE.set(state);
    // The upper half of the product: without the bias, or the division, of a remainder.
    ((u128::from(mix(state)) * end as u128) >> 64) as usize
}
