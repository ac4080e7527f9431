//! A persistent map for the very many small ones: most nodes of a topic trie have one or two children, most keys of
//! a direct exchange one destination. A hash trie for each would cost kilobytes and a hash per look-up.

use std::borrow::Borrow;
use std::hash::Hash;

/// Up to this many entries are a plain list: comparing eight short words is faster than hashing one.
const FEW: usize = 8;

/// A map whose clone copies at most [`FEW`] entries, whatever its size.
#[derive(Clone)]
pub(super) enum SmallMap<K, V> {
    Few(Vec<(K, V)>),
    Many(imbl::HashMap<K, V>),
}

impl<K: Clone + Eq + Hash, V: Clone> SmallMap<K, V> {
    pub fn new() -> Self {
        Self::Few(Vec::new())
    }

    pub fn is_empty(&self) -> bool {
        match self {
            Self::Few(list) => list.is_empty(),
            Self::Many(map) => map.is_empty(),
        }
    }

    pub fn len(&self) -> usize {
        match self {
            Self::Few(list) => list.len(),
            Self::Many(map) => map.len(),
        }
    }

    pub fn get<Q>(&self, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
        Q: Eq + Hash + ?Sized,
    {
        match self {
            Self::Few(list) => list.iter().find(|(k, _)| k.borrow() == key).map(|(_, v)| v),
            Self::Many(map) => map.get(key),
        }
    }

    pub fn get_mut<Q>(&mut self, key: &Q) -> Option<&mut V>
    where
        K: Borrow<Q>,
        Q: Eq + Hash + ?Sized,
    {
        match self {
            Self::Few(list) => list.iter_mut().find(|(k, _)| (*k).borrow() == key).map(|(_, v)| v),
            Self::Many(map) => map.get_mut(key),
        }
    }

    /// Puts `value` at `key`; what was there before is replaced.
    pub fn insert(&mut self, key: K, value: V) {
        self.make_room(&key);
        match self {
            Self::Few(list) => match list.iter_mut().find(|(k, _)| *k == key) {
                Some((_, old)) => *old = value,
                None => push(list, key, value),
            },
            Self::Many(map) => {
                map.insert(key, value);
            }
        }
    }

    /// What is at `key`, after putting `new()` there if nothing is.
    pub fn get_or_insert_with<Q>(&mut self, key: &Q, new: impl FnOnce() -> V) -> &mut V
    where
        K: Borrow<Q> + for<'q> From<&'q Q>,
        Q: Eq + Hash + ?Sized,
    {
        self.make_room(key);
        match self {
            Self::Few(list) => {
                let at = list.iter().position(|(k, _)| k.borrow() == key);
                let at = at.unwrap_or_else(|| {
                    push(list, K::from(key), new());
                    list.len() - 1
                });
                &mut list[at].1
            }
            Self::Many(map) => map.entry(K::from(key)).or_insert_with(new),
        }
    }

    /// A full list turns into a map if `key` is still to come.
    fn make_room<Q>(&mut self, key: &Q)
    where
        K: Borrow<Q>,
        Q: Eq + Hash + ?Sized,
    {
        if let Self::Few(list) = self
            && list.len() == FEW
            && !list.iter().any(|(k, _)| k.borrow() == key)
        {
            *self = Self::Many(list.drain(..).collect());
        }
    }

    /// Takes `key` out. False: it was not there.
    pub fn remove<Q>(&mut self, key: &Q) -> bool
    where
        K: Borrow<Q>,
        Q: Eq + Hash + ?Sized,
    {
        match self {
            Self::Few(list) => match list.iter().position(|(k, _)| k.borrow() == key) {
                Some(at) => {
                    list.swap_remove(at);
                    true
                }
                None => false,
            },
            Self::Many(map) => {
                let was_there = map.remove(key).is_some();
                // Half-way down, so that a map at the border does not change its shape with every step.
                if map.len() <= FEW / 2 {
                    *self = Self::Few(map.iter().map(|(k, v)| (k.clone(), v.clone())).collect());
                }
                was_there
            }
        }
    }

    /// All entries, in no particular order.
    pub fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        let (few, many) = match self {
            Self::Few(list) => (Some(list.iter().map(|(k, v)| (k, v))), None),
            Self::Many(map) => (None, Some(map.iter())),
        };
        few.into_iter().flatten().chain(many.into_iter().flatten())
    }
}

/// Most lists stay at one entry; `Vec`'s own first step to four would waste the rest.
fn push<K, V>(list: &mut Vec<(K, V)>, key: K, value: V) {
    list.reserve_exact(1);
    list.push((key, value));
}
