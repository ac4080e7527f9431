//! How channels and connections end: what they hold goes back to its queues first, then the client is told.

use std::sync::Arc;

use leveret_protocol::AmqpError;

use super::channel::{State, Wait};
use super::{Connection, Consumer, FATAL_LINGER, Phase};
use crate::command::{ChannelKey, ConnectionEvent, ConsumerKey, QueueCommand, Reply, Requester};
use crate::methods;
use crate::queue::Queue;
use crate::vhost::command::TopologyCommand;

/// Longest wait for a client's close-ok, or for it to close the socket.
const CLOSE_LIMIT: u64 = 30;

impl Connection {
    // Channels

    /// `channel.close` from the client: close-ok follows when everything is back.
    pub(super) fn client_closes_channel(&mut self, number: u16) {
        self.release_channel_for(number, None);
    }

    /// The broker closes a channel.
    pub(super) fn close_channel(&mut self, number: u16, error: AmqpError) {
        tracing::warn!(channel = number, "channel error: {}", error.reply_text());
        self.release_channel_for(number, Some(error));
    }

    fn release_channel_for(&mut self, number: u16, error: Option<AmqpError>) {
        let Some(key) = self.channels.get(number).map(|channel| channel.key) else {
            return;
        };
        let from = self.requester(key);
        let left = self.release(number, &from);
        if let Some(channel) = self.channels.get(number) {
            channel.state = State::Releasing { left, error };
        }
        if left == 0 {
            self.channel_released(number);
        }
    }

    /// Gives everything that a channel holds back to its queues and says how many of them will answer.
    fn release(&mut self, number: u16, from: &Requester) -> u32 {
        let Some(channel) = self.channels.get(number) else {
            return 0;
        };
        let mut queues: Vec<(Arc<Queue>, bool)> = Vec::new();
        let mut touch = |queue: &Arc<Queue>, stored: bool| match queues.iter_mut().find(|(q, _)| Arc::ptr_eq(q, queue))
        {
            Some((_, other)) => *other |= stored,
            None => queues.push((queue.clone(), stored)),
        };
        for queue in std::mem::take(&mut channel.unstored) {
            touch(&queue, true);
        }
        channel.confirms = None;
        channel.replies = None;
        if let Some(transaction) = channel.transaction.take() {
            channel.unacked.restore(transaction.undo());
        }
        channel.limit.set(0);
        channel.assembler = Default::default();
        channel.incomplete = Default::default();
        channel.stop_waiting();
        if let Some(Wait::Consume { queue, .. } | Wait::Get { queue, .. }) = &channel.late {
            touch(queue, false);
        }
        let unacked = channel.unacked.take_all();
        for serial in channel.tags.values() {
            if let Some(consumer) = self.consumers.get(serial) {
                touch(&consumer.queue, false);
                let command = QueueCommand::Cancel { consumer: consumer.key, then: None };
                self.outbox.push(&consumer.queue, command);
            }
        }
        for outstanding in unacked {
            touch(&outstanding.queue, false);
            let (consumer, segment) = (outstanding.consumer, outstanding.segment);
            self.outbox.push(&outstanding.queue, QueueCommand::Requeue { consumer, segment, seen: true });
        }
        let left = queues.len() as u32;
        for (queue, stored) in queues {
            self.outbox.push(&queue, QueueCommand::Sync { from: from.clone(), stored });
        }
        self.flush();
        left
    }

    /// The same for all channels. The consumers of all go first: none of them gets what another channel gives back.
    fn release_all(&mut self, from: &Requester) -> u32 {
        let mut numbers = Vec::new();
        for channel in self.channels.iter_mut() {
            numbers.push(channel.key.number);
            for consumer in channel.tags.values().filter_map(|serial| self.consumers.get(serial)) {
                let command = QueueCommand::Cancel { consumer: consumer.key, then: None };
                self.outbox.push(&consumer.queue, command);
            }
        }
        self.flush();
        let mut left = 0;
        for number in numbers {
            left += self.release(number, from);
            if let Some(channel) = self.channels.get(number) {
                channel.state = State::Closed;
            }
        }
        left
    }

    /// An answer for a channel that is on its way out.
    pub(super) fn answered_late(&mut self, key: ChannelKey, reply: Reply) {
        match reply {
            Reply::Done => {
                if let Some(State::Releasing { left, .. }) = self.channels.get_key(key).map(|c| &mut c.state) {
                    *left = left.saturating_sub(1);
                    if *left == 0 {
                        self.channel_released(key.number);
                    }
                }
            }
            Reply::Consuming(consumer) => {
                if let Some(queue) = self.register_late(key, consumer) {
                    self.undo(key, &queue, QueueCommand::Cancel { consumer, then: None });
                }
            }
            Reply::Got { queue, segment, no_ack: false, .. } => {
                self.undo(key, &queue, QueueCommand::Requeue { consumer: None, segment, seen: false });
            }
            _ => {}
        }
    }

