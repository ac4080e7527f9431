//! Direct reply-to (RabbitMQ extension): the requester's side. A reply consumer takes from no queue; replies come
//! through the connection's mailbox and are delivered as they arrive, without acknowledgement.

use std::sync::Arc;

use leveret_protocol::AmqpError;
use leveret_protocol::amq::basic;
use leveret_protocol::deliver::Deliver;
use leveret_storage::Block;

use super::Connection;
use super::channel::State;
use super::dispatch::Done;
use crate::vhost::replies::{Registration, ReplyTo};
use crate::{message, methods, names};

/// The reply consumer of a channel.
pub struct ReplyConsumer {
    pub tag: Box<str>,
    registration: Registration,
}

impl ReplyConsumer {
    /// How others know it.
    pub fn to(&self) -> &ReplyTo {
        &self.registration.to
    }
}

impl Connection {
    /// `basic.consume` from `amq.rabbitmq.reply-to`. Ordinary consumers may use its tag later, it not theirs.
    pub(super) fn consume_replies(&mut self, number: u16, consume: &basic::Consume) -> Done {
        let Some(channel) = self.channels.get(number) else {
            return Ok(());
        };
        if channel.replies.is_some() {
            return Err(AmqpError::precondition_failed("reply consumer already set"));
        }
        if !consume.no_ack {
            return Err(AmqpError::precondition_failed("reply consumer cannot acknowledge"));
        }
        let tag: Box<str> = match consume.consumer_tag.as_str() {
            "" => names::generated_tag().into(),
            tag => tag.into(),
        };
        let ok = methods::consume_ok(&tag);
        let registration = Registration::new(&self.vhost, &self.peer, channel.key);
        channel.replies = Some(ReplyConsumer { tag, registration });
        self.send_unless(consume.nowait, number, ok);
        Ok(())
    }

    /// A reply has come: it is delivered if its consumer is still the channel's.
    pub(super) fn direct_reply(&mut self, to: &ReplyTo, reply: &Arc<Block>) {
        to.arrived(reply);
        let Some(channel) = self.channels.get_key(to.channel) else {
            return;
        };
        if !matches!(channel.state, State::Open | State::Waiting(_)) {
            return;
        }
        let delivery_tag = channel.last_tag + 1;
        let Some(consumer) = channel.replies.as_ref().filter(|consumer| std::ptr::eq(consumer.to(), to)) else {
            return;
        };
        let mut deliver = Deliver::new(to.channel.number, consumer.tag.as_bytes(), false, self.frame_max);
        deliver.method(self.output.octets(), delivery_tag, message::address(reply, 0));
        self.output.lend(reply, 0, message::content_at(reply, 0), to.channel.number, self.frame_max);
        channel.last_tag = delivery_tag;
    }
}
