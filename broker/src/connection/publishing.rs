//! Publishes: checked in RabbitMQ's order, routed, and added to the turn or held by the channel's transaction.

use std::sync::Arc;

use leveret_protocol::assembler::{Complete, Whole};
use leveret_protocol::content::{self, ContentHeader, Edits, Properties};
use leveret_protocol::hot::Publish;
use leveret_protocol::{ADDRESS_GAP, AmqpError, Message, deliver};

use super::Connection;
use super::channel::{Channel, Publishing};
use super::dispatch::Done;
use super::outbox::Body;
use super::routes::{Copies, Route};
use crate::command::{ChannelKey, Requester};
use crate::message::{BlockBuilder, Meta};
use crate::{methods, names};

/// The ids of `basic.publish`.
pub(super) const PUBLISH: (u16, u16) = (60, 40);
const NO_ROUTE: (u16, &str) = (312, "NO_ROUTE");

impl Connection {
    /// A publish that lies whole in the input.
    pub(super) fn publish_whole(&mut self, whole: &Whole<'_>) {
        let number = whole.channel;
        let outcome = match self.plan(number, &whole.publish, &whole.header) {
            Ok(Some(plan)) => self.place(number, plan, Body::Borrowed(whole.message)),
            Ok(None) => Ok(()),
            Err(error) => Err(error),
        };
        if let Err(error) = outcome {
            self.raise(number, at_publish(error));
        }
    }

    /// A publish that was put together from its frames.
    pub(super) fn publish_complete(&mut self, number: u16, complete: Complete) -> Done {
        let Some(channel) = self.channels.get(number) else {
            return Ok(());
        };
        let Publishing {
            mandatory,
            immediate,
        } = channel.publishing;
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
        match self.plan(number, &publish, &parts.content_header())? {
            Some(plan) => self.place(number, plan, Body::Owned(complete.message)),
            None => Ok(()),
        }
    }

    /// Checks a complete publish, in RabbitMQ's order, and routes it.
    fn plan(
        &mut self,
        number: u16,
        publish: &Publish<'_>,
        header: &ContentHeader<'_>,
    ) -> Result<Option<Plan>, AmqpError> {
        if publish.immediate {
            return Err(AmqpError::not_implemented("immediate=true"));
        }
        let limit = self.shared.config.max_message_size.bytes();
        if header.body_size > limit {
            let text = format!(
                "message size {} is larger than configured max size {limit}",
                header.body_size
            );
            return Err(AmqpError::precondition_failed(text));
        }
        let properties = header.parse()?;
        let known = self.routes.known(&self.vhost, publish)?;
        let reply_to = self.reply_to_of(number, &properties)?;
        check_expiration(&properties)?;
        let copies = Copies::of(&properties)?;
        check_user(&properties, &self.user)?;
        let hidden = copies.as_ref().is_some_and(Copies::are_hidden);
        let route = match known {
            Some(route) if copies.is_none() => route,
            _ => self
                .routes
                .look_up(&self.vhost, publish, properties.headers, copies)?,
        };
        let persistent = properties.delivery_mode == Some(2);
        let queues = self.routes.queues(route);
        // Those that have it on disk before it counts as stored.
        let durable = if persistent {
            queues.iter().filter(|queue| queue.durable).count() as u32
        } else {
            0
        };
        let Some(channel) = self.channels.get(number) else {
            return Ok(None);
        };
        let confirm = if let Some(confirms) = &mut channel.confirms {
            if !self.confirming.contains(&number) {
                self.confirming.push(number);
            }
            Some((channel.key, confirms.add(durable)))
        } else {
            let transaction = channel.transaction.as_mut();
            transaction.map(|transaction| (channel.key, transaction.add(durable)))
        };
        let priority = properties.priority.unwrap_or(0);
        Ok(Some(Plan {
            route,
            meta: Meta::new(
                publish.address.len(),
                persistent,
                priority,
                header.body_size as u32,
            ),
            mandatory: publish.mandatory,
            confirm,
            transacted: channel.transaction.is_some(),
            change: Change { hidden, reply_to },
        }))
    }

    /// The name that takes the place of `amq.rabbitmq.reply-to` as a message's `reply-to`.
    fn reply_to_of(
        &mut self,
        number: u16,
        properties: &Properties<'_>,
    ) -> Result<Option<Arc<str>>, AmqpError> {
        if properties.reply_to != Some(names::REPLY_TO.as_bytes()) {
            return Ok(None);
        }
        let channel = self.channels.get(number);
        match channel.and_then(|channel| channel.replies.as_ref()) {
            Some(consumer) => Ok(Some(consumer.to().name.clone())),
            None => Err(AmqpError::precondition_failed(
                "fast reply consumer does not exist",
            )),
        }
    }

