//! The rules of a queue: commands in, effects out. Synchronous; knows no task, socket, disk or clock.
//!
//! A message is at any moment in one place: ready here, or unacked at the channel it was delivered to, which gives it
//! back or settles it. So the queue keeps counts of what is out, not the messages.

use std::sync::{Arc, Weak};

use leveret_protocol::AmqpError;
use leveret_storage::{Entry, Gauge, Level, Op, Run};

use super::Queue;
use super::arguments::Settings;
use super::consumers::Consumers;
use super::effects::Effects;
use super::lifetimes::Lifetimes;
use super::paged::Paged;
use super::ready::Ready;
use crate::clock::Moment;
use crate::command::{
    ConfirmTo, ConnectionEvent, ConsumerKey, Delivery, NewConsumer, QueueCommand, Reply, Requester, Segment, Token,
};
use crate::methods;
use crate::paging::{self, Ranges};
use crate::vhost::command::TopologyCommand;
use crate::vhost::dead_letter::Reason;

pub struct QueueState {
    pub(super) queue: Weak<Queue>,
    /// Identity in storage.
    pub(super) id: u64,
    pub(super) name: Arc<str>,
    /// `queue 'name' in vhost '/'`, for error texts.
    described: Box<str>,
    pub(super) durable: bool,
    auto_delete: bool,
    pub(super) settings: Settings,
    pub(super) ready: Ready,
    pub(super) consumers: Consumers,
    pub(super) next_sequence: u64,
    pub(super) dead: bool,
    /// A defect ended it: whoever comes is told so, for its messages are in storage until the next start.
    failed: bool,
    pub(super) lifetimes: Lifetimes,
    /// Some message has a time to live.
    pub(super) timed: bool,
    /// Messages have come back to a queue that drops from its head: what is over its limits goes before anybody is
    /// offered any.
    returned: bool,
    /// When somebody last used the queue, for its lease.
    last_used: u64,
    /// The tick that is on its way.
    pub(super) armed: u64,
    /// What is under way between memory and storage.
    pub(super) paged: Paged,
}

/// What a queue is made from.
pub struct Origin<'a> {
    pub id: u64,
    pub name: Box<str>,
    pub vhost: Arc<str>,
    pub durable: bool,
    pub auto_delete: bool,
    pub settings: Settings,
    /// 1, or what recovery says.
    pub next_sequence: u64,
    /// Recovered messages, in order.
    pub messages: Box<dyn Iterator<Item = Segment> + 'a>,
    /// How the time to live has changed.
    pub lifetimes: Lifetimes,
    /// Milliseconds since the Unix epoch.
    pub now: u64,
}

impl QueueState {
    pub fn new(origin: Origin<'_>, queue: Weak<Queue>) -> QueueState {
        let settings = origin.settings;
        let mut state = QueueState {
            queue,
            id: origin.id,
            described: crate::names::queue(&origin.name, &origin.vhost).into(),
            name: origin.name.into(),
            durable: origin.durable,
            auto_delete: origin.auto_delete,
            ready: Ready::new(settings.max_priority.unwrap_or(0), settings.max_bytes.is_some()),
            consumers: Consumers::new(settings.single_active, settings.quorum),
            settings,
            next_sequence: origin.next_sequence,
            lifetimes: origin.lifetimes,
            dead: false,
            failed: false,
            timed: false,
            returned: false,
            last_used: origin.now,
            armed: Segment::NEVER,
            paged: Paged::default(),
        };
        for segment in origin.messages {
            state.recover(segment);
        }
        state
    }

