//! Headers: the binding's arguments against the message's headers; keys are ignored.
//!
//! Bindings with the same arguments are one group. An index leads from a header (name and value, or name alone) to
//! the groups that ask for it, so a message looks at the groups that share a header with it, not at all of them.

use std::sync::Arc;

use amq_protocol::types::FieldTable;
use leveret_protocol::table::Table;

use super::Destination;
use super::bindings::{Arguments, Bindings};
use super::criteria::{Criteria, Offer};
use super::small_map::SmallMap;

/// The groups and the ways to them.
#[derive(Clone)]
pub(super) struct HeadersTable<D> {
    groups: imbl::HashMap<Arguments, Arc<Group<D>>>,
    /// A criterion → the groups filed under it. A group of `any` is filed under each of its criteria: the look-up
    /// already is the match. One of `all` is filed under one, and the others are compared.
    by_criterion: imbl::HashMap<Arc<[u8]>, Arc<SmallMap<Arguments, ()>>>,
    /// `all` without a criterion.
    always: SmallMap<Arguments, ()>,
}

/// The bindings with one set of arguments, told apart by key.
#[derive(Clone)]
struct Group<D> {
    criteria: Arc<Criteria>,
    filed: Filed,
    bindings: Bindings<D, Arc<[u8]>>,
}

/// Where the index has a group.
#[derive(Clone, Copy)]
enum Filed {
    Always,
    UnderAll,
    Under(usize),
}

impl<D: Destination> HeadersTable<D> {
    pub fn new() -> Self {
        Self { groups: imbl::HashMap::new(), by_criterion: imbl::HashMap::new(), always: SmallMap::new() }
    }

    pub fn is_empty(&self) -> bool {
        self.groups.is_empty()
    }

    pub fn bind(&mut self, key: &[u8], table: &FieldTable, to: D) -> bool {
        let arguments = Arguments::of(table);
        let binding = (to, Arc::from(key));
        match self.groups.get(&arguments) {
            Some(group) if group.bindings.contains(&binding) => return false,
            Some(_) => {
                if let Some(group) = self.groups.get_mut(&arguments) {
                    Arc::make_mut(group).bindings.add(binding);
                }
            }
            None => {
                let criteria = Criteria::of(table).unwrap_or_else(|_| Criteria::never());
                let filed = self.file(&arguments, &criteria);
                let mut bindings = Bindings::new();
                bindings.add(binding);
                let group = Group { criteria: Arc::new(criteria), filed, bindings };
                self.groups.insert(arguments, Arc::new(group));
            }
        }
        true
    }

    pub fn unbind(&mut self, key: &[u8], table: &FieldTable, to: D) -> bool {
        let arguments = Arguments::of(table);
        let binding = (to, Arc::from(key));
        match self.groups.get(&arguments) {
            Some(group) if group.bindings.contains(&binding) => {}
            _ => return false,
        }
        if let Some(group) = self.groups.get_mut(&arguments) {
            let group = Arc::make_mut(group);
            group.bindings.remove(&binding);
            if group.bindings.is_empty() {
                let (criteria, filed) = (group.criteria.clone(), group.filed);
                self.groups.remove(&arguments);
                self.unfile(&arguments, &criteria, filed);
            }
        }
        true
    }

    pub fn route(&self, headers: Option<Table<'_>>, found: &mut dyn FnMut(&D)) {
        self.each_of(&self.always, found, |_| true);
        if self.by_criterion.is_empty() {
            return;
        }
        let message = Offer::of(headers.unwrap_or_default());
        for key in message.keys() {
            if let Some(candidates) = self.by_criterion.get(key) {
                self.each_of(candidates, found, |criteria| criteria.met_by(&message));
            }
        }
    }

    fn each_of(
        &self,
        candidates: &SmallMap<Arguments, ()>,
        found: &mut dyn FnMut(&D),
        matches: impl Fn(&Criteria) -> bool,
    ) {
        for (arguments, ()) in candidates.iter() {
            if let Some(group) = self.groups.get(arguments)
                && matches(&group.criteria)
            {
                group.bindings.each(found);
            }
        }
    }

    /// Enters a new group into the index.
    fn file(&mut self, arguments: &Arguments, criteria: &Criteria) -> Filed {
        let filed = if criteria.any {
            Filed::UnderAll
        } else {
            // The criterion that the fewest share leads to the fewest groups that then don't match.
            let shared_by = |at: &usize| {
                let key = criteria.list[*at].key();
                self.by_criterion.get(key).map_or(0, |groups| groups.len())
            };
            let least_shared = (0..criteria.list.len()).min_by_key(shared_by);
            least_shared.map_or(Filed::Always, Filed::Under)
        };
        for key in filed.keys(criteria) {
            let groups = self.by_criterion.entry(key.clone());
            let groups = groups.or_insert_with(|| Arc::new(SmallMap::new()));
            Arc::make_mut(groups).insert(arguments.clone(), ());
        }
        if matches!(filed, Filed::Always) {
            self.always.insert(arguments.clone(), ());
        }
        filed
    }

    fn unfile(&mut self, arguments: &Arguments, criteria: &Criteria, filed: Filed) {
        for key in filed.keys(criteria) {
            if let Some(groups) = self.by_criterion.get_mut(key) {
                let groups = Arc::make_mut(groups);
                groups.remove(arguments);
                if groups.is_empty() {
                    self.by_criterion.remove(key);
                }
            }
        }
        if matches!(filed, Filed::Always) {
            self.always.remove(arguments);
        }
    }
}

impl Filed {
    fn keys(self, criteria: &Criteria) -> impl Iterator<Item = &Arc<[u8]>> {
        let range = match self {
            Self::Always => 0..0,
            Self::UnderAll => 0..criteria.list.len(),
            Self::Under(at) => at..at + 1,
        };
        criteria.list[range].iter().map(|criterion| criterion.key())
    }
}

#[cfg(test)]
mod tests {
    use amq_protocol::types::AMQPValue;

    use super::*;

    /// Arguments `x-match`, a, b, c and d with the numbers given.
    fn arguments(mode: &str, numbers: &[i32]) -> FieldTable {
        let mut table = FieldTable::default();
        table.insert("x-match".into(), AMQPValue::LongString(mode.into()));
        for (name, number) in ["a", "b", "c", "d"].into_iter().zip(numbers) {
            table.insert(name.into(), AMQPValue::LongInt(*number));
        }
        table
    }

    #[test]
    fn nothing_is_left_in_the_index_when_the_last_binding_goes() {
        let mut router = HeadersTable::new();
        let all: Vec<FieldTable> = ["all", "any"]
            .iter()
            .flat_map(|mode| (0..20).map(|n| arguments(mode, &[1, n % 2, n, 20 - n][..n as usize % 5])))
            .collect();
        for (to, table) in all.iter().enumerate() {
            assert!(router.bind(b"", table, to));
        }
        for (to, table) in all.iter().enumerate() {
            assert!(router.unbind(b"", table, to));
        }
        assert!(router.is_empty());
        assert!(router.by_criterion.is_empty());
        assert!(router.always.is_empty());
    }

    #[test]
    fn a_binding_is_filed_where_the_fewest_others_are() {
        let mut router = HeadersTable::new();
        for to in 0..100 {
            router.bind(b"", &arguments("all", &[1, to]), to);
        }
        let longest = router.by_criterion.values().map(|groups| groups.len()).max();
        assert_eq!(longest, Some(1), "none looks at another's bindings");
    }
}
