//! From what storage held to virtual hosts that serve: before any listener opens.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use leveret_storage::{Entry, Op, Recovered, RecoveredQueue, StorageError, Store, Stored};

use crate::access::{Granted, State, TopicGranted};
use crate::command::{QueueCommand, Segment, Token};
use crate::message::Meta;
use crate::policy::{Kind, Policy};
use crate::queue::lifetimes::Lifetimes;
use crate::vhost::command::{BindingSpec, ExchangeDeclare, QueueDeclare};
use crate::vhost::definition::{self, Definition, Returned};
use crate::vhost::records::{Metadata, Record};
use crate::vhost::{Parts, VHost};

/// What a broker begins with.
pub struct Beginning {
    pub vhosts: HashMap<Box<str>, Arc<VHost>>,
    pub access: State,
    /// No administrator has ever set anything.
    pub fresh: bool,
}

/// Definitions of one virtual host.
#[derive(Default)]
struct Found {
    metadata: Metadata,
    policies: Vec<(Kind, Policy)>,
    exchanges: Vec<(Option<u64>, ExchangeDeclare)>,
    queues: Vec<(u64, QueueDeclare)>,
    bindings: Vec<(Option<u64>, BindingSpec)>,
}

/// All virtual hosts that storage knows, and who may use them.
pub fn begin(recovered: Recovered, parts: &Parts) -> Result<Beginning, StorageError> {
    report(&recovered);
    let mut found: HashMap<Box<str>, Found> = HashMap::new();
    let (mut access, mut fresh) = (State::default(), true);
    // What a clean stop has noted holds for this start only.
    let (mut returned, mut used) = (HashMap::new(), Vec::new());
    let mut lifetimes = HashMap::new();
    for (key, value) in &recovered.definitions {
        match definition::decode(key, value) {
            Ok((vhost, Definition::Exchange(id, exchange))) => {
                found.entry(vhost).or_default().exchanges.push((id, exchange))
            }
            Ok((vhost, Definition::Queue(id, queue))) => found.entry(vhost).or_default().queues.push((id, queue)),
            Ok((vhost, Definition::Binding(order, binding))) => {
                found.entry(vhost).or_default().bindings.push((order, binding))
            }
            Ok((_, Definition::Returned(queue, entries))) => {
                used.push(Entry::Op(Op::DeleteDefinition { key: key.clone() }));
                returned.insert(queue, entries);
            }
            Ok((_, Definition::Lifetimes(queue, changes))) => drop(lifetimes.insert(queue, changes)),
            Ok((vhost, Definition::Record(record))) => {
                fresh = false;
                record_found(vhost, record, &mut access, &mut found);
            }
            Err(error) => tracing::error!(%error, key = ?key, "a definition is left out"),
        }
    }
    let named = found.values().flat_map(|found| &found.queues).map(|(id, _)| *id).max().unwrap_or(0);
    let delayed = found.values().flat_map(|found| &found.exchanges).filter_map(|(id, _)| *id).max().unwrap_or(0);
    let ordered = found.values().flat_map(|found| &found.bindings).filter_map(|(order, _)| *order).max().unwrap_or(0);
    let stored = recovered.queues.iter().map(|queue| queue.queue).max().unwrap_or(0);
    parts.next_id.store(named.max(stored).max(ordered).max(delayed) + 1, Ordering::Relaxed);
    let mut messages: HashMap<u64, RecoveredQueue> =
        recovered.queues.into_iter().map(|queue| (queue.queue, queue)).collect();
    let exact = recovered.clean && returned.contains_key(&0);
    if !used.is_empty() {
        parts.store.submit(&mut used);
    }
    let returned = exact.then_some(returned);
    let mut vhosts = HashMap::new();
    for (name, found) in found {
        let vhost = VHost::new(Arc::from(&*name), parts.clone());
        fill(&vhost, found, &mut messages, &mut lifetimes, returned.as_ref())?;
        vhosts.insert(name, vhost);
    }
    drop_orphans(messages, lifetimes, &parts.store);
    Ok(Beginning { vhosts, access, fresh })
}

/// Takes in what an administrator has set.
fn record_found(vhost: Box<str>, record: Record, access: &mut State, found: &mut HashMap<Box<str>, Found>) {
    match record {
        Record::User(user) => access.set_user(user),
        Record::VHost(metadata) => found.entry(vhost).or_default().metadata = metadata,
        Record::Policy(kind, policy) => found.entry(vhost).or_default().policies.push((kind, policy)),
        Record::Permissions(user, given) => match Granted::new(given) {
            Ok(granted) => access.set_permissions(&user, &vhost, granted),
            Err(error) => tracing::error!(%error, user = &*user, vhost = &*vhost, "permissions are left out"),
        },
        Record::TopicPermissions(user, given) => match TopicGranted::new(given, &user, &vhost) {
            Ok(granted) => access.set_topic_permissions(&user, &vhost, granted),
            Err(error) => tracing::error!(%error, user = &*user, vhost = &*vhost, "topic permissions are left out"),
        },
    }
}

fn report(recovered: &Recovered) {
    for note in &recovered.notes {
        match note.is_damage() {
            true => tracing::error!("{note}"),
            false => tracing::warn!("{note}"),
        }
    }
    for quarantined in &recovered.quarantined {
        tracing::error!("damaged, put aside: {quarantined}");
    }
    if !recovered.definitions.is_empty() || recovered.messages > 0 {
        tracing::info!(
            "recovered {} definitions and {} messages ({} bytes) in {:?}{}",
            recovered.definitions.len(),
            recovered.messages,
            recovered.bytes,
            recovered.duration,
            if recovered.clean { "" } else { "; the last stop was not clean" },
        );
    }
}