    /// Makes the deliveries of a consumer that is registered too late find their way back. Returns its queue.
    fn register_late(&mut self, key: ChannelKey, consumer: ConsumerKey) -> Option<Arc<Queue>> {
        let Some(Wait::Consume { tag, queue, window }) = self.channels.get_key(key)?.late.take() else {
            return None;
        };
        let record = Consumer { channel: key, key: consumer, queue: queue.clone(), tag, window };
        self.consumers.insert(consumer.serial, record);
        Some(queue)
    }

    /// Tells a queue to undo something; the end of the channel or connection that is under way waits for it.
    fn undo(&mut self, key: ChannelKey, queue: &Arc<Queue>, command: QueueCommand) {
        let (of_channel, of_connection) = (self.requester(key), self.as_requester());
        let state = self.channels.get_key(key).map(|channel| &mut channel.state);
        let from = match (state, &mut self.phase) {
            (Some(State::Releasing { left, .. }), _) => {
                *left += 1;
                Some(of_channel)
            }
            (_, Phase::Releasing { left, .. }) => {
                *left += 1;
                Some(of_connection)
            }
            _ => None,
        };
        self.outbox.push(queue, command);
        if let Some(from) = from {
            self.outbox.push(queue, QueueCommand::Sync { from, stored: false });
        }
    }

    /// Its queues have everything back: the client hears of the end.
    fn channel_released(&mut self, number: u16) {
        let Some(channel) = self.channels.get(number) else {
            return;
        };
        let key = channel.key;
        let State::Releasing { error, .. } = std::mem::replace(&mut channel.state, State::Closed) else {
            return;
        };
        self.consumers.retain(|_, consumer| consumer.channel != key);
        // What the client has sent on is looked at next: behind its own close the number may be in use again, and
        // behind the broker's there may be the client's.
        let deferred = match error {
            Some(error) => {
                self.send(number, &methods::channel_close(&error));
                self.channels.get(number).map(|channel| std::mem::take(&mut channel.deferred))
            }
            None => {
                self.send(number, &methods::channel_close_ok());
                self.channels.remove(number).map(|channel| channel.deferred)
            }
        };
        let deferred = deferred.unwrap_or_default();
        self.deferred -= deferred.len();
        self.unread |= !deferred.is_empty();
        self.first.extend_from_slice(&deferred);
    }

    // The connection

    /// Ends the connection: at the client's wish, or with the broker's reason.
    pub(super) fn close(&mut self, error: Option<AmqpError>) {
        if !matches!(self.phase, Phase::Running) {
            return;
        }
        if let Some(error) = &error {
            tracing::warn!(user = self.rights.user(), "connection error: {}", error.reply_text());
        }
        self.emit_confirms();
        self.phase = Phase::Releasing { left: 0, topology_asked: false, error };
        let from = self.as_requester();
        let total = self.release_all(&from);
        if let Phase::Releasing { left, .. } = &mut self.phase {
            *left = total;
        }
        if total == 0 {
            self.all_released();
        }
    }

    /// One of those asked on closing has answered.
    pub(super) fn released_one(&mut self) {
        if let Phase::Releasing { left, .. } = &mut self.phase {
            *left = left.saturating_sub(1);
            if *left == 0 {
                self.all_released();
            }
        }
    }

    fn all_released(&mut self) {
        let Phase::Releasing { left, topology_asked, error } = &mut self.phase else {
            return;
        };
        if !std::mem::replace(topology_asked, true) {
            *left = 1;
            let id = self.peer.id;
            let from = Some(self.as_requester());
            return self.vhost.push(TopologyCommand::ConnectionGone { id, from });
        }
        let error = error.take();
        let now = self.shared.clock.now();
        let limit = match u64::from(self.heartbeat_seconds) {
            0 => CLOSE_LIMIT,
            seconds => seconds.min(CLOSE_LIMIT),
        };
        let mut deadline = now + std::time::Duration::from_secs(limit);
        match error {
            None => {
                self.phase = Phase::AwaitingEnd;
                self.send(0, &methods::connection_close_ok());
            }
            Some(error) => {
                self.send(0, &methods::connection_close(&error));
                if error.fatal {
                    deadline = now + FATAL_LINGER;
                    self.phase = Phase::Fatal;
                } else {
                    self.phase = Phase::AwaitingCloseOk;
                }
            }
        }
        self.deadline = Some(deadline);
    }

    /// What a sent-off delivery or answer held goes back, when nobody is left to hear it.
    fn return_event(&mut self, event: ConnectionEvent) {
        match event {
            ConnectionEvent::Deliver(delivery) => self.give_back(delivery),
            ConnectionEvent::Reply { channel: key, reply } => {
                if let Some(channel) = self.channels.get_key(key) {
                    channel.stop_waiting();
                }
                self.answered_late(key, reply);
            }
            _ => {}
        }
    }
}

/// Whatever way the task ends, by panic too, nothing stays with it.
impl Drop for Connection {
    fn drop(&mut self) {
        self.take_socket_back();
        let left = self.peer.mailbox.close();
        for event in std::mem::take(&mut self.inbox).into_iter().chain(left) {
            self.return_event(event);
        }
        self.flush();
        let from = self.as_requester();
        // The answers find a closed mailbox.
        self.release_all(&from);
        self.vhost.push(TopologyCommand::ConnectionGone { id: self.peer.id, from: None });
    }
}
