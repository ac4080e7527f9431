//! Exchanges: declared, checked, deleted.

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
        exchange_type(&declare.kind)?;
        not_default(&declare.name)?;
        let described = names::exchange(&declare.name, &self.name);
        if let Ok(existing) = self.exchange(&declare.name) {
            equivalent_exchange(&existing.spec, &declare, &described)?;
            let durable = existing.spec.durable;
            self.answer_as(durable, from, methods::exchange_declare_ok());
            return Ok(());
        }
        let durable = self.new_exchange(&declare)?;
        self.answer_as(durable, from, methods::exchange_declare_ok());
        Ok(())
    }

    /// Creates an exchange; answers whether it is durable.
    pub(super) fn new_exchange(&mut self, declare: &ExchangeDeclare) -> Result<bool, AmqpError> {
        let kind = exchange_type(&declare.kind)?;
        not_default(&declare.name)?;
        let described = names::exchange(&declare.name, &self.name);
        if declare.name.starts_with("amq.") {
            let text = format!("exchange name '{}' contains reserved prefix 'amq.*'", declare.name);
            return Err(AmqpError::access_refused(text));
        }
        let (spec, router) = exchange_spec(declare, kind, &described)?;
        if spec.durable {
            self.entries.push(Entry::Op(Op::PutDefinition {
                key: definition::exchange_key(&self.name, &declare.name),
                value: definition::exchange_value(declare),
            }));
        }
        let durable = spec.durable;
        self.add_exchange(spec, router);
        Ok(durable)
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
        self.answer_as(durable, from, methods::exchange_delete_ok());
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
/// 406 for an unknown one; 540 for one of RabbitMQ's that is not here.
pub fn exchange_type(kind: &str) -> Result<ExchangeType, AmqpError> {
    ExchangeType::parse(kind).ok_or_else(|| {
        if TYPES_NOT_YET.contains(&kind) {
            AmqpError::not_implemented(format!("exchange type '{kind}' is not supported yet"))
        } else {
            AmqpError::precondition_failed(format!("unknown exchange type '{kind}'"))
        }
    })
}

pub(super) fn exchange_spec(
    declare: &ExchangeDeclare,
    kind: ExchangeType,
    described: &str,
) -> Result<(ExchangeSpec, Router<Destination>), AmqpError> {
    use leveret_protocol::amq::AMQPValue;
    let alternate = match arguments::get(&declare.arguments, ALTERNATE) {
        None => None,
        Some(AMQPValue::LongString(name)) => Some(name.as_bytes().into()),
        Some(other) => {
            let kind = leveret_protocol::value::type_word(other);
            let text = format!("invalid type '{kind}' for arg '{ALTERNATE}' in {described}");
            return Err(AmqpError::precondition_failed(text));
        }
    };
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
    };
    Ok((spec, router))
}

const ALTERNATE: &str = "alternate-exchange";

fn equivalent_exchange(current: &ExchangeSpec, new: &ExchangeDeclare, described: &str) -> Result<(), AmqpError> {
    if current.kind.as_str() != &*new.kind {
        return Err(equivalence::inequivalent("type", described, &new.kind, current.kind.as_str()));
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
