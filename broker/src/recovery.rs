//! From what storage held to virtual hosts that serve: before any listener opens.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use leveret_storage::{Entry, Op, Quarantined, Recovered, RecoveredQueue, Run, StorageError, Store};

use crate::command::{QueueCommand, Segment, Token};
use crate::config::Config;
use crate::vhost::command::{BindingSpec, ExchangeDeclare, QueueDeclare};
use crate::vhost::definition::{self, Definition};
use crate::vhost::{Parts, VHost};

/// Definitions of one virtual host.
#[derive(Default)]
struct Found {
    exchanges: Vec<ExchangeDeclare>,
    queues: Vec<(u64, QueueDeclare)>,
    bindings: Vec<(Option<u64>, BindingSpec)>,
}

/// All virtual hosts: the configured one and those that storage knows.
pub fn vhosts(
    config: &Config,
    recovered: Recovered,
    parts: &Parts,
) -> Result<HashMap<Box<str>, Arc<VHost>>, StorageError> {
    report(&recovered);
    let mut found: HashMap<Box<str>, Found> = HashMap::new();
    found.entry(config.default_vhost.as_str().into()).or_default();
    for (key, value) in &recovered.definitions {
        match definition::decode(key, value) {
            Ok((vhost, Definition::Exchange(exchange))) => found.entry(vhost).or_default().exchanges.push(exchange),
            Ok((vhost, Definition::Queue(id, queue))) => found.entry(vhost).or_default().queues.push((id, queue)),
            Ok((vhost, Definition::Binding(order, binding))) => {
                found.entry(vhost).or_default().bindings.push((order, binding))
            }
            Err(error) => tracing::error!(%error, key = ?key, "a definition is left out"),
        }
    }
    let named = found.values().flat_map(|found| &found.queues).map(|(id, _)| *id).max().unwrap_or(0);
    let ordered = found.values().flat_map(|found| &found.bindings).filter_map(|(order, _)| *order).max().unwrap_or(0);
    let stored = recovered.queues.iter().map(|queue| queue.queue).max().unwrap_or(0);
    parts.next_id.store(named.max(stored).max(ordered) + 1, Ordering::Relaxed);
    let mut messages: HashMap<u64, RecoveredQueue> =
        recovered.queues.into_iter().map(|queue| (queue.queue, queue)).collect();
    let mut vhosts = HashMap::new();
    for (name, found) in found {
        let vhost = VHost::new(Arc::from(&*name), parts.clone());
        fill(&vhost, found, &mut messages)?;
        vhosts.insert(name, vhost);
    }
    drop_orphans(messages, &parts.store);
    Ok(vhosts)
}

fn report(recovered: &Recovered) {
    for note in &recovered.notes {
        tracing::warn!("{note}");
    }
    for quarantined in &recovered.quarantined {
        match quarantined {
            Quarantined::Record { queue, first } => {
                tracing::error!(queue, first, "damaged messages were put aside");
            }
            other => tracing::error!(?other, "a damaged entry was put aside"),
        }
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

fn fill(vhost: &VHost, mut found: Found, messages: &mut HashMap<u64, RecoveredQueue>) -> Result<(), StorageError> {
    vhost.recover(|topology| {
        for exchange in &found.exchanges {
            if let Err(error) = topology.recover_exchange(exchange) {
                tracing::error!(exchange = &*exchange.name, "left out: {}", error.reply_text());
            }
        }
        for (id, queue) in found.queues {
            let stored = messages.remove(&id).unwrap_or_default();
            let next_sequence = stored.next_sequence.max(1);
            topology.recover_queue(id, queue, next_sequence, segments(stored))?;
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
    Ok(())
}

/// Recovered messages as the queue holds them: up to the mark they may have been seen.
fn segments(stored: RecoveredQueue) -> Vec<Segment> {
    let seen = stored.delivered_through;
    let mut segments = Vec::new();
    for (first, run) in stored.runs {
        let mut segment =
            Segment { first, run, persistent: true, redelivered: false, returns: 0, expires: Segment::NEVER };
        if first > seen {
            segments.push(segment);
            continue;
        }
        let count = (seen - first + 1).min(u64::from(Run::count(&segment.run))) as u32;
        let mut front = segment.split_front(count);
        front.redelivered = true;
        segments.push(front);
        if segment.count() > 0 {
            segments.push(segment);
        }
    }
    segments
}

/// Messages whose queue no definition names: a kill came in the middle of the queue's deletion.
fn drop_orphans(left: HashMap<u64, RecoveredQueue>, store: &Store<Token>) {
    let mut entries: Vec<Entry<Token>> = left.into_keys().map(|queue| Entry::Op(Op::DropQueue { queue })).collect();
    if !entries.is_empty() {
        store.submit(&mut entries);
    }
}
