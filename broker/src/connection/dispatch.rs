//! Methods of open channels, one arm each, and those of the connection.

use leveret_protocol::amq::{AMQPClass, access, basic, channel, confirm, connection};
use leveret_protocol::{AmqpError, frame, method};

use super::channel::{Channel, Request, State, Wait};
use super::confirms::Confirms;
use super::{Connection, Phase};
use crate::command::{ChannelKey, Requester};
use crate::methods;

/// What a method of a channel comes to.
pub(super) type Done = Result<(), AmqpError>;

impl Connection {
    // Channel 0

    pub(super) fn connection_method(&mut self, payload: &[u8]) {
        let (class, method_id) = method::ids(payload);
        let outcome = match method::decode(payload) {
            Ok(AMQPClass::Connection(connection::AMQPMethod::Close(_))) => {
                self.close(None);
                Ok(())
            }
            Ok(AMQPClass::Connection(connection::AMQPMethod::UpdateSecret(_))) => {
                // Passwords do not expire: any new secret is accepted.
                self.send(0, &methods::update_secret_ok());
                Ok(())
            }
            Ok(_) => {
                Err(AmqpError::channel_error("unexpected method in connection state running").at(class, method_id))
            }
            Err(error) => Err(error),
        };
        if let Err(error) = outcome {
            self.raise(0, error);
        }
    }

    /// A frame on a channel that is not open.
    pub(super) fn frame_on_no_channel(&mut self, found: &frame::Frame<'_>) {
        if found.kind != frame::METHOD {
            let text = "expected method frame, got non method frame instead";
            return self.raise(0, AmqpError::unexpected_frame(text));
        }
        let (class, method_id) = method::ids(found.payload);
        match method::decode(found.payload) {
            Ok(AMQPClass::Channel(channel::AMQPMethod::Open(_))) => self.open_channel(found.channel),
            // Clients race their acknowledgements with the close of the channel.
            Ok(AMQPClass::Basic(
                basic::AMQPMethod::Ack(_) | basic::AMQPMethod::Nack(_) | basic::AMQPMethod::Reject(_),
            )) => {}
            Ok(AMQPClass::Basic(basic::AMQPMethod::Publish(_))) => self.publish_on_no_channel(found),
            Ok(_) => self.raise(0, AmqpError::channel_error("expected 'channel.open'").at(class, method_id)),
            Err(error) => self.raise(0, error),
        }
    }

    /// The content is waited for before the error is raised.
    fn publish_on_no_channel(&mut self, found: &frame::Frame<'_>) {
        let Ok(publish) = leveret_protocol::hot::publish(found.payload) else { return };
        let mut channel = Channel::new(ChannelKey { number: found.channel, epoch: 0 });
        channel.state = State::Unopened;
        channel.assembler.start(&publish, publish.bits());
        self.channels.insert(channel);
    }

    fn open_channel(&mut self, number: u16) {
        if self.channels.len() >= usize::from(self.channel_max) {
            let (open, most) = (self.channels.len(), self.channel_max);
            let text = format!("number of channels opened ({open}) has reached the negotiated channel_max ({most})");
            return self.raise(0, AmqpError::not_allowed(text));
        }
        let key = ChannelKey { number, epoch: self.next_epoch };
        self.next_epoch += 1;
        self.channels.insert(Channel::new(key));
        self.send(number, &methods::channel_open_ok());
    }

    /// A frame on a channel that the broker has closed: thrown away until close-ok.
    pub(super) fn frame_on_closed(&mut self, found: &frame::Frame<'_>) {
        if found.kind != frame::METHOD {
            return;
        }
        match method::decode(found.payload) {
            Ok(AMQPClass::Channel(channel::AMQPMethod::Close(_))) => {
                self.send(found.channel, &methods::channel_close_ok());
            }
            Ok(AMQPClass::Channel(channel::AMQPMethod::CloseOk(_))) => {
                if self.channels.get(found.channel).is_some_and(|c| matches!(c.state, State::Closed)) {
                    self.channels.remove(found.channel);
                }
            }
            Ok(AMQPClass::Channel(channel::AMQPMethod::Open(_))) => {
                self.raise(0, AmqpError::channel_error("second 'channel.open' seen").at(20, 10));
            }
            Ok(_) => {}
            Err(error) => self.raise(0, error),
        }
    }