    /// Applies one command. It is `now`.
    pub fn apply(&mut self, command: QueueCommand, now: &Moment<'_>, fx: &mut Effects) {
        if self.dead {
            return self.refuse(command, fx);
        }
        if self.in_step(&command) {
            self.deliver(now, fx);
        }
        match command {
            QueueCommand::Publish { run, persistent, expiration, confirm } => {
                self.publish(run, persistent, expiration, confirm, now, fx)
            }
            QueueCommand::Release(release) => fx.releases.push(release),
            QueueCommand::Settle { consumer, first, count, persistent, spilled } => {
                self.settled(consumer, count);
                if spilled || (self.durable && persistent) {
                    self.remove(first, count, fx);
                }
            }
            QueueCommand::Reject { consumer, segment } => {
                self.settled(consumer, segment.count());
                self.give_up(segment, Reason::Rejected, fx);
            }
            QueueCommand::Requeue { consumer, segment, seen } => {
                self.returned = self.drops_returned();
                self.settled(consumer, segment.count());
                self.put_back(segment, seen, fx);
            }
            QueueCommand::Consume(new) => self.consume(*new, fx),
            QueueCommand::Cancel { consumer, then } => self.cancel(consumer, then, now, fx),
            QueueCommand::Get { from, no_ack } => self.get(from, no_ack, now, fx),
            QueueCommand::Purge { from } => self.purge(from, fx),
            QueueCommand::Status { from, stored, .. } => self.status(from, stored, now, fx),
            QueueCommand::Delete { from, if_unused, if_empty } => self.delete(from, if_unused, if_empty, fx),
            QueueCommand::Configure(settings) => self.configure(*settings, now, fx),
            QueueCommand::Kill => self.die(fx),
            QueueCommand::Tick => {
                self.armed = Segment::NEVER;
                self.end_lease(now, fx);
            }
            QueueCommand::Tidy => fx.tidy = true,
            QueueCommand::Spill => self.paged.spilling = false,
            QueueCommand::Loaded { wanted, runs } => self.loaded(&wanted, &runs, now, fx),
            QueueCommand::NoteReturned => self.note_returned(fx),
            QueueCommand::Wake => self.consumers.wake(),
            QueueCommand::Sync { from, stored } => {
                if stored {
                    let token = Token::Reply { to: from, reply: Reply::Done };
                    fx.storage.push(Entry::Notify(Level::Written, token));
                } else {
                    fx.reply(&from, Reply::Done);
                }
            }
        }
    }

    /// True for a command that must find handed out, or given up, what came before it in its turn: what comes back over
    /// a limit pushes the head out before anybody is offered it, and what is published is offered first.
    fn in_step(&self, command: &QueueCommand) -> bool {
        match command {
            QueueCommand::Publish { .. } => self.returned,
            QueueCommand::Requeue { .. } => !self.returned && self.drops_returned(),
            _ => false,
        }
    }

    /// Hands ready messages to whoever has room, and gives up what has expired or is too much; called after the
    /// commands of a turn.
    pub fn deliver(&mut self, now: &Moment<'_>, fx: &mut Effects) {
        if self.returned {
            self.returned = !self.drop_surplus(fx);
        }
        self.expire(now, false, fx);
        // A segment at a time: room is taken for what is there, so that none of it has to be given back.
        while let Some(count) = self.ready.front().and_then(Segment::here).map(Run::count) {
            let Some((key, room)) = self.consumers.next(count) else { break };
            let Some(segment) = self.ready.take(room) else { break };
            self.hand_over(key, segment, fx);
            self.expire(now, false, fx);
        }
        if self.settings.quorum {
            self.expire(now, true, fx);
            self.drop_surplus(fx);
        } else {
            self.drop_surplus(fx);
            self.expire(now, true, fx);
        }
        self.arm(fx);
    }

    /// Frees blocks of which little is left alive.
    pub fn tidy(&mut self, gauge: &Arc<Gauge>) {
        crate::tidy::tidy(self.ready.iter_mut(), gauge);
    }

    fn hand_over(&mut self, key: ConsumerKey, segment: Segment, fx: &mut Effects) {
        let Some(consumer) = self.consumers.get_mut(key) else {
            return self.ready.put_back(segment);
        };
        consumer.sent(segment.count(), segment.bytes() as u32);
        let no_ack = consumer.no_ack;
        let (peer, channel) = (consumer.from.peer.clone(), consumer.from.channel);
        self.taken(&segment, no_ack, fx);
        fx.event(&peer, ConnectionEvent::Deliver(Delivery { channel, consumer: key, no_ack, segment }));
    }

