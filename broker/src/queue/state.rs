//! The rules of a queue: commands in, effects out. Synchronous; knows no task, socket or disk.
//!
//! A message is at any moment in one place: ready here, or unacked at the channel it was delivered to, which gives it
//! back or settles it. So the queue keeps counts of what is out, not the messages.

use std::sync::{Arc, Weak};

use leveret_protocol::AmqpError;
use leveret_storage::{Entry, Level, Op, Run};

use super::Queue;
use super::consumers::Consumers;
use super::ready::Ready;
use crate::command::{
    ConfirmTo, ConnectionEvent, ConsumerKey, Delivery, NewConsumer, Peer, QueueCommand, Reply,
    Requester, Segment, Token,
};
use crate::vhost::command::TopologyCommand;

/// What follows from a turn. Handed out in the order of the fields.
#[derive(Default)]
pub struct Effects {
    /// The highest persistent message that is delivered in this turn.
    pub delivered_through: Option<u64>,
    pub storage: Vec<Entry<Token>>,
    pub events: Vec<(Arc<Peer>, Vec<ConnectionEvent>)>,
    pub topology: Vec<TopologyCommand>,
}

impl Effects {
    pub fn event(&mut self, peer: &Arc<Peer>, event: ConnectionEvent) {
        match self
            .events
            .iter_mut()
            .find(|(other, _)| Arc::ptr_eq(other, peer))
        {
            Some((_, events)) => events.push(event),
            None => self.events.push((peer.clone(), vec![event])),
        }
    }

    pub fn reply(&mut self, to: &Requester, reply: Reply) {
        self.event(
            &to.peer,
            ConnectionEvent::Reply {
                channel: to.channel,
                reply,
            },
        );
    }

    /// A persistent message up to `sequence` is handed out.
    fn delivered(&mut self, sequence: u64) {
        self.delivered_through = self.delivered_through.max(Some(sequence));
    }
}

pub struct QueueState {
    pub queue: Weak<Queue>,
    /// Identity in storage.
    id: u64,
    name: Box<str>,
    /// ` 'name' in vhost '/'`, for error texts.
    described: Box<str>,
    durable: bool,
    auto_delete: bool,
    ready: Ready,
    consumers: Consumers,
    next_sequence: u64,
    dead: bool,
}

/// What a queue is made from.
pub struct Origin {
    pub id: u64,
    pub name: Box<str>,
    pub vhost: Arc<str>,
    pub durable: bool,
    pub auto_delete: bool,
    /// 1, or what recovery says.
    pub next_sequence: u64,
    /// Recovered messages, in order.
    pub messages: Vec<Segment>,
}

impl QueueState {
    pub fn new(origin: Origin, queue: Weak<Queue>) -> QueueState {
        let mut ready = Ready::default();
        for segment in origin.messages {
            ready.push(segment);
        }
        QueueState {
            queue,
            id: origin.id,
            described: crate::names::queue(&origin.name, &origin.vhost).into(),
            name: origin.name,
            durable: origin.durable,
            auto_delete: origin.auto_delete,
            ready,
            consumers: Consumers::default(),
            next_sequence: origin.next_sequence,
            dead: false,
        }
    }