fn fill(
    vhost: &VHost,
    mut found: Found,
    messages: &mut HashMap<u64, RecoveredQueue>,
    lifetimes: &mut HashMap<u64, Lifetimes>,
    returned: Option<&HashMap<u64, Vec<Returned>>>,
) -> Result<(), StorageError> {
    vhost.describe(found.metadata);
    vhost.recover(|topology| {
        topology.recover_policies(found.policies);
        for (id, exchange) in &found.exchanges {
            let stored = id.and_then(|id| messages.remove(&id)).unwrap_or_default();
            topology.recover_exchange(*id, exchange, stored)?;
        }
        for (id, queue) in found.queues {
            let stored = messages.remove(&id).unwrap_or_default();
            let next_sequence = stored.next_sequence.max(1);
            topology.recover_queue(
                id,
                queue,
                next_sequence,
                segments(stored, returned.map(|noted| noted.get(&id).map_or(&[][..], Vec::as_slice))),
                lifetimes.remove(&id).unwrap_or_default(),
            )?;
        }
        found.bindings.sort_by_key(|(order, _)| *order);
        for (_, binding) in found.bindings {
            let (source, destination) = (binding.source.clone(), binding.destination.clone());
            if !topology.recover_binding(binding) {
                tracing::error!(source = &*source, destination = &*destination, "a binding has lost one of its ends");
            }
        }
        Ok(())
    })?;
    // Leases begin, and what expired meanwhile goes.
    for queue in vhost.snapshot().queues.values() {
        queue.push(QueueCommand::Tick);
    }
    for delayed in vhost.delayed() {
        delayed.start();
    }
    Ok(())
}

/// Recovered messages as the queue holds them. Redelivered are those that a clean stop has `noted`, else all that may
/// have been seen: those up to the mark.
fn segments(stored: RecoveredQueue, noted: Option<&[Returned]>) -> Vec<Segment> {
    let marked = Returned { first: 1, count: stored.delivered_through, returns: 1 };
    let mut returned = noted.map_or_else(|| vec![marked], <[Returned]>::to_vec);
    returned.sort_by_key(|entry| entry.first);
    let mut segments = Vec::new();
    for Stored { first, count, bytes, any } in stored.stored {
        let expires = if Meta(any).expires() { Segment::UNDATED } else { Segment::NEVER };
        let mut rest = Segment { persistent: true, expires, ..Segment::away(first, count, bytes) };
        for entry in &returned {
            let end = entry.first + entry.count;
            if entry.first > rest.last() || end <= rest.first {
                continue;
            }
            if entry.first > rest.first {
                segments.push(rest.split_front((entry.first - rest.first) as u32));
            }
            let count = (end - rest.first).min(u64::from(rest.count())) as u32;
            let mut seen = rest.split_front(count);
            (seen.redelivered, seen.returns) = (true, entry.returns);
            segments.push(seen);
            if rest.count() == 0 {
                break;
            }
        }
        if rest.count() > 0 {
            segments.push(rest);
        }
    }
    segments
}

/// Messages whose queue no definition names: a kill came in the middle of the queue's deletion.
fn drop_orphans(left: HashMap<u64, RecoveredQueue>, lifetimes: HashMap<u64, Lifetimes>, store: &Store<Token>) {
    let mut entries: Vec<Entry<Token>> = left.into_keys().map(|queue| Entry::Op(Op::DropQueue { queue })).collect();
    entries.extend(lifetimes.into_iter().filter_map(|(queue, changes)| changes.delete(queue)).map(Entry::Op));
    if !entries.is_empty() {
        store.submit(&mut entries);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stored(delivered_through: u64) -> RecoveredQueue {
        let stored = vec![Stored { first: 5, count: 10, bytes: 1000, any: 0 }];
        RecoveredQueue { queue: 1, delivered_through, stored, next_sequence: 15 }
    }

    fn redelivered(segments: &[Segment]) -> Vec<(u64, u32)> {
        segments.iter().flat_map(|s| (s.first..=s.last()).filter(|_| s.redelivered).map(|n| (n, s.returns))).collect()
    }

    #[test]
    fn after_a_crash_all_up_to_the_mark_may_have_been_seen() {
        let segments = segments(stored(7), None);
        assert_eq!(redelivered(&segments), [(5, 1), (6, 1), (7, 1)]);
        assert_eq!(segments.iter().map(Segment::count).sum::<u32>(), 10);
    }

    #[test]
    fn after_a_clean_stop_exactly_those_noted_are_redelivered() {
        let noted = [Returned { first: 9, count: 2, returns: 3 }, Returned { first: 5, count: 1, returns: 1 }];
        let segments = segments(stored(14), Some(&noted));
        assert_eq!(redelivered(&segments), [(5, 1), (9, 3), (10, 3)]);
        assert_eq!(segments.iter().map(Segment::count).sum::<u32>(), 10);
    }

    #[test]
    fn after_a_clean_stop_that_noted_none_none_is_redelivered() {
        assert_eq!(redelivered(&segments(stored(14), Some(&[]))), []);
    }
}
