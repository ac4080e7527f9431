//! Publishes: checked in RabbitMQ's order, routed, and added to the turn or held by the channel's transaction.

use std::sync::Arc;

use leveret_protocol::assembler::Complete;
use leveret_protocol::content::{self, ContentHeader, Edits, Properties};
use leveret_protocol::hot::Publish;
use leveret_protocol::{ADDRESS_GAP, AmqpError, Message, deliver};
use leveret_storage::{Block, Gauge};

use super::Connection;
use super::channel::{Channel, Publishing};
use super::dispatch::Done;
use super::routes::{Copies, Route, Routes};
use crate::access::rights::Rights;
use crate::command::Requester;
use crate::message::{self, BlockBuilder, Meta};
use crate::outbox::Body;
use crate::{methods, names};

/// The ids of `basic.publish`.
pub(super) const PUBLISH: (u16, u16) = (60, 40);
/// Octets of a message that has been put together from which on it is a block of its own: to send it off alone costs less
/// than to copy it behind others.
const OWN_BLOCK: usize = 16 << 10;
const NO_ROUTE: (u16, &str) = (312, "NO_ROUTE");

impl Connection {
    /// A publish that was put together from its frames.
    pub(super) fn publish_complete(&mut self, number: u16, complete: Complete) -> Done {
        let Some(channel) = self.channels.get(number) else {
            return Ok(());
        };
        let Publishing { mandatory, immediate } = channel.publishing;
        let Some(parts) = complete.parts() else {
            return Err(AmqpError::internal_error(""));
        };
        let publish = Publish {
            exchange: parts.exchange,
            routing_key: parts.routing_key,
            mandatory,
            immediate,
            address: parts.address,
        };
        let plan = self.plan(number, &publish, &parts.content_header())?;
        let large = complete.message.len() >= OWN_BLOCK;
        if large {
            self.flush();
        }
        self.place(plan, Body::Owned(complete.message))?;
        if large {
            self.flush();
        }
        Ok(())
    }

    /// Checks a complete publish, in RabbitMQ's order, and routes it.
    pub(super) fn plan(
        &mut self,
        number: u16,
        publish: &Publish<'_>,
        header: &ContentHeader<'_>,
    ) -> Result<Plan, AmqpError> {
        self.repeat.clear();
        if publish.immediate {
            return Err(AmqpError::not_implemented("immediate=true"));
        }
        let limit = self.shared.config.max_message_size.bytes();
        if header.body_size > limit {
            let text = format!("message size {} is larger than configured max size {limit}", header.body_size);
            return Err(AmqpError::precondition_failed(text));
        }
        let properties = header.parse()?;
        let known = self.routes.known(&self.vhost, &mut self.rights, publish)?;
        let reply_to = self.reply_to_of(number, &properties)?;
        let expiration = properties.expiration.map(crate::expiration::parse).transpose()?;
        let copies = Copies::of(&properties)?;
        if known.is_none() || copies.is_some() {
            Routes::check_topics(&self.vhost, &mut self.rights, publish, copies.as_ref())?;
        }
        check_user(&properties, &mut self.rights)?;
        let hidden = copies.as_ref().is_some_and(Copies::are_hidden);
        let route = match known {
            Some(route) if copies.is_none() => route,
            _ => self.routes.look_up(&self.vhost, publish, &properties, copies)?,
        };
        let meta = Meta::new(publish.address.len(), self.now)
            .with_persistent(properties.delivery_mode == Some(2))
            .with_expiration(expiration.is_some())
            .with_priority(properties.priority.unwrap_or(0))
            .with_hidden(hidden);
        Ok(Plan { number, route, meta, expiration, mandatory: publish.mandatory, reply_to })
    }

    /// The name that takes the place of `amq.rabbitmq.reply-to` as a message's `reply-to`.
    fn reply_to_of(&mut self, number: u16, properties: &Properties<'_>) -> Result<Option<Arc<str>>, AmqpError> {
        if properties.reply_to != Some(names::REPLY_TO.as_bytes()) {
            return Ok(None);
        }
        let channel = self.channels.get(number);
        match channel.and_then(|channel| channel.replies.as_ref()) {
            Some(consumer) => Ok(Some(consumer.to().name.clone())),
            None => Err(AmqpError::precondition_failed("fast reply consumer does not exist")),
        }
    }

