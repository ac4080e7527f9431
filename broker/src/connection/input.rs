//! Frames in: publishes on the short way, everything else one frame at a time.

use leveret_protocol::amq::{AMQPClass, basic, channel};
use leveret_protocol::assembler::{self, Complete, Progress, Whole};
use leveret_protocol::content::{self, ContentHeader, Edits, Properties};
use leveret_protocol::hot::{self, Publish};
use leveret_protocol::{ADDRESS_GAP, AmqpError, Message, Scope, deliver, frame, method};

use super::channel::{Publishing, Request, State, Wait};
use super::confirms::Confirms;
use super::routes::Route;
use super::{Connection, Phase};
use crate::command::{ChannelKey, QueueCommand};
use crate::message::Meta;
use crate::outbox::Body;

const PUBLISH: (u16, u16) = (60, 40);
const NO_ROUTE: (u16, &str) = (312, "NO_ROUTE");

impl Connection {
    /// Takes whole frames off `input` and says how many bytes that was. With `only`, the input is what that channel
    /// had deferred: it stops where the channel has to wait again.
    pub(super) fn process(&mut self, input: &[u8], only: Option<u16>) -> usize {
        let mut at = 0;
        self.outbox.reserve(input.len());
        self.now = self.shared.clock.wall();
        while at < input.len() && self.takes_input() {
            if only.is_some_and(|number| self.channels.get(number).is_some_and(|c| !c.is_open())) {
                break;
            }
            let rest = &input[at..];
            if matches!(self.phase, Phase::Running)
                && let Some(whole) = assembler::whole(rest, self.frame_max)
                && self.channels.get(whole.channel).is_some_and(|c| c.is_open() && c.assembler.is_idle())
            {
                at += whole.consumed;
                self.publish_whole(&whole);
            } else {
                match frame::split(rest, self.frame_max) {
                    Ok(None) => break,
                    Ok(Some(found)) => {
                        let size = found.payload.len() + frame::OVERHEAD;
                        at += size;
                        self.frame(&found, &rest[..size]);
                    }
                    Err(error) => {
                        self.raise(0, error);
                        at = input.len();
                    }
                }
            }
            if self.outbox.is_large() {
                self.flush();
            }
        }
        self.flush();
        self.unread |= at < input.len() && !self.takes_input();
        at
    }

    fn frame(&mut self, found: &frame::Frame<'_>, raw: &[u8]) {
        if !matches!(self.phase, Phase::Running) {
            return self.frame_while_closing(found);
        }
        if found.kind == frame::HEARTBEAT {
            return;
        }
        if found.channel == 0 {
            return self.connection_method(found.payload);
        }
        let Some(channel) = self.channels.get(found.channel) else {
            return self.frame_on_no_channel(found);
        };
        match channel.state {
            State::Open => {
                let outcome = match found.kind {
                    frame::METHOD => self.channel_method(found.channel, found.payload, raw),
                    frame::HEADER => self.content_header(found.channel, found.payload),
                    _ => self.content_body(found.channel, found.payload),
                };
                if let Err(error) = outcome {
                    self.raise(found.channel, error);
                }
            }
            State::Unopened => self.content_on_no_channel(found),
            State::Waiting(_) | State::Releasing { error: None, .. } => self.defer(found.channel, raw),
            State::Releasing { error: Some(_), .. } | State::Closed => self.frame_on_closed(found),
        }
    }

    fn content_on_no_channel(&mut self, found: &frame::Frame<'_>) {
        let Some(channel) = self.channels.get(found.channel) else { return };
        let progress = match found.kind {
            frame::HEADER => channel.assembler.header(found.payload, 0),
            frame::BODY => channel.assembler.body(found.payload, self.frame_max),
            kind => Err(channel.assembler.unexpected(kind)),
        };
        match progress {
            Ok(Progress::More) => {}
            Ok(Progress::Complete(_)) => {
                let error = AmqpError::channel_error("expected 'channel.open'");
                self.raise(0, error.at(PUBLISH.0, PUBLISH.1));
            }
            Err(error) => self.raise(0, error),
        }
    }

    /// Keeps a frame for when the channel's outstanding request is answered.
    pub(super) fn defer(&mut self, number: u16, raw: &[u8]) {
        if let Some(channel) = self.channels.get(number) {
            channel.deferred.extend_from_slice(raw);
            self.deferred += raw.len();
        }
    }