    /// Adds a planned publish to the turn, or to the channel's transaction.
    fn place(&mut self, number: u16, plan: Plan, message: Body<'_>) -> Done {
        let message = plan.change.made_to(message)?;
        let queues = self.routes.queues(plan.route);
        let replies = self.routes.replies(plan.route);
        if queues.is_empty() && replies.is_none() {
            if plan.mandatory {
                self.unroutable(number, &plan, message);
            }
            return Ok(());
        }
        let mut transaction = None;
        if plan.transacted {
            note(&mut self.transacting, number);
            transaction = (self.channels.get(number)).and_then(Channel::transaction);
        }
        for to in replies.into_iter().flatten() {
            let mut reply = BlockBuilder::default();
            reply.add_owned(message.bytes().to_vec(), plan.meta);
            let reply = reply.finish(&self.shared.pressure.gauge);
            match &mut transaction {
                Some(transaction) => transaction.hold_reply(to, reply),
                None => to.send(reply),
            }
        }
        if !queues.is_empty() {
            let outbox = match transaction {
                Some(transaction) => transaction.publishes(),
                None => &mut self.outbox,
            };
            let confirm = plan.confirm.map(|(channel, number)| {
                let peer = self.peer.clone();
                (Requester { peer, channel }, number)
            });
            let confirm = confirm.as_ref().map(|(to, number)| (to, *number));
            outbox.publish(message, plan.meta, queues, confirm);
        }
        self.look_at_pressure();
        Ok(())
    }

    /// Returns a mandatory message that goes nowhere; in a transaction, once that is committed.
    fn unroutable(&mut self, number: u16, plan: &Plan, message: Body<'_>) {
        let bytes = message.bytes();
        if !plan.transacted {
            let address = plan.meta.address();
            let (address, content) = (&bytes[..address], &bytes[address + ADDRESS_GAP..]);
            return self.return_message(number, address, content);
        }
        note(&mut self.transacting, number);
        if let Some(transaction) = (self.channels.get(number)).and_then(Channel::transaction) {
            transaction.hold_return(bytes, plan.meta);
        }
        self.look_at_pressure();
    }

    pub(super) fn return_message(&mut self, number: u16, address: &[u8], content: &[u8]) {
        let (code, text) = NO_ROUTE;
        deliver::returned(
            &mut self.output,
            number,
            code,
            text,
            address,
            content,
            self.frame_max,
        );
    }

    /// Stops reading while memory is short, and says so.
    pub(super) fn look_at_pressure(&mut self) {
        if self.shared.pressure.is_shut() && !self.parked {
            self.parked = true;
            if self.capabilities.connection_blocked {
                self.told_blocked = true;
                self.send(0, &methods::connection_blocked("low on memory"));
            }
        }
    }
}

/// Adds a channel's number to a list of such, once.
fn note(numbers: &mut Vec<u16>, number: u16) {
    if !numbers.contains(&number) {
        numbers.push(number);
    }
}

/// A publish that has been checked and routed.
struct Plan {
    route: Route,
    meta: Meta,
    mandatory: bool,
    /// Who awaits that it is stored, the channel's confirms or its transaction, and its number there.
    confirm: Option<(ChannelKey, u64)>,
    /// The channel's transaction holds it.
    transacted: bool,
    change: Change,
}

/// What the broker changes in a message that is published.
struct Change {
    /// It has a BCC header, which nobody may see.
    hidden: bool,
    /// It asks for direct replies: the name under which they can be sent.
    reply_to: Option<Arc<str>>,
}

impl Change {
    /// The message with the change, all else byte for byte.
    fn made_to<'a>(&self, message: Body<'a>) -> Result<Body<'a>, AmqpError> {
        if !self.hidden && self.reply_to.is_none() {
            return Ok(message);
        }
        let Some(parts) = Message::parse(message.bytes()) else {
            return Err(AmqpError::internal_error(""));
        };
        let edits = Edits {
            remove: if self.hidden { &["BCC"] } else { &[] },
            reply_to: self.reply_to.as_deref().map(str::as_bytes),
            ..Edits::default()
        };
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

fn check_expiration(properties: &Properties<'_>) -> Done {
    if let Some(expiration) = properties.expiration {
        super::expiration::parse(expiration)?;
        return Err(AmqpError::not_implemented(
            "message property 'expiration' is not supported yet",
        ));
    }
    Ok(())
}

/// The user that a message names must be the one who is logged in.
fn check_user(properties: &Properties<'_>, user: &str) -> Done {
    if let Some(id) = properties.user_id
        && id != user.as_bytes()
    {
        let id = leveret_protocol::error::text_of(id);
        let text = format!("user_id property set to '{id}' but authenticated user was '{user}'");
        return Err(AmqpError::precondition_failed(text));
    }
    Ok(())
}