    pub fn apply(&mut self, command: QueueCommand, fx: &mut Effects) {
        if self.dead {
            return self.refuse(command, fx);
        }
        match command {
            QueueCommand::Publish {
                run,
                persistent,
                confirm,
            } => self.publish(run, persistent, confirm, fx),
            QueueCommand::Settle {
                consumer,
                first,
                count,
                persistent,
            } => self.settle(consumer, first, count, persistent, fx),
            QueueCommand::Requeue { consumer, segment } => self.requeue(consumer, segment),
            QueueCommand::Consume(new) => self.consume(*new, fx),
            QueueCommand::Cancel { consumer, then } => self.cancel(consumer, then, fx),
            QueueCommand::Get { from, no_ack } => self.get(&from, no_ack, fx),
            QueueCommand::Purge { from } => self.purge(from, fx),
            QueueCommand::Status { from, stored, .. } => {
                let reply = self.counts();
                if stored && self.durable {
                    fx.storage.push(Entry::Notify(
                        Level::Synced,
                        Token::Reply { to: from, reply },
                    ));
                } else {
                    fx.reply(&from, reply);
                }
            }
            QueueCommand::Delete {
                from,
                if_unused,
                if_empty,
            } => self.delete(from, if_unused, if_empty, fx),
            QueueCommand::Kill => self.die(fx),
            QueueCommand::Wake => self.consumers.wake(),
            QueueCommand::Sync { from, stored } => {
                if stored {
                    fx.storage.push(Entry::Notify(
                        Level::Written,
                        Token::Reply {
                            to: from,
                            reply: Reply::Done,
                        },
                    ));
                } else {
                    fx.reply(&from, Reply::Done);
                }
            }
        }
    }

    /// Hands ready messages to whoever has room; called once after the commands of a turn.
    pub fn deliver(&mut self, fx: &mut Effects) {
        while !self.ready.is_empty() {
            let Some((key, room)) = self.consumers.next(self.ready.len()) else {
                return;
            };
            let Some(segment) = self.ready.take(room) else {
                return;
            };
            let count = segment.count();
            self.consumers.give_back(key, room - count);
            self.hand_over(key, segment, fx);
        }
    }

    fn hand_over(&mut self, key: ConsumerKey, segment: Segment, fx: &mut Effects) {
        let Some(consumer) = self.consumers.get_mut(key) else {
            return self.ready.put_back(segment);
        };
        let bytes = (segment.run.from..segment.run.to)
            .map(|i| segment.run.block.len_of(i))
            .sum();
        consumer.sent(segment.count(), bytes);
        let no_ack = consumer.no_ack;
        let (peer, channel) = (consumer.from.peer.clone(), consumer.from.channel);
        self.taken(&segment, no_ack, fx);
        fx.event(
            &peer,
            ConnectionEvent::Deliver(Delivery {
                channel,
                consumer: key,
                no_ack,
                segment,
            }),
        );
    }

    /// Bookkeeping of messages that leave the ready list for a consumer or a get.
    fn taken(&self, segment: &Segment, no_ack: bool, fx: &mut Effects) {
        if !(self.durable && segment.persistent) {
            return;
        }
        if no_ack {
            let count = u64::from(segment.count());
            fx.storage.push(Entry::Op(Op::Remove {
                queue: self.id,
                first: segment.first,
                count,
            }));
        } else {
            fx.delivered(segment.last());
        }
    }

    /// What found its connection gone: deliveries are taken as if they had not been made, and a consumer whose
    /// registration nobody hears of will be cancelled by nobody either.
    pub fn undeliverable(&mut self, event: ConnectionEvent, fx: &mut Effects) {
        let (segment, no_ack) = match event {
            ConnectionEvent::Deliver(Delivery {
                consumer,
                no_ack,
                segment,
                ..
            }) => {
                self.remove_consumer(consumer, fx);
                (segment, no_ack)
            }
            ConnectionEvent::Reply {
                reply: Reply::Got {
                    segment, no_ack, ..
                },
                ..
            } => (segment, no_ack),
            ConnectionEvent::Reply {
                reply: Reply::Consuming(consumer),
                ..
            } => return self.remove_consumer(consumer, fx),
            _ => return,
        };
        // Without acks it counted as done when it was handed over.
        if !no_ack && !self.dead {
            self.ready.put_back(segment);
        }
    }