    /// Goes on with frames that waited for an answer. True when some did.
    pub(super) fn resume_deferred(&mut self) -> bool {
        if self.deferred == 0 || !matches!(self.phase, Phase::Running) || self.parked || self.full.is_some() {
            return false;
        }
        let ready: Vec<u16> = (self.channels.iter_mut())
            .filter(|channel| channel.is_open() && !channel.deferred.is_empty())
            .map(|channel| channel.key.number)
            .collect();
        for number in &ready {
            self.resume(*number);
        }
        !ready.is_empty()
    }

    fn resume(&mut self, number: u16) {
        let Some(channel) = self.channels.get(number) else {
            return;
        };
        let input = std::mem::take(&mut channel.deferred);
        self.deferred -= input.len();
        self.resume_with(number, input);
    }

    /// Processes what a channel had deferred; what must still wait is deferred again.
    pub(super) fn resume_with(&mut self, number: u16, input: Vec<u8>) {
        let consumed = self.process(&input, Some(number));
        if consumed < input.len() {
            if self.channels.get(number).is_some() {
                self.defer(number, &input[consumed..]);
            } else {
                self.first.extend_from_slice(&input[consumed..]);
            }
        }
    }

    // Publishing

    fn publish_whole(&mut self, whole: &Whole<'_>) {
        let planned = self.plan(whole.channel, &whole.publish, &whole.header, whole.content());
        match planned {
            Ok(Some(plan)) => self.place(plan, Body::Borrowed(whole.message)),
            Ok(None) => {}
            Err(error) => self.raise(whole.channel, at_publish(error)),
        }
    }

    fn content_header(&mut self, number: u16, payload: &[u8]) -> Result<(), AmqpError> {
        let limit = self.shared.config.max_message_size.bytes();
        let Some(channel) = self.channels.get(number) else {
            return Ok(());
        };
        let progress = channel.assembler.header(payload, limit)?;
        // Reading stops once a client publishes while memory is short; this frame is still taken.
        if matches!(progress, Progress::More) {
            self.look_at_pressure();
        }
        self.content_progress(number, progress)
    }

    fn content_body(&mut self, number: u16, payload: &[u8]) -> Result<(), AmqpError> {
        let frame_max = self.frame_max;
        let Some(channel) = self.channels.get(number) else {
            return Ok(());
        };
        let progress = channel.assembler.body(payload, frame_max)?;
        if matches!(progress, Progress::More) {
            self.look_at_pressure();
        }
        self.content_progress(number, progress)
    }

    fn content_progress(&mut self, number: u16, progress: Progress) -> Result<(), AmqpError> {
        match progress {
            Progress::More => Ok(()),
            Progress::Complete(complete) => self.publish_complete(number, complete).map_err(at_publish),
        }
    }

    fn publish_complete(&mut self, number: u16, complete: Complete) -> Result<(), AmqpError> {
        let Some(channel) = self.channels.get(number) else {
            return Ok(());
        };
        let Publishing { mandatory, immediate } = channel.publishing;
        let Some(parts) = complete.parts() else {
            return Err(AmqpError::internal_error(""));
        };
        let (exchange, routing_key, address) = (parts.exchange, parts.routing_key, parts.address);
        let publish = Publish { exchange, routing_key, mandatory, immediate, address };
        if let Some(plan) = self.plan(number, &publish, &parts.content_header(), parts.content)? {
            self.place(plan, Body::Owned(complete.message));
        }
        Ok(())
    }

