//! Bindings: made and undone, with the auto-delete exchanges that follow.

use super::*;

impl TopologyOwner {
    pub(super) fn bind(&mut self, from: &Requester, binding: BindingSpec) -> Result<(), AmqpError> {
        let exchange = self.bindable(&binding)?.clone();
        let (destination, destination_durable) = self.destination(&binding)?;
        self.valid_binding(&exchange, &binding, &destination)?;
        // RabbitMQ looks at the lock last.
        if let Destination::Queue(queue) = &destination {
            unlocked(queue, from, &self.name)?;
        }
        let durable = exchange.spec.durable && destination_durable;
        let ok = methods::bind_ok(binding.kind);
        self.add_binding(binding, destination, durable, true);
        self.answer_as(made(durable), from, ok);
        Ok(())
    }

    /// What the type of `exchange` has to say about a binding.
    pub(super) fn valid_binding(
        &self,
        exchange: &Exchange,
        binding: &BindingSpec,
        to: &Destination,
    ) -> Result<(), AmqpError> {
        Router::<Destination>::validate(exchange.spec.kind, &binding.key, &binding.arguments)
            .map_err(|error| AmqpError::precondition_failed(error.to_string()))?;
        if exchange.spec.kind == ExchangeType::LocalRandom {
            Self::classic_queue(to)?;
        }
        Ok(())
    }

    /// The source of a binding, which must exist and not be the default exchange.
    pub(super) fn bindable(&self, binding: &BindingSpec) -> Result<&Arc<Exchange>, AmqpError> {
        not_default(&binding.source)?;
        if binding.kind == DestinationKind::Exchange {
            not_default(&binding.destination)?;
        }
        self.exchange(&binding.source)
    }

    /// The destination of a binding, which must exist, and whether it is durable.
    pub(super) fn destination(&self, binding: &BindingSpec) -> Result<(Destination, bool), AmqpError> {
        match binding.kind {
            DestinationKind::Queue => {
                let queue = self.queue(&binding.destination)?;
                Ok((Destination::Queue(queue.clone()), queue.durable))
            }
            DestinationKind::Exchange => {
                let exchange = self.exchange(&binding.destination)?;
                Ok((Destination::Exchange(binding.destination.as_bytes().into()), exchange.spec.durable))
            }
        }
    }

    /// What alone may be bound to x-local-random.
    pub(super) fn classic_queue(destination: &Destination) -> Result<(), AmqpError> {
        match destination {
            Destination::Exchange(_) => Err(AmqpError::precondition_failed("Destination not found")),
            Destination::Queue(queue) if queue.kind() == "classic" => Ok(()),
            Destination::Queue(queue) => {
                let text = format!("Queue type rabbit_{}_queue not valid for this exchange type", queue.kind());
                Err(AmqpError::precondition_failed(text))
            }
        }
    }

    pub(super) fn add_binding(&mut self, binding: BindingSpec, to: Destination, durable: bool, store: bool) {
        let name = binding.source.as_bytes();
        let Some(exchange) = self.snapshot.exchanges.get_mut(name) else {
            return;
        };
        if !Arc::make_mut(exchange).router.bind(&binding.key, &binding.arguments, to.clone()) {
            return;
        }
        self.changed = true;
        if durable && store {
            let key = definition::binding_key(&self.name, &binding);
            // Queues are numbered by the same counter, which recovery sets beyond both.
            let ordered = exchange.spec.kind == ExchangeType::ConsistentHash;
            let order = ordered.then(|| self.next_id.fetch_add(1, Ordering::Relaxed));
            let value = definition::binding_value(order);
            self.entries.push(Entry::Op(Op::PutDefinition { key, value }));
        }
        (self.histories).recall(&self.snapshot, binding.source.as_bytes(), &to);
        self.bindings.add(Bound::new(&self.name, binding, to, durable));
    }

    pub(super) fn unbind(&mut self, from: &Requester, binding: BindingSpec) -> Result<(), AmqpError> {
        not_default(&binding.source)?;
        if binding.kind == DestinationKind::Exchange {
            not_default(&binding.destination)?;
        }
        let ok = methods::unbind_ok(binding.kind);
        let Some(bound) = self.bindings.find(&self.name, &binding) else {
            self.answer(from, ok);
            return Ok(());
        };
        if let Destination::Queue(queue) = &bound.to {
            unlocked(queue, from, &self.name)?;
        }
        self.bindings.remove(&bound);
        self.forget(&bound);
        let durable = bound.durable;
        if self.is_over(&binding.source) {
            self.remove_exchange(&binding.source);
        }
        self.answer_as(unmade(durable), from, ok);
        Ok(())
    }

    /// A binding that has left the lists leaves the router and storage too.
    pub(super) fn forget(&mut self, bound: &Bound) {
        self.changed = true;
        if let Some(exchange) = self.snapshot.exchanges.get_mut(bound.spec.source.as_bytes()) {
            Arc::make_mut(exchange).router.unbind(&bound.spec.key, &bound.spec.arguments, &bound.to);
        }
        if bound.durable {
            let key = (&*bound.identity).into();
            self.entries.push(Entry::Op(Op::DeleteDefinition { key }));
        }
    }

    /// Adds the sources that are over by this to `doomed`.
    pub(super) fn remove_bindings_to(&mut self, kind: DestinationKind, name: &str, doomed: &mut Vec<Box<str>>) {
        let gone = self.bindings.take_destination(kind, name.as_bytes());
        for bound in &gone {
            self.forget(bound);
        }
        let sources = gone.iter().map(|bound| &bound.spec.source);
        doomed.extend(sources.filter(|source| self.is_over(source)).cloned());
    }

    /// For an exchange that has just lost a binding as source: an auto-delete exchange without any goes.
    pub(super) fn is_over(&self, name: &str) -> bool {
        !self.bindings.has_source(name.as_bytes())
            && self.exchange(name).is_ok_and(|exchange| exchange.spec.auto_delete)
    }
}
