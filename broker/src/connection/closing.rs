//! How channels and connections end: what they hold goes back to its queues first, then the client is told.

use std::sync::Arc;

use leveret_protocol::AmqpError;

use super::channel::{Channel, State, Wait};
use super::{Connection, FATAL_LINGER, Phase};
use crate::command::{ConnectionEvent, Delivery, QueueCommand, Reply, Requester};
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
        if let State::Waiting(request) = &channel.state
            && let Wait::Consume { queue, .. } = &request.wait
        {
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

    /// An answer for a channel that is on its way out.
    pub(super) fn reply_while_releasing(&mut self, key: crate::command::ChannelKey, reply: Reply) {
        if !matches!(reply, Reply::Done) {
            return;
        }
        let Some(channel) = self.channels.get_key(key) else {
            return;
        };
        if let State::Releasing { left, .. } = &mut channel.state {
            *left = left.saturating_sub(1);
            if *left == 0 {
                self.channel_released(key.number);
            }
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
            tracing::warn!(user = &*self.user, "connection error: {}", error.reply_text());
        }
        self.emit_confirms();
        self.phase = Phase::Releasing { left: 0, topology_asked: false, error };
        let from = self.as_requester();
        let numbers: Vec<u16> = self.channels.iter_mut().map(|channel| channel.key.number).collect();
        let mut total = 0;
        for number in numbers {
            total += self.release(number, &from);
            if let Some(channel) = self.channels.get(number) {
                channel.state = State::Closed;
            }
        }
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
            ConnectionEvent::Deliver(Delivery { consumer, segment, .. }) => {
                if let Some(record) = self.consumers.get(&consumer.serial)
                    && !record.no_ack
                {
                    record.queue.push(QueueCommand::Requeue { consumer: Some(consumer), segment, seen: false });
                }
            }
            ConnectionEvent::Reply { reply: Reply::Got { queue, segment, no_ack: false, .. }, .. } => {
                queue.push(QueueCommand::Requeue { consumer: None, segment, seen: false });
            }
            ConnectionEvent::Reply { channel, reply: Reply::Consuming(consumer) } => {
                if let Some(Channel { state: State::Waiting(request), .. }) = self.channels.get_key(channel)
                    && let Wait::Consume { queue, .. } = &request.wait
                {
                    queue.push(QueueCommand::Cancel { consumer, then: None });
                }
            }
            _ => {}
        }
    }
}

/// Whatever way the task ends, by panic too, nothing stays with it.
impl Drop for Connection {
    fn drop(&mut self) {
        let left = self.peer.mailbox.close();
        for event in std::mem::take(&mut self.inbox).into_iter().chain(left) {
            self.return_event(event);
        }
        let from = self.as_requester();
        let numbers: Vec<u16> = self.channels.iter_mut().map(|channel| channel.key.number).collect();
        for number in numbers {
            // The answers find a closed mailbox.
            self.release(number, &from);
        }
        self.vhost.push(TopologyCommand::ConnectionGone { id: self.peer.id, from: None });
    }
}