    /// A complete publish: checked, in RabbitMQ's order, and routed. None when it goes nowhere.
    fn plan(
        &mut self,
        number: u16,
        publish: &Publish<'_>,
        header: &ContentHeader<'_>,
        content: &[u8],
    ) -> Result<Option<Plan>, AmqpError> {
        if publish.immediate {
            return Err(AmqpError::not_implemented("immediate=true"));
        }
        let limit = self.shared.config.max_message_size.bytes();
        if header.body_size > limit {
            let text = format!("message size {} is larger than configured max size {limit}", header.body_size);
            return Err(AmqpError::precondition_failed(text));
        }
        let properties = header.parse()?;
        let route = self.routes.find(&self.vhost, publish, &properties)?;
        let expiration = check_properties(&properties, &self.user)?;
        let hidden = properties.headers.is_some_and(|headers| headers.get(b"BCC").is_some());
        if self.routes.queues(route).is_empty() {
            if publish.mandatory {
                self.return_unroutable(number, publish.address, content, hidden)?;
            }
            if self.routes.histories(route).0.is_empty() {
                if let Some((_, confirms)) = self.confirming(number) {
                    confirms.add(0);
                }
                return Ok(None);
            }
        }
        let meta = Meta::new(publish.address.len(), self.now)
            .with_persistent(properties.delivery_mode == Some(2))
            .with_expiration(expiration.is_some())
            .with_priority(properties.priority.unwrap_or(0));
        Ok(Some(Plan { number, route, meta, expiration, hidden }))
    }

    /// The channel's confirms, if it is in confirm mode; they are looked at when the turn ends.
    fn confirming(&mut self, number: u16) -> Option<(ChannelKey, &mut Confirms)> {
        let channel = self.channels.get(number)?;
        let confirms = channel.confirms.as_mut()?;
        if !self.confirming.contains(&number) {
            self.confirming.push(number);
        }
        Some((channel.key, confirms))
    }

    fn return_unroutable(
        &mut self,
        number: u16,
        address: &[u8],
        content: &[u8],
        hidden: bool,
    ) -> Result<(), AmqpError> {
        let (code, text) = NO_ROUTE;
        let shown;
        let content = if hidden {
            shown = without_bcc(address, content)?;
            &shown[address.len() + ADDRESS_GAP..]
        } else {
            content
        };
        deliver::returned(&mut self.output, number, code, text, address, content, self.frame_max);
        Ok(())
    }

    /// Adds a planned publish to the turn.
    fn place(&mut self, plan: Plan, message: Body<'_>) {
        let message = if plan.hidden {
            let address = plan.meta.address();
            let bytes = message.bytes();
            match without_bcc(&bytes[..address], &bytes[address + ADDRESS_GAP..]) {
                Ok(bytes) => Body::Owned(bytes),
                Err(_) => message,
            }
        } else {
            message
        };
        let confirm = self.confirming(plan.number).map(|(key, confirms)| (key, confirms.next()));
        let confirm = confirm.map(|(key, number)| (self.requester(key), number));
        let (histories, further) = self.routes.histories(plan.route);
        for exchange in histories {
            self.outbox.remember(exchange, message.bytes(), plan.meta, further);
        }
        let queues = self.routes.queues(plan.route);
        let confirm = confirm.as_ref().map(|(to, number)| (to, *number));
        let answers = self.outbox.publish(message, plan.meta, plan.expiration, queues, confirm);
        if let Some((_, confirms)) = self.confirming(plan.number) {
            confirms.add(answers);
        }
        self.look_at_pressure();
    }

    fn look_at_pressure(&mut self) {
        if self.shared.pressure.is_shut() && !self.parked {
            self.parked = true;
            if self.capabilities.connection_blocked {
                self.told_blocked = true;
                self.send(0, &crate::methods::connection_blocked("low on memory"));
            }
        }
    }

    // Methods

    fn channel_method(&mut self, number: u16, payload: &[u8], raw: &[u8]) -> Result<(), AmqpError> {
        let Some(channel) = self.channels.get(number) else {
            return Ok(());
        };
        if !channel.assembler.is_idle() {
            return Err(channel.assembler.unexpected(frame::METHOD));
        }
        if method::ids(payload) == PUBLISH {
            let publish = hot::publish(payload)?;
            channel.publishing = Publishing { mandatory: publish.mandatory, immediate: publish.immediate };
            channel.assembler.start(&publish, publish.bits());
            return Ok(());
        }
        if let Some(settle) = hot::settle(payload)? {
            let (class, method) = method::ids(payload);
            return self.settle(number, settle).map_err(|error| error.at(class, method));
        }
        let class = method::decode(payload)?;
        if let AMQPClass::Basic(basic::AMQPMethod::Qos(_)) = class {
            check_prefetch_size(payload)?;
        }
        if self.must_be_stored_first(number, &class) {
            self.defer(number, raw);
            return Ok(());
        }
        let (id, method_id) = (class.get_amqp_class_id(), class.get_amqp_method_id());
        self.flush();
        self.dispatch(number, class).map_err(|error| match (error.class, error.method) {
            (0, 0) => error.at(id, method_id),
            _ => error,
        })?;
        // The answer is often here already: then nothing needs to be deferred.
        if self.channels.get(number).is_some_and(|channel| matches!(channel.state, State::Waiting(_))) {
            self.take_events();
        }
        Ok(())
    }

