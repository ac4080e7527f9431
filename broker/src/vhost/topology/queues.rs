//! Queues: declared, deleted, and what their end takes along.

use super::*;

impl TopologyOwner {
    pub(super) fn declare_queue(&mut self, from: &Requester, declare: QueueDeclare) -> Result<(), AmqpError> {
        let described = names::queue(&declare.name, &self.name);
        let existing = self.snapshot.queues.get(declare.name.as_bytes()).cloned();
        if let Some(queue) = existing {
            unlocked(&queue, from, &self.name)?;
            let passive = declare.passive;
            if !passive {
                self.equivalent_queue(&queue, &declare, &described)?;
            }
            let again = Box::new(TopologyCommand::DeclareQueue { from: from.clone(), declare });
            self.told.push((queue, QueueCommand::Status { from: from.clone(), stored: !passive, again }));
            return Ok(());
        }
        if declare.passive {
            return Err(AmqpError::not_found(format!("no {described}")));
        }
        let settings = arguments::parse(&declare.arguments, flags(&declare), &described)?;
        let name = declare.name.clone();
        let durable = self.create_queue(declare, settings, Some(from.peer.id))?;
        let reply = Reply::Declared { queue: name, messages: 0, consumers: 0 };
        self.reply_as(made(durable), from.clone(), reply);
        Ok(())
    }

    pub(super) fn equivalent_queue(&self, queue: &Queue, new: &QueueDeclare, described: &str) -> Result<(), AmqpError> {
        let Some(Declared { declare: current, .. }) = self.declared.get(new.name.as_bytes()) else {
            return Ok(());
        };
        if new.exclusive != queue.exclusive_to.is_some() {
            return Err(locked(&new.name, &self.name));
        }
        // An exclusive queue is never durable, whatever was asked for.
        let durable = new.durable && !new.exclusive;
        flag("durable", described, durable, queue.durable)?;
        flag("auto_delete", described, new.auto_delete, current.auto_delete)?;
        equivalence::equivalent(&current.arguments, &new.arguments, described)
    }

    /// Creates a queue with `own` settings by its arguments; an exclusive one is the connection's `owner`. Answers
    /// whether it is durable.
    pub(super) fn create_queue(
        &mut self,
        declare: QueueDeclare,
        own: Settings,
        owner: Option<u64>,
    ) -> Result<bool, AmqpError> {
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let durable = declare.durable && !declare.exclusive;
        let mark = if durable {
            Some(self.store.mark(id).map_err(|error| {
                tracing::error!(%error, "cannot create a durable queue");
                AmqpError::internal_error("")
            })?)
        } else {
            None
        };
        let exclusive_to = owner.filter(|_| declare.exclusive);
        let origin = Origin {
            id,
            name: declare.name.clone(),
            vhost: self.name.clone(),
            durable,
            auto_delete: declare.auto_delete,
            settings: self.note_declared(declare.clone(), own),
            next_sequence: 1,
            messages: Box::new(std::iter::empty()),
            lifetimes: Lifetimes::default(),
            now: self.timers.now(),
        };
        let queue = Queue::new(origin, exclusive_to, mark, self.outside());
        let name: Name = declare.name.as_bytes().into();
        if let Some(owner) = exclusive_to {
            self.exclusive.entry(owner).or_default().insert(name.clone());
        }
        if durable {
            self.entries.push(Entry::Op(Op::PutDefinition {
                key: definition::queue_key(&self.name, &declare.name),
                value: definition::queue_value(id, &declare),
            }));
        }
        // Its lease begins.
        self.told.push((queue.clone(), QueueCommand::Tick));
        self.snapshot.queues.insert(name, queue);
        self.changed = true;
        Ok(durable)
    }

    pub(super) fn delete_queue(
        &mut self,
        from: &Requester,
        name: &str,
        if_unused: bool,
        if_empty: bool,
    ) -> Result<(), AmqpError> {
        let Ok(queue) = self.queue(name).cloned() else {
            self.answer(from, methods::delete_ok(0));
            return Ok(());
        };
        unlocked(&queue, from, &self.name)?;
        self.told.push((queue, QueueCommand::Delete { from: from.clone(), if_unused, if_empty }));
        Ok(())
    }

    pub(super) fn queue_dead(&mut self, name: &str, id: u64, then: Option<(Requester, Reply)>) {
        let durable = match self.snapshot.queues.get(name.as_bytes()) {
            Some(queue) if queue.id == id => {
                let durable = queue.durable;
                self.remove_queue(name);
                durable
            }
            // Removed already, or a new one of that name.
            _ => false,
        };
        if let Some((to, reply)) = then {
            self.reply_as(unmade(durable), to, reply);
        }
    }

    pub(super) fn remove_queue(&mut self, name: &str) -> Option<Arc<Queue>> {
        let queue = self.snapshot.queues.remove(name.as_bytes())?;
        self.changed = true;
        self.declared.remove(name.as_bytes());
        if let Some(owner) = queue.exclusive_to
            && let Some(names) = self.exclusive.get_mut(&owner)
        {
            names.remove(name.as_bytes());
        }
        if queue.durable {
            let key = definition::queue_key(&self.name, name);
            self.entries.push(Entry::Op(Op::DeleteDefinition { key }));
        }
        let mut doomed = Vec::new();
        self.remove_bindings_to(DestinationKind::Queue, name, &mut doomed);
        for exchange in doomed {
            self.remove_exchange(&exchange);
        }
        Some(queue)
    }

    pub(super) fn connection_gone(&mut self, id: u64, from: Option<Requester>) {
        for name in self.exclusive.remove(&id).unwrap_or_default() {
            let Ok(name) = std::str::from_utf8(&name) else {
                continue;
            };
            if let Some(queue) = self.remove_queue(name) {
                self.told.push((queue, QueueCommand::Kill));
            }
        }
        if let Some(from) = from {
            self.replies.push((from, Reply::Done));
        }
    }
}

pub(super) fn flags(declare: &QueueDeclare) -> Flags {
    Flags { durable: declare.durable, exclusive: declare.exclusive, auto_delete: declare.auto_delete }
}
