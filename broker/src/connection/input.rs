//! Frames in: publishes that are whole go the short way, everything else one frame at a time.

use leveret_protocol::amq::{AMQPClass, basic, channel};
use leveret_protocol::assembler::{self, Progress};
use leveret_protocol::{AmqpError, Scope, frame, hot, method};

use super::channel::{Publishing, Request, State, Wait};
use super::incomplete::Incomplete;
use super::publishing::{PUBLISH, at_publish};
use super::{Connection, Phase};
use crate::command::QueueCommand;

/// The id of the class channel.
const CHANNEL_CLASS: u16 = 20;

/// Where input comes from.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Source {
    /// The socket, now or before.
    Stream,
    /// What this channel had deferred: it stops where the channel has to wait again.
    Channel(u16),
    /// What channels that have ended had deferred.
    Ended,
}

impl Connection {
    /// Takes frames off `input` and says how many bytes that was: whole ones, and of the stream also the beginning of a large
    /// one.
    pub(super) fn process(&mut self, input: &[u8], source: Source) -> usize {
        let mut at = 0;
        self.outbox.reserve(input.len());
        self.now = self.shared.clock.wall();
        if self.partial.is_some() && source == Source::Stream {
            at = self.go_on_partial(input);
        }
        while at < input.len() && self.takes_input() {
            if let Source::Channel(number) = source
                && self.channels.get(number).is_some_and(|channel| !channel.is_open())
            {
                break;
            }
            let rest = &input[at..];
            let running = matches!(self.phase, Phase::Running);
            if running && let Some(consumed) = self.publish_again(rest) {
                at += consumed;
            } else if running
                && let Some(whole) = assembler::whole(rest, self.frame_max)
                && self.channels.get(whole.channel).is_some_and(|c| c.is_open() && c.assembler.is_idle())
            {
                at += whole.consumed;
                self.publish_whole(&whole, rest);
            } else {
                match frame::split(rest, self.frame_max) {
                    Ok(None) if source == Source::Stream && self.begin_partial(rest) => at = input.len(),
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
            State::Waiting(Request { wait: Wait::Commit(commit), .. })
                if let Some(error) = commit.unexpected(found) =>
            {
                self.raise(found.channel, error)
            }
            State::Unopened => self.content_on_no_channel(found),
            State::Waiting(_) | State::Releasing { error: None, .. } => self.defer(found.channel, raw),
            // The client's own close is answered behind the broker's. All else is thrown away.
            State::Releasing { error: Some(_), .. } => {
                if found.kind == frame::METHOD && method::ids(found.payload).0 == CHANNEL_CLASS {
                    self.defer(found.channel, raw);
                }
            }
            State::Closed => self.frame_on_closed(found),
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

    /// Goes on with frames that waited for an answer. True when some went.
    pub(super) fn resume_deferred(&mut self) -> bool {
        if self.deferred == 0 || !matches!(self.phase, Phase::Running) || self.parked || self.full.is_some() {
            return false;
        }
        let ready: Vec<u16> = (self.channels.iter_mut())
            .filter(|channel| channel.is_open() && !channel.deferred.is_empty())
            .map(|channel| channel.key.number)
            .collect();
        ready.into_iter().fold(false, |some, number| self.resume(number) | some)
    }

    /// Processes what a channel had deferred; what must still wait is deferred again.
    fn resume(&mut self, number: u16) -> bool {
        let Some(channel) = self.channels.get(number) else {
            return false;
        };
        let input = std::mem::take(&mut channel.deferred);
        self.deferred -= input.len();
        let consumed = self.process(&input, Source::Channel(number));
        if consumed < input.len() {
            if self.channels.get(number).is_some() {
                self.defer(number, &input[consumed..]);
            } else {
                self.first.extend_from_slice(&input[consumed..]);
            }
        }
        consumed > 0
    }

    // Content

    fn content_header(&mut self, number: u16, payload: &[u8]) -> Result<(), AmqpError> {
        let limit = self.shared.config.max_message_size.bytes();
        let Some(channel) = self.channels.get(number) else {
            return Ok(());
        };
        let progress = channel.assembler.header(payload, limit)?;
        // Reading stops once a client publishes while memory is short; this frame is still taken.
        if matches!(progress, Progress::More) {
            self.content_grows(number)?;
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
            self.content_grows(number)?;
        }
        self.content_progress(number, progress)
    }

    pub(super) fn content_progress(&mut self, number: u16, progress: Progress) -> Result<(), AmqpError> {
        match progress {
            Progress::More => Ok(()),
            Progress::Complete(complete) => {
                if let Some(channel) = self.channels.get(number) {
                    channel.incomplete = Incomplete::default();
                }
                self.publish_complete(number, complete).map_err(at_publish)
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