    /// A synchronous method waits until removals for earlier acknowledgements have reached the kernel, so that no
    /// acknowledgement its client can know of comes back after a kill. True when that is still to come.
    fn must_be_stored_first(&mut self, number: u16, class: &AMQPClass) -> bool {
        if matches!(
            class,
            AMQPClass::Basic(basic::AMQPMethod::RecoverAsync(_))
                | AMQPClass::Channel(channel::AMQPMethod::CloseOk(_) | channel::AMQPMethod::FlowOk(_))
        ) {
            return false;
        }
        let Some(channel) = self.channels.get(number) else {
            return false;
        };
        if channel.unstored.is_empty() {
            return false;
        }
        let (key, queues) = (channel.key, std::mem::take(&mut channel.unstored));
        let wait = Wait::Stored { left: queues.len() as u32 };
        channel.state = State::Waiting(Request { wait, class: 0, method: 0, nowait: false });
        let from = self.requester(key);
        for queue in &queues {
            self.outbox.push(queue, QueueCommand::Sync { from: from.clone(), stored: true });
        }
        self.flush();
        true
    }

    /// Raises an error on its scope.
    pub(super) fn raise(&mut self, number: u16, error: AmqpError) {
        if number == 0 || matches!(error.scope, Scope::Connection) {
            self.close(Some(error));
        } else {
            self.close_channel(number, error);
        }
    }
}

/// amq-protocol drops this field of `basic.qos`, so it is read here.
fn check_prefetch_size(payload: &[u8]) -> Result<(), AmqpError> {
    match payload.get(4..).and_then(<[u8]>::first_chunk::<4>) {
        Some(octets) if *octets != [0; 4] => {
            let text = format!("prefetch_size!=0 ({})", u32::from_be_bytes(*octets));
            Err(AmqpError::not_implemented(text).at(60, 10))
        }
        _ => Ok(()),
    }
}

fn at_publish(error: AmqpError) -> AmqpError {
    match (error.class, error.method) {
        (0, 0) if error.code != 501 && error.code != 502 => error.at(PUBLISH.0, PUBLISH.1),
        _ => error,
    }
}

/// A publish that has been checked and routed.
struct Plan {
    /// The channel.
    number: u16,
    route: Route,
    meta: Meta,
    /// Milliseconds.
    expiration: Option<u64>,
    /// It has a BCC header, which nobody may see.
    hidden: bool,
}

/// The message without its BCC header, all else byte for byte.
fn without_bcc(address: &[u8], content: &[u8]) -> Result<Vec<u8>, AmqpError> {
    let mut bytes = address.to_vec();
    bytes.extend_from_slice(&[0, frame::FRAME_END]);
    bytes.extend_from_slice(content);
    let Some(message) = Message::parse(&bytes) else {
        return Err(AmqpError::internal_error(""));
    };
    let edits = Edits { remove: &["BCC"], put: &[], drop_expiration: false };
    Ok(message.rebuild(address, &content::edit(message.header, &edits)?))
}

/// What RabbitMQ checks of the properties, beyond their form. Answers the expiration in milliseconds.
fn check_properties(properties: &Properties<'_>, user: &str) -> Result<Option<u64>, AmqpError> {
    if properties.reply_to == Some(b"amq.rabbitmq.reply-to") {
        return Err(AmqpError::not_implemented("direct reply-to is not supported yet"));
    }
    let expiration = properties.expiration.map(crate::expiration::parse).transpose()?;
    if let Some(id) = properties.user_id
        && id != user.as_bytes()
    {
        let id = leveret_protocol::error::text_of(id);
        let text = format!("user_id property set to '{id}' but authenticated user was '{user}'");
        return Err(AmqpError::precondition_failed(text));
    }
    Ok(expiration)
}
