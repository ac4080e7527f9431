//! What other owners say: deliveries, answers, confirms.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use leveret_protocol::deliver::{self, Deliver};
use leveret_storage::Run;

use super::channel::{Request, State, Wait};
use super::output::{LENT, Output};
use super::transaction::Committed;
use super::unacked::Outstanding;
use super::{Connection, Consumer, OUTPUT_LIMIT, Phase};
use crate::command::{ChannelKey, ConnectionEvent, ConsumerKey, Delivery, QueueCommand, Reply, Segment, Whose};
use crate::queue::Queue;
use crate::{message, methods};

impl Connection {
    /// Handles what has come, as far as there is room for the output. True when something was handled.
    pub(super) fn take_events(&mut self) -> bool {
        self.peer.mailbox.take(&mut self.inbox);
        if self.inbox.is_empty() {
            return false;
        }
        self.moment = None;
        let mut progress = false;
        while self.output.len() <= OUTPUT_LIMIT
            && let Some(event) = self.inbox.pop_front()
        {
            self.event(event);
            progress = true;
        }
        if progress {
            self.flush();
        }
        progress
    }

    fn event(&mut self, event: ConnectionEvent) {
        match event {
            ConnectionEvent::Deliver(delivery) => self.deliver(delivery),
            ConnectionEvent::Reply { channel, reply } => self.reply(channel, reply),
            ConnectionEvent::Confirm { channel, first, count, refused } => {
                self.publishes_answered(channel, first, count, refused);
            }
            ConnectionEvent::ConfirmWritten { channel, number, written } => {
                self.confirm_written(channel, number, written);
            }
            ConnectionEvent::ConsumerGone { channel, consumer } => self.consumer_gone(channel, consumer),
            ConnectionEvent::DirectReply { to, reply } => self.direct_reply(&to, &reply),
            ConnectionEvent::Tidy => {
                self.peer.begins_to_tidy();
                self.let_go();
                let channels = self.channels.iter_mut();
                let held = channels.flat_map(|channel| channel.unacked.iter_mut().map(|entry| &mut entry.segment));
                crate::tidy::tidy(held, &self.shared.pressure.gauge);
            }
            ConnectionEvent::Close { error, until } if matches!(self.phase, Phase::Running) => {
                self.shutting_down = Some(error);
                self.deadline = Some(until);
                self.close_when_settled();
            }
            ConnectionEvent::Forced { whose, error } if matches!(self.phase, Phase::Running) => {
                let concerned = match &whose {
                    Whose::User(user) => **user == *self.rights.user(),
                    Whose::VHost(vhost) => **vhost == *self.vhost.name,
                };
                if concerned {
                    self.close(Some(error));
                }
            }
            // Its end is under way.
            ConnectionEvent::Forced { .. } | ConnectionEvent::Close { .. } => {}
        }
    }

    /// Lets go of the content of unacked messages that storage has, where memory runs short.
    fn let_go(&mut self) {
        if !self.shared.parts.paging.is_high() {
            return;
        }
        for channel in self.channels.iter_mut() {
            for Outstanding { queue, segment, .. } in channel.unacked.iter_mut() {
                let here = segment.here().is_some();
                if here && segment.is_stored(queue.durable) && queue.stores(segment.first, segment.count()) {
                    segment.send_away();
                }
            }
        }
    }

    // Deliveries

    fn deliver(&mut self, delivery: Delivery) {
        let at = if delivery.no_ack { Duration::ZERO } else { self.delivering() };
        let Some(consumer) = self.consumers.get(&delivery.consumer.serial) else {
            return;
        };
        let running = matches!(self.phase, Phase::Running);
        let open = self
            .channels
            .get_key(delivery.channel)
            .filter(|channel| running && matches!(channel.state, State::Open | State::Waiting(_)));
        let Some(channel) = open else {
            return self.give_back(delivery);
        };
        let Delivery { channel: to, consumer: key, no_ack, mut segment } = delivery;
        let deliver = Deliver::new(to.number, consumer.tag.as_bytes(), segment.redelivered, self.frame_max);
        let (count, bytes) = encode(deliver, &segment, consumer.queue.keeps_all, channel.last_tag, &mut self.output);
        let rest = (count < segment.count()).then(|| {
            let sent = segment.split_front(count);
            std::mem::replace(&mut segment, sent)
        });
        let first_tag = channel.last_tag + 1;
        channel.last_tag += u64::from(count);
        if no_ack && segment.persistent {
            channel.settled_in(&consumer.queue);
        }
        if !no_ack {
            let queue = consumer.queue.clone();
            channel.unacked.push(Outstanding { first_tag, consumer: Some(key), queue, segment, counted: true, at });
        }
        if consumer.window.drain(count, bytes) {
            self.outbox.push(&consumer.queue, QueueCommand::Wake);
        }
        if let Some(segment) = rest {
            self.inbox.push_front(ConnectionEvent::Deliver(Delivery { channel: to, consumer: key, no_ack, segment }));
        }
    }