    // Open channels

    pub(super) fn dispatch(&mut self, number: u16, class: AMQPClass) -> Done {
        match class {
            AMQPClass::Basic(method) => self.basic(number, method),
            AMQPClass::Queue(method) => self.queue_class(number, method),
            AMQPClass::Exchange(method) => self.exchange_class(number, method),
            AMQPClass::Channel(channel::AMQPMethod::Open(_)) => {
                Err(AmqpError::channel_error("second 'channel.open' seen"))
            }
            AMQPClass::Channel(channel::AMQPMethod::Flow(flow)) => {
                if !flow.active {
                    return Err(AmqpError::not_implemented("active=false"));
                }
                self.send(number, &methods::channel_flow_ok(true));
                Ok(())
            }
            AMQPClass::Channel(channel::AMQPMethod::Close(_)) => {
                self.client_closes_channel(number);
                Ok(())
            }
            AMQPClass::Confirm(confirm::AMQPMethod::Select(select)) => {
                let Some(channel) = self.channels.get(number) else {
                    return Ok(());
                };
                if channel.transaction.is_some() {
                    let text = "cannot switch from tx to confirm mode";
                    return Err(AmqpError::precondition_failed(text));
                }
                channel.confirms.get_or_insert_with(Confirms::default);
                self.send_unless(select.nowait, number, methods::confirm_select_ok());
                Ok(())
            }
            AMQPClass::Access(access::AMQPMethod::Request(_)) => {
                self.send(number, &methods::access_request_ok());
                Ok(())
            }
            AMQPClass::Tx(method) => self.transaction_class(number, method),
            _ => Err(AmqpError::command_invalid("unimplemented method")),
        }
    }

    fn basic(&mut self, number: u16, method: basic::AMQPMethod) -> Done {
        match method {
            basic::AMQPMethod::Qos(qos) => self.qos(number, &qos),
            basic::AMQPMethod::Consume(consume) => self.consume(number, consume),
            basic::AMQPMethod::Cancel(cancel) => self.cancel(number, &cancel),
            basic::AMQPMethod::Get(get) => self.get(number, &get),
            basic::AMQPMethod::Recover(recover) => {
                self.recover(number, recover.requeue)?;
                self.send(number, &methods::recover_ok());
                Ok(())
            }
            basic::AMQPMethod::RecoverAsync(recover) => self.recover(number, recover.requeue),
            _ => Err(AmqpError::command_invalid("unimplemented method")),
        }
    }

    /// A channel as one who asks.
    pub(super) fn asker(&mut self, number: u16) -> Option<Requester> {
        let key = self.channels.get(number)?.key;
        Some(self.requester(key))
    }

    /// The channel waits for an answer; what else it sends is deferred.
    pub(super) fn wait(&mut self, number: u16, wait: Wait, (class, method): (u16, u16), nowait: bool) {
        if let Some(channel) = self.channels.get(number) {
            channel.state = State::Waiting(Request { wait, class, method, nowait });
        }
    }

    pub(super) fn send_unless(&mut self, nowait: bool, number: u16, class: AMQPClass) {
        if !nowait {
            self.send(number, &class);
        }
    }

    /// A frame while the connection closes: only the close handshake matters.
    pub(super) fn frame_while_closing(&mut self, found: &frame::Frame<'_>) {
        if found.kind != frame::METHOD || found.channel != 0 {
            return;
        }
        match method::decode(found.payload) {
            Ok(AMQPClass::Connection(connection::AMQPMethod::Close(_))) => {
                self.send(0, &methods::connection_close_ok());
            }
            Ok(AMQPClass::Connection(connection::AMQPMethod::CloseOk(_)))
                if matches!(self.phase, Phase::AwaitingCloseOk) =>
            {
                self.phase = Phase::Ended;
            }
            _ => {}
        }
    }
}
