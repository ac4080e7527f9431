//! Sets of positions in a routing key, as bits.

/// A set of positions `0..=end` of a key with `end` words; `end` itself is behind the last word.
pub(super) trait Positions: Clone {
    /// The empty set, with room for `end`.
    fn none(end: usize) -> Self;
    /// All from `first` to `end`, both included.
    fn range(first: usize, end: usize) -> Self;
    fn contains(&self, position: usize) -> bool;
    fn insert(&mut self, position: usize);
    fn remove(&mut self, position: usize);
    /// The smallest one that is not below `from`.
    fn first_from(&self, from: usize) -> Option<usize>;
    /// Calls `visit` for each one below `end`, ascending.
    fn each_below(&self, end: usize, mut visit: impl FnMut(usize)) {
        let mut next = self.first_from(0);
        while let Some(position) = next.filter(|position| *position < end) {
            visit(position);
            next = self.first_from(position + 1);
        }
    }
}

/// For keys of up to 63 words: nothing is allocated.
impl Positions for u64 {
    fn none(_end: usize) -> Self {
        0
    }

    fn range(first: usize, end: usize) -> Self {
        (u64::MAX >> (63 - end)) & (u64::MAX << first)
    }

    fn contains(&self, position: usize) -> bool {
        self >> position & 1 == 1
    }

    fn insert(&mut self, position: usize) {
        *self |= 1 << position;
    }

    fn remove(&mut self, position: usize) {
        *self &= !(1 << position);
    }

    fn first_from(&self, from: usize) -> Option<usize> {
        let rest = self & u64::MAX.checked_shl(from as u32)?;
        (rest != 0).then(|| rest.trailing_zeros() as usize)
    }
}

/// For keys of any length.
#[derive(Clone)]
pub(super) struct Wide(Vec<u64>);

impl Positions for Wide {
    fn none(end: usize) -> Self {
        Self(vec![0; end / 64 + 1])
    }

    fn range(first: usize, end: usize) -> Self {
        let mut all = Self::none(end);
        (first..=end).for_each(|position| all.insert(position));
        all
    }

    fn contains(&self, position: usize) -> bool {
        self.0[position / 64].contains(position % 64)
    }

    fn insert(&mut self, position: usize) {
        self.0[position / 64].insert(position % 64);
    }

    fn remove(&mut self, position: usize) {
        self.0[position / 64].remove(position % 64);
    }

    fn first_from(&self, from: usize) -> Option<usize> {
        let mut offset = from % 64;
        for (block, bits) in self.0.iter().enumerate().skip(from / 64) {
            if let Some(bit) = bits.first_from(offset) {
                return Some(block * 64 + bit);
            }
            offset = 0;
        }
        None
    }
}