    /// Bookkeeping of messages that leave the ready list for a consumer or a get.
    fn taken(&self, segment: &Segment, no_ack: bool, fx: &mut Effects) {
        if no_ack {
            self.forget(segment, fx);
        } else if self.durable && segment.persistent {
            fx.delivered(segment.last());
        }
    }

    /// Messages that are done leave storage.
    pub(super) fn forget(&self, segment: &Segment, fx: &mut Effects) {
        if segment.is_stored(self.durable) {
            self.remove(segment.first, segment.count(), fx);
        }
    }

    fn remove(&self, first: u64, count: u32, fx: &mut Effects) {
        fx.storage.push(Entry::Op(Op::Remove { queue: self.id, first, count: count.into() }));
    }

    /// What found its connection gone: deliveries are taken as if they had not been made, and a consumer whose
    /// registration nobody hears of will be cancelled by nobody either.
    pub fn undeliverable(&mut self, event: ConnectionEvent, now: &Moment<'_>, fx: &mut Effects) {
        let (segment, no_ack) = match event {
            ConnectionEvent::Deliver(Delivery { consumer, no_ack, segment, .. }) => {
                self.remove_consumer(consumer, now, fx);
                (segment, no_ack)
            }
            ConnectionEvent::Reply { reply: Reply::Got { segment, no_ack, .. }, .. } => (segment, no_ack),
            ConnectionEvent::Reply { reply: Reply::Consuming(consumer), .. } => {
                return self.remove_consumer(consumer, now, fx);
            }
            _ => return,
        };
        // Without acks it counted as done when it was handed over.
        if !no_ack && !self.dead {
            self.ready.put_back(segment);
        }
    }

    fn settled(&mut self, consumer: Option<ConsumerKey>, count: u32) {
        if let Some(key) = consumer {
            self.consumers.settled(key, count);
        }
    }

    fn consume(&mut self, mut new: NewConsumer, fx: &mut Effects) {
        // To a quorum queue it means nothing.
        new.exclusive &= !self.settings.quorum;
        let taken = self.consumers.count() > 0 || self.consumers.is_single_active();
        if self.consumers.has_exclusive() || (new.exclusive && taken) {
            let error = AmqpError::access_refused(format!("{} in exclusive use", self.described));
            return fx.reply(&new.from, Reply::Error(error));
        }
        if self.settings.quorum && new.limit.is_set() {
            let text = format!("{} does not support global qos", self.described);
            return fx.reply(&new.from, Reply::Error(AmqpError::not_implemented(text)));
        }
        let from = new.from.clone();
        let key = self.consumers.add(new);
        fx.reply(&from, Reply::Consuming(key));
    }

    fn cancel(&mut self, consumer: ConsumerKey, then: Option<(Requester, Reply)>, now: &Moment<'_>, fx: &mut Effects) {
        self.remove_consumer(consumer, now, fx);
        let Some((to, reply)) = then else { return };
        if self.dead {
            // The topology hears of the queue's end first, so that nobody finds it after this answer.
            self.relay(to, reply, fx);
        } else {
            fx.reply(&to, reply);
        }
    }

    fn remove_consumer(&mut self, consumer: ConsumerKey, now: &Moment<'_>, fx: &mut Effects) {
        if self.consumers.remove(consumer).is_none() || self.consumers.count() > 0 || self.dead {
            return;
        }
        self.last_used = now.millis();
        if self.auto_delete {
            self.end(None, fx);
        }
    }

    pub(super) fn get(&mut self, from: Requester, no_ack: bool, now: &Moment<'_>, fx: &mut Effects) {
        self.last_used = now.millis();
        if self.settings.quorum && self.consumers.is_single_active() {
            let text = format!(
                "cannot obtain access to locked {}. basic.get operations are not supported by quorum queues with \
                 single active consumer",
                self.described
            );
            return fx.reply(&from, Reply::Error(AmqpError::resource_locked(text)));
        }
        self.expire(now, false, fx);
        if self.ready.front().is_some_and(|front| front.here().is_none()) {
            return self.paged.gets.push_back((from, no_ack));
        }
        let (Some(segment), Some(queue)) = (self.ready.take(1), self.queue.upgrade()) else {
            return fx.reply(&from, Reply::GetEmpty);
        };
        self.taken(&segment, no_ack, fx);
        // What was behind it and has expired is not left.
        self.expire(now, true, fx);
        fx.reply(&from, Reply::Got { queue, segment, left: clamp(self.ready.len()), no_ack });
    }

