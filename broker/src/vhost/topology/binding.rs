//! Bindings: made and undone, with the auto-delete exchanges that follow.

use super::*;

impl TopologyOwner {
    pub(super) fn bind(&mut self, from: &Requester, binding: BindingSpec) -> Result<(), AmqpError> {
        let exchange = self.bindable(&binding)?.clone();
        let (destination, destination_durable) = self.destination(from, &binding)?;
        let durable = exchange.spec.durable && destination_durable;
        let ok = methods::bind_ok(binding.kind);
        self.bind_to(&exchange, binding, destination, destination_durable)?;
        self.answer_as(made(durable), from, ok);
        Ok(())
    }

    /// Checks a binding and adds it; `to_durable`: its destination is.
    pub(super) fn bind_to(
        &mut self,
        exchange: &Exchange,
        binding: BindingSpec,
        destination: Destination,
        to_durable: bool,
    ) -> Result<(), AmqpError> {
        Router::<Destination>::validate(exchange.spec.kind, &binding.key, &binding.arguments)
            .map_err(|error| AmqpError::precondition_failed(error.to_string()))?;
        if exchange.spec.kind == ExchangeType::LocalRandom {
            self.classic_queue(&destination)?;
        }
        self.add_binding(binding, destination, exchange.spec.durable && to_durable, true);
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

    pub(super) fn destination(
        &self,
        from: &Requester,
        binding: &BindingSpec,
    ) -> Result<(Destination, bool), AmqpError> {
        match binding.kind {
            DestinationKind::Queue => {
                let queue = self.queue(&binding.destination)?;
                unlocked(queue, from, &self.name)?;
                Ok((Destination::Queue(queue.clone()), queue.durable))
            }
            DestinationKind::Exchange => {
                let exchange = self.exchange(&binding.destination)?;
                Ok((Destination::Exchange(binding.destination.as_bytes().into()), exchange.spec.durable))
            }
        }
    }

    /// What alone may be bound to x-local-random.
    pub(super) fn classic_queue(&self, destination: &Destination) -> Result<(), AmqpError> {
        use leveret_protocol::amq::AMQPValue;
        let Destination::Queue(queue) = destination else {
            return Err(AmqpError::precondition_failed("Destination not found"));
        };
        let declared = self.declared.get(queue.name.as_bytes());
        match declared.and_then(|declared| arguments::get(&declared.declare.arguments, "x-queue-type")) {
            Some(AMQPValue::LongString(kind)) if kind.as_bytes() != b"classic" => {
                let kind = leveret_protocol::error::text_of(kind.as_bytes());
                let text = format!("Queue type rabbit_{kind}_queue not valid for this exchange type");
                Err(AmqpError::precondition_failed(text))
            }
            _ => Ok(()),
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
