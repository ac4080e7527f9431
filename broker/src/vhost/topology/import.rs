//! Objects from a definitions file: created where there is none of the name, left as they are where there is one.

use super::*;

impl TopologyOwner {
    /// # Errors
    /// Those of `exchange.declare`, but not that there is another one of that name.
    pub fn import_exchange(&mut self, declare: &ExchangeDeclare) -> Result<(), AmqpError> {
        if self.exchange(&declare.name).is_ok() {
            return Ok(());
        }
        self.new_exchange(declare).map(drop)
    }

    /// # Errors
    /// Those of `queue.declare`, but not that there is another one of that name.
    pub fn import_queue(&mut self, declare: QueueDeclare) -> Result<(), AmqpError> {
        if self.queue(&declare.name).is_ok() {
            return Ok(());
        }
        let described = names::queue(&declare.name, &self.name);
        let settings = arguments::parse(&declare.arguments, flags(&declare), &described)?;
        self.create_queue(declare, settings, None).map(drop)
    }

    /// # Errors
    /// Those of `queue.bind` and `exchange.bind`.
    pub fn import_binding(&mut self, binding: BindingSpec) -> Result<(), AmqpError> {
        let exchange = self.bindable(&binding)?.clone();
        let (to, to_durable) = self.destination(&binding)?;
        self.valid_binding(&exchange, &binding, &to)?;
        self.add_binding(binding, to, exchange.spec.durable && to_durable, true);
        Ok(())
    }
}