    fn purge(&mut self, from: Requester, fx: &mut Effects) {
        let reply = Reply::Method(Box::new(methods::purge_ok(clamp(self.ready.len()))));
        let durable = self.durable;
        let stored = self.ready.drain().filter(|segment| segment.is_stored(durable));
        let mut stored: Ranges = stored.map(|segment| (segment.first, segment.count())).collect();
        // Where levels have lain in each other's gaps, what goes is often a few ranges in all.
        stored.sort_unstable();
        let mut removed = Ranges::new();
        stored.into_iter().for_each(|(first, count)| paging::append(&mut removed, first, count));
        for (first, count) in removed {
            self.remove(first, count, fx);
        }
        if self.durable {
            fx.storage.push(Entry::Notify(Level::Removed, Token::Reply { to: from, reply }));
        } else {
            fx.reply(&from, reply);
        }
    }

    fn status(&mut self, from: Requester, stored: bool, now: &Moment<'_>, fx: &mut Effects) {
        self.last_used = now.millis();
        let queue = (&*self.name).into();
        let (messages, consumers) = (clamp(self.ready.len()), self.consumers.count());
        let reply = Reply::Declared { queue, messages, consumers };
        if stored && self.durable {
            fx.storage.push(Entry::Notify(Level::Synced, Token::Reply { to: from, reply }));
        } else {
            fx.reply(&from, reply);
        }
    }

    fn delete(&mut self, from: Requester, if_unused: bool, if_empty: bool, fx: &mut Effects) {
        let error = if self.settings.quorum && (if_unused || if_empty) {
            let flag = if if_unused { "if-unused" } else { "if-empty" };
            AmqpError::not_implemented(format!(
                "cannot delete {}. queue.delete operations with {flag} flag set are not supported by quorum queues",
                self.described
            ))
        } else if if_empty && !self.ready.is_empty() {
            AmqpError::precondition_failed(format!("{} not empty", self.described))
        } else if if_unused && self.consumers.count() > 0 {
            AmqpError::precondition_failed(format!("{} in use", self.described))
        } else {
            let reply = Reply::Method(Box::new(methods::delete_ok(clamp(self.ready.len()))));
            return self.end(Some((from, reply)), fx);
        };
        fx.reply(&from, Reply::Error(error));
    }

    /// Other settings, by a policy. What is over a new limit goes at the end of the turn; messages that are here keep
    /// the deadlines they have.
    fn configure(&mut self, settings: Settings, now: &Moment<'_>, fx: &mut Effects) {
        if settings.expires != self.settings.expires {
            self.last_used = now.millis();
        }
        let ttls = (self.settings.message_ttl, settings.message_ttl);
        if self.durable && ttls.0 != ttls.1 {
            self.lifetimes.change(self.next_sequence, ttls);
            fx.storage.push(Entry::Op(self.lifetimes.put(self.id)));
        }
        if settings.max_bytes.is_some() != self.settings.max_bytes.is_some() {
            self.ready.count_bytes(settings.max_bytes.is_some());
        }
        if let Some(queue) = self.queue.upgrade() {
            queue.configured(&settings);
        }
        self.settings = settings;
    }

    /// Nobody has used the queue for as long as its lease says.
    fn end_lease(&mut self, now: &Moment<'_>, fx: &mut Effects) {
        if self.lease_ends().is_some_and(|end| now.millis() >= end) {
            self.end(None, fx);
        }
    }

    /// When the queue ends, unless it is used before.
    pub(super) fn lease_ends(&self) -> Option<u64> {
        let expires = self.settings.expires.filter(|_| self.consumers.count() == 0)?;
        Some(self.last_used + expires)
    }

