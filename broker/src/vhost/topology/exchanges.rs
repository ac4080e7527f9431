//! Exchanges: declared, checked, deleted.

use leveret_protocol::amq::AMQPValue;

use super::*;

impl TopologyOwner {
    pub(super) fn add_exchange(&mut self, spec: ExchangeSpec, router: Router<Destination>) {
        let name: Name = spec.name.as_bytes().into();
        let alternate = alternate(&self.snapshot.policies, &spec);
        if let Some(length) = spec.history {
            self.histories.add(name.clone(), length);
        }
        self.snapshot.exchanges.insert(name, Arc::new(Exchange { spec: Arc::new(spec), router, alternate }));
        self.changed = true;
    }

    pub(super) fn declare_exchange(&mut self, from: &Requester, declare: ExchangeDeclare) -> Result<(), AmqpError> {
        check_type(&declare.kind)?;
        not_default(&declare.name)?;
        let described = names::exchange(&declare.name, &self.name);
        if let Ok(existing) = self.exchange(&declare.name) {
            equivalent_exchange(&existing.spec, &declare, &described)?;
            let durable = existing.spec.durable;
            self.answer_as(made(durable), from, methods::exchange_declare_ok());
            return Ok(());
        }
        let durable = self.new_exchange(&declare)?;
        self.answer_as(made(durable), from, methods::exchange_declare_ok());
        Ok(())
    }

    /// Creates an exchange; answers whether it is durable.
    pub(super) fn new_exchange(&mut self, declare: &ExchangeDeclare) -> Result<bool, AmqpError> {
        check_type(&declare.kind)?;
        not_default(&declare.name)?;
        let described = names::exchange(&declare.name, &self.name);
        if declare.name.starts_with("amq.") {
            let text = format!("exchange name '{}' contains reserved prefix 'amq.*'", declare.name);
            return Err(AmqpError::access_refused(text));
        }
        let (mut spec, router) = exchange_spec(declare, &described)?;
        if &*declare.kind == ExchangeSpec::DELAYED {
            spec.delayed = Some(self.delayed(None, declare));
        }
        if spec.durable {
            let id = spec.delayed.as_ref().map(|delayed| delayed.id);
            self.entries.push(Entry::Op(Op::PutDefinition {
                key: definition::exchange_key(&self.name, &declare.name),
                value: definition::exchange_value(id, declare),
            }));
        }
        let durable = spec.durable;
        self.add_exchange(spec, router);
        Ok(durable)
    }

    /// What an x-delayed-message exchange holds back: nothing yet. With the `id` in storage that it had, if any.
    pub(super) fn delayed(&self, id: Option<u64>, declare: &ExchangeDeclare) -> Arc<Delayed> {
        let id = id.unwrap_or_else(|| self.next_id.fetch_add(1, Ordering::Relaxed));
        Delayed::new(id, declare.name.clone(), declare.durable, self.outside())
    }

    pub(super) fn check_exchange(&mut self, from: &Requester, name: &str) -> Result<(), AmqpError> {
        not_default(name)?;
        self.exchange(name)?;
        self.answer(from, methods::exchange_declare_ok());
        Ok(())
    }

    pub(super) fn delete_exchange(&mut self, from: &Requester, name: &str, if_unused: bool) -> Result<(), AmqpError> {
        not_default(name)?;
        if name.starts_with("amq.") {
            let text = format!("deletion of system {} not allowed", names::exchange(name, &self.name));
            return Err(AmqpError::access_refused(text));
        }
        let Ok(exchange) = self.exchange(name) else {
            self.answer(from, methods::exchange_delete_ok());
            return Ok(());
        };
        let durable = exchange.spec.durable;
        if if_unused && self.bindings.has_source(name.as_bytes()) {
            let text = format!("{} in use", names::exchange(name, &self.name));
            return Err(AmqpError::precondition_failed(text));
        }
        self.remove_exchange(name);
        self.answer_as(unmade(durable), from, methods::exchange_delete_ok());
        Ok(())
    }

    /// Removes the exchange with all bindings from and to it, and the auto-delete exchanges upstream that lose their
    /// last binding by that. A client may chain them without end, so this does not recurse.
    pub(super) fn remove_exchange(&mut self, name: &str) {
        let mut doomed: Vec<Box<str>> = vec![name.into()];
        while let Some(name) = doomed.pop() {
            self.remove_one_exchange(&name, &mut doomed);
        }
    }

