//! Durable exchanges, queues and bindings brought back at start.

use std::cell::Cell;

use leveret_storage::{RecoveredQueue, StorageError};

use super::*;
use crate::queue::recovered;

impl TopologyOwner {
    /// Brings back a durable exchange; with what was `stored` under its `id`, if it holds messages back.
    pub fn recover_exchange(
        &mut self,
        id: Option<u64>,
        declare: &ExchangeDeclare,
        stored: RecoveredQueue,
    ) -> Result<(), StorageError> {
        let described = names::exchange(&declare.name, &self.name);
        let (mut spec, router) = match exchange_spec(declare, &described) {
            Ok(made) => made,
            Err(error) => {
                tracing::error!(exchange = &*declare.name, "left out: {}", error.reply_text());
                return Ok(());
            }
        };
        if &*declare.kind == ExchangeSpec::DELAYED {
            let delayed = self.delayed(id, declare);
            delayed.recover(&stored.stored, stored.next_sequence)?;
            if delayed.count() > 0 {
                tracing::info!(exchange = &*declare.name, "recovered {} delayed messages", delayed.count());
            }
            spec.delayed = Some(delayed);
        }
        self.add_exchange(spec, router);
        Ok(())
    }

    /// Brings back a durable queue with its messages.
    pub fn recover_queue(
        &mut self,
        id: u64,
        declare: QueueDeclare,
        next_sequence: u64,
        messages: Vec<Segment>,
        lifetimes: Lifetimes,
    ) -> Result<(), StorageError> {
        let described = names::queue(&declare.name, &self.name);
        let own = arguments::parse(&declare.arguments, flags(&declare), &described).unwrap_or_else(|error| {
            tracing::error!(queue = &*declare.name, "arguments are left out: {}", error.reply_text());
            Settings::default()
        });
        let settings = self.note_declared(declare.clone(), own);
        let mut messages = messages;
        if settings.message_ttl.is_some() || !lifetimes.is_empty() {
            messages.iter_mut().for_each(|segment| segment.expires = Segment::UNDATED);
        }
        let mark = self.store.mark(id)?;
        let failed = Cell::new(None);
        let paging = self.paging.clone();
        let origin = Origin {
            id,
            name: declare.name.clone(),
            vhost: self.name.clone(),
            durable: true,
            auto_delete: declare.auto_delete,
            next_sequence: next_sequence.max(lifetimes.next()),
            messages: recovered::described(messages, id, &settings, &paging, &failed),
            settings,
            lifetimes,
            now: self.timers.now(),
        };
        let queue = Queue::new(origin, None, Some(mark), self.outside());
        if let Some(error) = failed.take() {
            return Err(error);
        }
        let name: Name = declare.name.as_bytes().into();
        self.snapshot.queues.insert(name, queue);
        Ok(())
    }

    /// Brings back a durable binding. False when one of its ends is gone.
    pub fn recover_binding(&mut self, binding: BindingSpec) -> bool {
        let to = match binding.kind {
            DestinationKind::Queue => self.queue(&binding.destination).ok().cloned().map(Destination::Queue),
            DestinationKind::Exchange => {
                let name = || Destination::Exchange(binding.destination.as_bytes().into());
                self.exchange(&binding.destination).ok().map(|_| name())
            }
        };
        let found = self.exchange(&binding.source).is_ok();
        match to {
            Some(to) if found => self.add_binding(binding, to, true, false),
            _ => return false,
        }
        true
    }
}