    fn publish(
        &mut self,
        run: Run,
        persistent: bool,
        confirm: Option<ConfirmTo>,
        fx: &mut Effects,
    ) {
        let (first, count) = (self.next_sequence, run.count());
        self.next_sequence += u64::from(count);
        if self.durable && persistent {
            fx.storage.push(Entry::Op(Op::Insert {
                queue: self.id,
                first,
                run: run.clone(),
            }));
        }
        if let Some(to) = confirm {
            self.confirm(to, count, persistent, fx);
        }
        self.ready.push(Segment {
            first,
            run,
            persistent,
            redelivered: false,
        });
    }

    fn confirm(&self, to: ConfirmTo, count: u32, persistent: bool, fx: &mut Effects) {
        if self.durable && persistent && !self.dead {
            fx.storage
                .push(Entry::Notify(Level::Synced, Token::Confirm { to, count }));
        } else {
            let event = ConnectionEvent::Confirm {
                channel: to.to.channel,
                first: to.first,
                count,
            };
            fx.event(&to.to.peer, event);
        }
    }

    fn settle(
        &mut self,
        consumer: Option<ConsumerKey>,
        first: u64,
        count: u32,
        persistent: bool,
        fx: &mut Effects,
    ) {
        if let Some(key) = consumer {
            self.consumers.settled(key, count);
        }
        if self.durable && persistent {
            fx.storage.push(Entry::Op(Op::Remove {
                queue: self.id,
                first,
                count: u64::from(count),
            }));
        }
    }

    fn requeue(&mut self, consumer: Option<ConsumerKey>, segment: Segment) {
        if let Some(key) = consumer {
            self.consumers.settled(key, segment.count());
        }
        self.ready.put_back(segment);
    }

    fn consume(&mut self, new: NewConsumer, fx: &mut Effects) {
        if self.consumers.has_exclusive() || (new.exclusive && self.consumers.count() > 0) {
            let error = AmqpError::access_refused(format!("{} in exclusive use", self.described));
            return fx.reply(&new.from, Reply::Error(error));
        }
        let from = new.from.clone();
        let key = self.consumers.add(new);
        fx.reply(&from, Reply::Consuming(key));
    }

    fn cancel(
        &mut self,
        consumer: ConsumerKey,
        then: Option<(Requester, Reply)>,
        fx: &mut Effects,
    ) {
        self.remove_consumer(consumer, fx);
        let Some((to, reply)) = then else { return };
        if self.dead {
            // The topology hears of the queue's end first, so that nobody finds it after this answer.
            fx.topology.push(TopologyCommand::Relay { to, reply });
        } else {
            fx.reply(&to, reply);
        }
    }

    fn remove_consumer(&mut self, consumer: ConsumerKey, fx: &mut Effects) {
        if self.consumers.remove(consumer).is_some()
            && self.auto_delete
            && self.consumers.count() == 0
            && !self.dead
        {
            self.die(fx);
            fx.topology.push(TopologyCommand::QueueDead {
                name: self.name.clone(),
                id: self.id,
                then: None,
            });
        }
    }

    fn get(&mut self, from: &Requester, no_ack: bool, fx: &mut Effects) {
        let (Some(segment), Some(queue)) = (self.ready.take(1), self.queue.upgrade()) else {
            return fx.reply(from, Reply::GetEmpty);
        };
        self.taken(&segment, no_ack, fx);
        fx.reply(
            from,
            Reply::Got {
                queue,
                segment,
                left: clamp(self.ready.len()),
                no_ack,
            },
        );
    }

    fn purge(&mut self, from: Requester, fx: &mut Effects) {
        let reply = Reply::Method(Box::new(crate::methods::purge_ok(clamp(self.ready.len()))));
        let mut stored = false;
        for segment in self.ready.drain().filter(|s| s.persistent && self.durable) {
            let count = u64::from(segment.count());
            fx.storage.push(Entry::Op(Op::Remove {
                queue: self.id,
                first: segment.first,
                count,
            }));
            stored = true;
        }
        if stored {
            fx.storage.push(Entry::Notify(
                Level::Synced,
                Token::Reply { to: from, reply },
            ));
        } else {
            fx.reply(&from, reply);
        }
    }