    /// A delivery that nobody is there for any more goes back as it came.
    pub(super) fn give_back(&mut self, delivery: Delivery) {
        let Some(consumer) = self.consumers.get(&delivery.consumer.serial) else {
            return;
        };
        if !delivery.no_ack {
            let command =
                QueueCommand::Requeue { consumer: Some(delivery.consumer), segment: delivery.segment, seen: false };
            self.outbox.push(&consumer.queue, command);
        }
    }

    fn consumer_gone(&mut self, channel: ChannelKey, key: ConsumerKey) {
        let Some(consumer) = self.consumers.remove(&key.serial) else {
            return;
        };
        let Some(owner) = self.channels.get_key(channel) else {
            return;
        };
        owner.tags.remove(&consumer.tag);
        match owner.state {
            State::Waiting(_) => owner.bereft.push(consumer.tag),
            State::Open => self.send_cancel(channel.number, &consumer.tag),
            State::Unopened | State::Releasing { .. } | State::Closed => {}
        }
    }

    fn send_cancel(&mut self, number: u16, tag: &str) {
        if self.capabilities.consumer_cancel_notify && matches!(self.phase, Phase::Running) {
            self.send(number, &methods::cancel(tag));
        }
    }

    /// Once the channel's answer is out: the cancels that have come meanwhile.
    fn send_cancels(&mut self, key: ChannelKey) {
        let Some(channel) = self.channels.get_key(key).filter(|channel| channel.is_open()) else {
            return;
        };
        for tag in std::mem::take(&mut channel.bereft) {
            self.send_cancel(key.number, &tag);
        }
    }

    // Answers

    fn reply(&mut self, key: ChannelKey, reply: Reply) {
        if key.number == 0 {
            return self.released_one();
        }
        let Some(channel) = self.channels.get_key(key) else {
            return;
        };
        match std::mem::replace(&mut channel.state, State::Open) {
            State::Waiting(request) => {
                self.answered(key, request, reply);
                self.send_cancels(key);
            }
            ending @ (State::Releasing { .. } | State::Closed) => {
                channel.state = ending;
                self.answered_late(key, reply);
            }
            other => channel.state = other,
        }
    }

    fn answered(&mut self, key: ChannelKey, request: Request, reply: Reply) {
        let number = key.number;
        let Request { wait, class, method, nowait } = request;
        match (wait, reply) {
            (_, Reply::Error(error)) => self.raise(number, error.at(class, method)),
            (wait @ Wait::Commit(_), _) => {
                self.wait(number, wait, (class, method), nowait);
                self.commit_went_on(key, Committed::Removals);
            }
            (Wait::Stored { left }, _) => {
                if left > 1
                    && let Some(channel) = self.channels.get_key(key)
                {
                    let wait = Wait::Stored { left: left - 1 };
                    channel.state = State::Waiting(Request { wait, class, method, nowait });
                }
            }
            (Wait::Declare, Reply::Declared { queue, messages, consumers }) => {
                if !nowait {
                    self.send(number, &methods::queue_declare_ok(&queue, messages, consumers));
                }
                if let Some(channel) = self.channels.get_key(key) {
                    channel.last_queue = Some(queue);
                }
            }
            (Wait::Consume { tag, queue, window }, Reply::Consuming(consumer)) => {
                if !nowait {
                    self.send(number, &methods::consume_ok(&tag));
                }
                if let Some(channel) = self.channels.get_key(key) {
                    channel.tags.insert(tag.clone(), consumer.serial);
                }
                let record = Consumer { channel: key, key: consumer, queue, tag, window };
                self.consumers.insert(consumer.serial, record);
            }
            (Wait::Get { no_ack, .. }, Reply::Got { queue, segment, left, .. }) => {
                self.got(key, queue, segment, left, no_ack);
            }
            (Wait::Get { .. }, _) => self.send(number, &methods::get_empty()),
            (wait, Reply::Method(method)) => {
                if let Wait::Cancel { serial } = wait {
                    self.consumers.remove(&serial);
                }
                if !nowait {
                    self.send(number, &method);
                }
            }
            _ => {}
        }
    }