    /// The queue ends by itself: the topology is told, and answers.
    fn end(&mut self, then: Option<(Requester, Reply)>, fx: &mut Effects) {
        self.die(fx);
        fx.topology.push(TopologyCommand::QueueDead { name: (&*self.name).into(), id: self.id, then });
    }

    /// Messages are dropped, consumers told.
    fn die(&mut self, fx: &mut Effects) {
        self.give_out(fx);
        if self.durable || self.paged.spilled {
            fx.storage.push(Entry::Op(Op::DropQueue { queue: self.id }));
            fx.storage.extend(self.lifetimes.delete(self.id).map(Entry::Op));
        }
    }

    /// Ends the queue after a defect in it: what is stored stays in storage for the next start.
    pub fn fail(&mut self, fx: &mut Effects) {
        self.failed = true;
        self.give_out(fx);
    }

    fn give_out(&mut self, fx: &mut Effects) {
        self.dead = true;
        drop(self.ready.drain());
        for (from, _) in std::mem::take(&mut self.paged.gets) {
            fx.reply(&from, self.not_found());
        }
        for consumer in self.consumers.drain() {
            let event = ConnectionEvent::ConsumerGone { channel: consumer.from.channel, consumer: consumer.key };
            fx.event(&consumer.from.peer, event);
        }
    }

    /// Commands for a queue that is gone: answered as if it had never been, confirmed, or dropped.
    fn refuse(&mut self, command: QueueCommand, fx: &mut Effects) {
        let down = || {
            let text = format!("{} has failed and is down until the broker starts again", self.described);
            Reply::Error(AmqpError::internal_error(text))
        };
        match command {
            QueueCommand::Publish { run, confirm: Some(ConfirmTo { to, first }), .. } if self.failed => {
                let (channel, count) = (to.channel, run.count());
                fx.event(&to.peer, ConnectionEvent::Confirm { channel, first, count, refused: true });
            }
            QueueCommand::Status { from, .. } | QueueCommand::Delete { from, .. } if self.failed => {
                fx.reply(&from, down());
            }
            QueueCommand::Publish { run, persistent, confirm: Some(to), .. } => {
                self.confirm(to, run.count(), persistent, fx)
            }
            QueueCommand::Consume(new) => fx.reply(&new.from, self.not_found()),
            QueueCommand::Get { from, .. } | QueueCommand::Purge { from } => fx.reply(&from, self.not_found()),
            QueueCommand::Status { again, .. } => fx.topology.push(*again),
            QueueCommand::Delete { from, .. } => {
                let reply = Reply::Method(Box::new(methods::delete_ok(0)));
                self.relay(from, reply, fx);
            }
            QueueCommand::Cancel { then: Some((to, reply)), .. } => self.relay(to, reply, fx),
            QueueCommand::Sync { from, .. } => self.relay(from, Reply::Done, fx),
            QueueCommand::Release(release) => fx.releases.push(release),
            QueueCommand::Publish { confirm: None, .. }
            | QueueCommand::Settle { .. }
            | QueueCommand::Reject { .. }
            | QueueCommand::Requeue { .. }
            | QueueCommand::Cancel { then: None, .. }
            | QueueCommand::Configure(_)
            | QueueCommand::Kill
            | QueueCommand::Tick
            | QueueCommand::Tidy
            | QueueCommand::Spill
            | QueueCommand::Loaded { .. }
            | QueueCommand::NoteReturned
            | QueueCommand::Wake => {}
        }
    }

    /// An answer that goes behind the news of the queue's end.
    fn relay(&self, to: Requester, reply: Reply, fx: &mut Effects) {
        fx.topology.push(TopologyCommand::Relay { to, reply, stored: self.durable });
    }

    fn not_found(&self) -> Reply {
        Reply::Error(AmqpError::not_found(format!("no {}", self.described)))
    }
}

/// Counts on the wire have 32 bits.
fn clamp(count: u64) -> u32 {
    count.min(u64::from(u32::MAX)) as u32
}