    fn delete(&mut self, from: Requester, if_unused: bool, if_empty: bool, fx: &mut Effects) {
        let why = if if_empty && !self.ready.is_empty() {
            "not empty"
        } else if if_unused && self.consumers.count() > 0 {
            "in use"
        } else {
            let reply = Reply::Method(Box::new(crate::methods::delete_ok(clamp(self.ready.len()))));
            self.die(fx);
            let then = Some((from, reply));
            return fx.topology.push(TopologyCommand::QueueDead {
                name: self.name.clone(),
                id: self.id,
                then,
            });
        };
        let error = AmqpError::precondition_failed(format!("{} {why}", self.described));
        fx.reply(&from, Reply::Error(error));
    }

    /// The queue ends: messages are dropped, consumers told.
    fn die(&mut self, fx: &mut Effects) {
        self.dead = true;
        drop(self.ready.drain());
        for consumer in self.consumers.drain() {
            let event = ConnectionEvent::ConsumerGone {
                channel: consumer.from.channel,
                consumer: consumer.key,
            };
            fx.event(&consumer.from.peer, event);
        }
        if self.durable {
            fx.storage.push(Entry::Op(Op::DropQueue { queue: self.id }));
        }
    }

    /// Ends the queue after a defect in it: stored messages stay in storage for the next start.
    pub fn give_up(&mut self, fx: &mut Effects) {
        self.dead = true;
        drop(self.ready.drain());
        for consumer in self.consumers.drain() {
            let event = ConnectionEvent::ConsumerGone {
                channel: consumer.from.channel,
                consumer: consumer.key,
            };
            fx.event(&consumer.from.peer, event);
        }
    }

    /// Commands for a queue that is gone: answered as if it had never been, confirmed, or dropped.
    fn refuse(&mut self, command: QueueCommand, fx: &mut Effects) {
        match command {
            QueueCommand::Publish {
                run,
                persistent,
                confirm: Some(to),
            } => self.confirm(to, run.count(), persistent, fx),
            QueueCommand::Consume(new) => fx.reply(&new.from, self.not_found()),
            QueueCommand::Get { from, .. } | QueueCommand::Purge { from } => {
                fx.reply(&from, self.not_found())
            }
            QueueCommand::Status { again, .. } => fx.topology.push(*again),
            QueueCommand::Delete { from, .. } => {
                let reply = Reply::Method(Box::new(crate::methods::delete_ok(0)));
                fx.topology.push(TopologyCommand::Relay { to: from, reply });
            }
            QueueCommand::Cancel {
                then: Some((to, reply)),
                ..
            } => fx.topology.push(TopologyCommand::Relay { to, reply }),
            QueueCommand::Sync {
                from,
                stored: false,
            } => fx.topology.push(TopologyCommand::Relay {
                to: from,
                reply: Reply::Done,
            }),
            QueueCommand::Sync { from, stored: true } => {
                fx.storage.push(Entry::Notify(
                    Level::Written,
                    Token::Reply {
                        to: from,
                        reply: Reply::Done,
                    },
                ));
            }
            QueueCommand::Publish { confirm: None, .. }
            | QueueCommand::Settle { .. }
            | QueueCommand::Requeue { .. }
            | QueueCommand::Cancel { then: None, .. }
            | QueueCommand::Kill
            | QueueCommand::Wake => {}
        }
    }

    fn not_found(&self) -> Reply {
        Reply::Error(AmqpError::not_found(format!("no {}", self.described)))
    }

    fn counts(&self) -> Reply {
        Reply::Declared {
            queue: self.name.clone(),
            messages: clamp(self.ready.len()),
            consumers: self.consumers.count(),
        }
    }
}

/// Counts on the wire have 32 bits.
fn clamp(count: u64) -> u32 {
    count.min(u64::from(u32::MAX)) as u32
}