    fn got(&mut self, key: ChannelKey, queue: Arc<Queue>, segment: Segment, left: u32, no_ack: bool) {
        let at = if no_ack { Duration::ZERO } else { self.delivering() };
        let Some(channel) = self.channels.get_key(key) else {
            return;
        };
        let Some(Run { block, from, .. }) = segment.here() else {
            return;
        };
        let (tag, index) = (channel.tag(), *from);
        let returns = if queue.keeps_all { segment.returns } else { 0 };
        let address = message::address(block, index);
        deliver::get_ok(self.output.octets(), key.number, tag, segment.redelivered, address, left);
        match message::content_shown(block, index, returns) {
            Cow::Borrowed(_) => {
                self.output.lend(block, index, message::content_at(block, index), key.number, self.frame_max)
            }
            Cow::Owned(content) => deliver::content(self.output.octets(), key.number, &content, self.frame_max),
        }
        if !no_ack {
            channel.unacked.push(Outstanding { first_tag: tag, consumer: None, queue, segment, counted: false, at });
        } else if segment.persistent {
            channel.settled_in(&queue);
        }
    }

    // Confirms

    /// Another queue has taken these publishes, or `refused` them: confirms or a commit may have waited for that.
    fn publishes_answered(&mut self, key: ChannelKey, first: u64, count: u32, refused: bool) {
        let Some(channel) = self.channels.get_key(key) else {
            return;
        };
        let Some(confirms) = &mut channel.confirms else {
            self.commit_went_on(key, Committed::Publishes { count, refused });
            return self.send_cancels(key);
        };
        confirms.answered(first, count, refused);
        if !self.confirming.contains(&key.number) {
            self.confirming.push(key.number);
        }
    }

    /// Sends the confirms that have become due.
    pub(super) fn emit_confirms(&mut self) {
        if self.confirming.is_empty() {
            return;
        }
        for number in std::mem::take(&mut self.confirming) {
            let Some(channel) = self.channels.get(number) else {
                continue;
            };
            if matches!(channel.state, State::Releasing { .. } | State::Closed) {
                continue;
            }
            if let Some(confirms) = &mut channel.confirms {
                confirms.emit(self.output.octets(), number);
                self.lone = confirms.lone().map(|number| (channel.key, number));
            }
        }
        self.close_when_settled();
    }

    /// On shutdown, the connection is closed once no confirm and no commit is outstanding any more.
    pub(super) fn close_when_settled(&mut self) {
        let settled = |c: &super::channel::Channel| {
            let committing = matches!(
                &c.state,
                State::Waiting(request) if matches!(request.wait, Wait::Commit(_))
            );
            let confirms = c.confirms.as_ref();
            !committing && confirms.is_none_or(|confirms| confirms.is_settled())
        };
        if self.shutting_down.is_some() && self.channels.iter_mut().all(|channel| settled(channel)) {
            let error = self.shutting_down.take();
            self.deadline = None;
            self.close(error);
        }
    }
}

/// Encodes deliveries, with tags behind `tag`, until more than [`OUTPUT_LIMIT`] waits, at least one; says how many, and
/// their bytes.
fn encode(mut deliver: Deliver, segment: &Segment, keeps_all: bool, mut tag: u64, output: &mut Output) -> (u32, u32) {
    let Some(Run { block, from, to }) = segment.here() else {
        return (segment.count(), 0);
    };
    let returns = if keeps_all { segment.returns } else { 0 };
    let as_stored = returns == 0 && message::shows_all(block);
    let all = segment.count() as usize;
    let whole = block.bytes_of(*from, *to) + all * deliver.octets();
    if whole < all * LENT {
        output.octets().reserve(whole.min(OUTPUT_LIMIT));
    }
    let (mut count, mut bytes) = (0, 0);
    let mut most = output.buffer_for(OUTPUT_LIMIT);
    for (index, (stored, meta)) in (*from..*to).zip(block.messages(*from, *to)) {
        tag += 1;
        let (address, content) = message::split(stored, meta);
        if !as_stored {
            let shown = message::content_shown(block, index, returns);
            deliver.append(output.octets(), tag, address, &shown);
        } else if stored.len() < LENT {
            deliver.append(output.octets(), tag, address, content);
        } else {
            deliver.method(output.octets(), tag, address);
            output.lend(block, index, stored.len() - content.len(), deliver.channel, deliver.frame_max);
            most = output.buffer_for(OUTPUT_LIMIT);
        }
        count += 1;
        bytes += stored.len() as u32;
        if output.octets().len() > most {
            break;
        }
    }
    (count, bytes)
}