    pub(super) fn remove_one_exchange(&mut self, name: &str, doomed: &mut Vec<Box<str>>) {
        let Some(exchange) = self.snapshot.exchanges.remove(name.as_bytes()) else {
            return;
        };
        self.changed = true;
        self.histories.remove(name.as_bytes());
        self.dropped.extend(exchange.spec.delayed.clone());
        if exchange.spec.durable {
            let key = definition::exchange_key(&self.name, name);
            self.entries.push(Entry::Op(Op::DeleteDefinition { key }));
        }
        for bound in self.bindings.take_source(name.as_bytes()) {
            self.forget(&bound);
        }
        self.remove_bindings_to(DestinationKind::Exchange, name, doomed);
    }
}

/// The type of that name.
///
/// # Errors
/// 406 for an unknown one.
pub fn check_type(name: &str) -> Result<(), AmqpError> {
    if name == ExchangeSpec::DELAYED { Ok(()) } else { type_named(name).map(drop) }
}

/// The routing type of that name.
fn type_named(name: &str) -> Result<ExchangeType, AmqpError> {
    let unknown = || AmqpError::precondition_failed(format!("unknown exchange type '{name}'"));
    ExchangeType::parse(name).ok_or_else(unknown)
}

/// How an exchange routes: by its type, or, if it holds messages back, by the one that an argument names.
fn routing_type(declare: &ExchangeDeclare) -> Result<ExchangeType, AmqpError> {
    if &*declare.kind != ExchangeSpec::DELAYED {
        return type_named(&declare.kind);
    }
    let name = match arguments::get(&declare.arguments, DELAYED_TYPE) {
        Some(AMQPValue::LongString(name)) => leveret_protocol::error::text_of(name.as_bytes()),
        Some(AMQPValue::ByteArray(name)) => leveret_protocol::error::text_of(name.as_slice()),
        _ => {
            let text = format!("Invalid argument, '{DELAYED_TYPE}' must be an existing exchange type");
            return Err(AmqpError::precondition_failed(text));
        }
    };
    if name == ExchangeSpec::DELAYED {
        let text = format!("Invalid argument, '{name}' can't be used for '{DELAYED_TYPE}'");
        return Err(AmqpError::precondition_failed(text));
    }
    type_named(&name)
}

/// What a declaration asks for; without what the exchange holds back.
pub(super) fn exchange_spec(
    declare: &ExchangeDeclare,
    described: &str,
) -> Result<(ExchangeSpec, Router<Destination>), AmqpError> {
    let alternate = match arguments::get(&declare.arguments, ALTERNATE) {
        None => None,
        Some(AMQPValue::LongString(name)) => Some(name.as_bytes().into()),
        Some(other) => {
            let kind = leveret_protocol::value::type_word(other);
            let text = format!("invalid type '{kind}' for arg '{ALTERNATE}' in {described}");
            return Err(AmqpError::precondition_failed(text));
        }
    };
    let kind = routing_type(declare)?;
    let refused = |error: exchange::ArgumentError| AmqpError::precondition_failed(error.to_string());
    let router = Router::declared(kind, &declare.arguments).map_err(refused)?;
    let history = match kind {
        ExchangeType::RecentHistory => Some(exchange::history_length(&declare.arguments).map_err(refused)?),
        _ => None,
    };
    let spec = ExchangeSpec {
        name: declare.name.clone(),
        kind,
        durable: declare.durable,
        auto_delete: declare.auto_delete,
        internal: declare.internal,
        arguments: declare.arguments.clone(),
        alternate,
        history,
        delayed: None,
    };
    Ok((spec, router))
}

const ALTERNATE: &str = "alternate-exchange";
const DELAYED_TYPE: &str = "x-delayed-type";

fn equivalent_exchange(current: &ExchangeSpec, new: &ExchangeDeclare, described: &str) -> Result<(), AmqpError> {
    if current.type_name() != &*new.kind {
        return Err(equivalence::inequivalent("type", described, &new.kind, current.type_name()));
    }
    flag("durable", described, new.durable, current.durable)?;
    flag("auto_delete", described, new.auto_delete, current.auto_delete)?;
    flag("internal", described, new.internal, current.internal)?;
    let pair = (arguments::get(&new.arguments, ALTERNATE), arguments::get(&current.arguments, ALTERNATE));
    if equivalence::same(pair.0, pair.1) {
        return Ok(());
    }
    Err(equivalence::inequivalent_argument(ALTERNATE, described, pair.0, pair.1))
}
