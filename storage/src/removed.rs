//! Which messages of a record were removed: in memory a bit each, on disk a few bytes.

use crate::bytes::Input;
#[cfg(test)]
use crate::bytes::put_varint;

/// Which messages of a record are removed: one bit each, by index. Empty until the first one is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Removed {
    bits: Box<[u64]>,
    count: u32,
}

impl Removed {
    pub fn contains(&self, index: u32) -> bool {
        self.bits.get(index as usize / 64).is_some_and(|word| word >> (index % 64) & 1 == 1)
    }

    /// How many are removed.
    pub fn count(&self) -> u32 {
        self.count
    }

    /// Adds `from..to` of a record of `of` messages. True if that changed anything.
    pub fn add(&mut self, from: u32, to: u32, of: u32) -> bool {
        if self.bits.is_empty() {
            self.bits = vec![0; of.div_ceil(64) as usize].into();
        }
        let before = self.count;
        for index in from..to.min(of) {
            let word = &mut self.bits[index as usize / 64];
            self.count += u32::from(*word >> (index % 64) & 1 == 0);
            *word |= 1 << (index % 64);
        }
        self.count != before
    }

    /// As (gap, length) of what is removed, or as bits, whichever is shorter. A queue worked off in order costs
    /// four bytes.
    #[cfg(test)]
    pub fn encode(&self) -> Vec<u8> {
        let mut ranges = vec![0];
        let (mut at, mut end) = (0, 0);
        let of = self.bits.len() as u32 * 64;
        while at < of {
            let from = at;
            while at < of && self.contains(at) {
                at += 1;
            }
            if at > from {
                put_varint(&mut ranges, u64::from(from - end));
                put_varint(&mut ranges, u64::from(at - from));
                end = at;
            }
            at += 1;
        }
        if ranges.len() <= 1 + self.bits.len() * 8 {
            return ranges;
        }
        let mut bits = vec![1];
        self.bits.iter().for_each(|word| bits.extend_from_slice(&word.to_le_bytes()));
        bits
    }

    /// Reads what [`encode`](Self::encode) wrote about a record of `of` messages.
    pub fn decode(bytes: &[u8], of: u32) -> Option<Removed> {
        let mut removed = Removed::default();
        match bytes.split_first()? {
            (0, ranges) => {
                let mut input = Input(ranges);
                let mut end = 0u64;
                while !input.0.is_empty() {
                    let from = end.checked_add(input.varint()?)?;
                    end = from.checked_add(input.varint()?)?;
                    if end > u64::from(of) {
                        return None;
                    }
                    removed.add(from as u32, end as u32, of);
                }
            }
            (1, bits) if bits.len() == of.div_ceil(64) as usize * 8 => {
                let words = bits.chunks_exact(8).map(|w| w.iter().rev().fold(0, |n, &b| n << 8 | u64::from(b)));
                removed.bits = words.collect();
                removed.count = removed.bits.iter().map(|word| word.count_ones()).sum();
                if removed.count > of {
                    return None;
                }
            }
            _ => return None,
        }
        Some(removed)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn removed(indexes: &[u32], of: u32) -> Removed {
        let mut removed = Removed::default();
        for &index in indexes {
            removed.add(index, index + 1, of);
        }
        removed
    }

    #[test]
    fn a_queue_worked_off_in_order_costs_a_few_bytes_per_record() {
        let in_order: Vec<u32> = (0..900).collect();
        assert_eq!(removed(&in_order, 1024).encode(), [0, 0, 0x84, 7]);
    }

    #[test]
    fn removals_never_cost_more_than_a_bit_per_message() {
        let every_other: Vec<u32> = (0..1024).step_by(2).collect();
        assert_eq!(removed(&every_other, 1024).encode().len(), 1 + 1024 / 8);
    }

    #[test]
    fn removals_beyond_the_record_are_refused() {
        let bytes = removed(&[70], 100).encode();
        assert_eq!(Removed::decode(&bytes, 70), None);
        assert_eq!(Removed::decode(&[1, 0xff], 8), None);
        assert_eq!(Removed::decode(&[2], 8), None);
        assert_eq!(Removed::decode(&[], 8), None);
    }

    proptest! {
        #[test]
        fn removals_are_read_as_they_were_written(of in 1u32..1025, seeds in prop::collection::vec(any::<u32>(), 1..600)) {
            let indexes: Vec<u32> = seeds.iter().map(|seed| seed % of).collect();
            let written = removed(&indexes, of);
            let read = Removed::decode(&written.encode(), of).unwrap();
            prop_assert_eq!(&read, &written);
            prop_assert!((0..of).all(|index| read.contains(index) == indexes.contains(&index)));
        }

        #[test]
        fn garbage_is_refused_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..60), of in 0u32..2000) {
            if let Some(removed) = Removed::decode(&bytes, of) {
                prop_assert!(removed.count() <= of);
            }
        }
    }
}