    /// Adds a planned publish to the turn, or to the channel's transaction.
    pub(super) fn place(&mut self, plan: Plan, message: Body<'_>) -> Done {
        let message = plan.with_reply_to(message)?;
        self.answer_requesters(&plan, &message);
        let (queues, delayed) = (self.routes.queues(plan.route), self.routes.delayed(plan.route));
        let histories = self.routes.histories(plan.route);
        let Some(channel) = self.channels.get(plan.number) else { return Ok(()) };
        let confirm = channel.next_publish().map(|next| {
            let to = Requester { peer: self.peer.clone(), channel: channel.key };
            (to, next)
        });
        let outbox = match &mut channel.transaction {
            Some(transaction) => {
                if transaction.grow(message.bytes().len()) > self.shared.pressure.limit() / 2 {
                    let text = "transaction exceeds half of the memory limit";
                    return Err(AmqpError::precondition_failed(text));
                }
                note(&mut self.transacting, plan.number);
                transaction.publishes()
            }
            None => &mut self.outbox,
        };
        for exchange in histories {
            outbox.remember(exchange, message.bytes(), plan.meta);
        }
        let unroutable = queues.is_empty() && self.routes.replies(plan.route).is_none();
        let nowhere = unroutable && delayed.is_empty() && histories.is_empty();
        let at_once = nowhere && channel.confirms.is_some();
        let unroutable = unroutable && plan.mandatory;
        let returned = unroutable.then(|| message::shown(message.bytes(), plan.meta).into_owned());
        let confirm = confirm.as_ref().map(|(to, number)| (to, *number));
        let mut answers = 0;
        for hold in delayed {
            answers += outbox.hold(hold, message.bytes(), plan.meta, confirm);
        }
        answers += outbox.publish(message, plan.meta, plan.expiration, queues, confirm);
        if !at_once {
            channel.published(answers);
            if channel.confirms.is_some() {
                note(&mut self.confirming, plan.number);
            }
        }
        if let Some(returned) = returned {
            self.unroutable(&plan, &returned);
        }
        if at_once && let Some(confirms) = self.channels.get(plan.number).and_then(|open| open.confirms.as_mut()) {
            confirms.add_unroutable(self.output.octets(), plan.number);
        }
        self.look_at_pressure();
        Ok(())
    }

    /// Sends a planned publish to the reply consumers that it names, or has the channel's transaction do so.
    fn answer_requesters(&mut self, plan: &Plan, message: &Body<'_>) {
        for to in self.routes.replies(plan.route).into_iter().flatten() {
            let reply = alone(message, plan.meta, &self.shared.pressure.gauge);
            match self.channels.get(plan.number).and_then(Channel::transaction) {
                Some(transaction) => transaction.hold_reply(to, reply),
                None => to.send(reply),
            }
        }
    }

    /// Returns a mandatory message that goes nowhere; in a transaction, once that is committed.
    fn unroutable(&mut self, plan: &Plan, message: &[u8]) {
        if let Some(transaction) = self.channels.get(plan.number).and_then(Channel::transaction) {
            return transaction.hold_return(message, plan.meta);
        }
        let address = plan.meta.address();
        self.return_message(plan.number, &message[..address], &message[address + ADDRESS_GAP..]);
    }

    pub(super) fn return_message(&mut self, number: u16, address: &[u8], content: &[u8]) {
        let (code, text) = NO_ROUTE;
        deliver::returned(self.output.octets(), number, code, text, address, content, self.frame_max);
    }

    /// Stops reading while an alarm is raised, and says so.
    pub(super) fn look_at_pressure(&mut self) {
        if self.shared.pressure.is_shut() && !self.parked {
            self.parked = true;
            if self.capabilities.connection_blocked {
                self.told_blocked = true;
                self.send(0, &methods::connection_blocked(self.shared.pressure.reason()));
            }
        }
    }
}

/// Adds a channel's number to a list of such, once.
pub(super) fn note(numbers: &mut Vec<u16>, number: u16) {
    if !numbers.contains(&number) {
        numbers.push(number);
    }
}

/// A block for one message, as its receiver may see it.
fn alone(message: &Body<'_>, meta: Meta, gauge: &Arc<Gauge>) -> Arc<Block> {
    let mut block = BlockBuilder::default();
    block.add_owned(message::shown(message.bytes(), meta).into_owned(), meta);
    block.finish(gauge)
}

/// A publish that has been checked and routed.
pub(super) struct Plan {
    /// The channel.
    number: u16,
    pub route: Route,
    pub meta: Meta,
    /// Milliseconds.
    pub expiration: Option<u64>,
    mandatory: bool,
    /// It asks for direct replies: the name under which they can be sent.
    pub reply_to: Option<Arc<str>>,
}

impl Plan {
    /// The message with that name as its `reply-to`, all else byte for byte.
    fn with_reply_to<'a>(&self, message: Body<'a>) -> Result<Body<'a>, AmqpError> {
        let Some(name) = &self.reply_to else { return Ok(message) };
        let Some(parts) = Message::parse(message.bytes()) else {
            return Err(AmqpError::internal_error(""));
        };
        let edits = Edits { reply_to: Some(name.as_bytes()), ..Edits::default() };
        let header = content::edit(parts.header, &edits)?;
        Ok(Body::Owned(parts.rebuild(parts.address, &header)))
    }
}

/// Names `basic.publish` as what an error is about, unless the error is one of frames.
pub(super) fn at_publish(error: AmqpError) -> AmqpError {
    match (error.class, error.method) {
        (0, 0) if error.code != 501 && error.code != 502 => error.at(PUBLISH.0, PUBLISH.1),
        _ => error,
    }
}

/// The user that a message names must be the one who is logged in, unless that one may impersonate others.
fn check_user(properties: &Properties<'_>, rights: &mut Rights) -> Done {
    if let Some(id) = properties.user_id
        && id != rights.user().as_bytes()
        && !rights.may_impersonate()
    {
        let user = rights.user();
        let id = leveret_protocol::error::text_of(id);
        let text = format!("user_id property set to '{id}' but authenticated user was '{user}'");
        return Err(AmqpError::precondition_failed(text));
    }
    Ok(())
}
