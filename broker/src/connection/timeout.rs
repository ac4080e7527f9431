//! Deliveries that wait too long for their acknowledgement (RabbitMQ's consumer timeout; off unless configured).
//!
//! There is no timer for a delivery: while a connection has outstanding ones, it looks once in an interval at the
//! oldest of each channel, as RabbitMQ does.

use std::time::Duration;

use leveret_protocol::AmqpError;

use super::Connection;

impl Connection {
    /// A delivery is made that wants an acknowledgement: answers when, and sees to it that it is looked at.
    pub(super) fn delivering(&mut self) -> Duration {
        let clock = &self.shared.clock;
        let now = *self.moment.get_or_insert_with(|| clock.now());
        self.watch(now);
        now
    }

    /// There are outstanding deliveries: sees to it that they are looked at.
    pub(super) fn watch(&mut self, now: Duration) {
        let interval = self.tick_interval();
        self.next_tick.get_or_insert(now + interval);
    }

    /// Closes the channels whose oldest delivery has waited too long. Not while the client is `blocked`: what it has
    /// acknowledged may not have been read.
    pub(super) fn look_at_outstanding(&mut self, now: Duration, blocked: bool) {
        let server = self.shared.config.consumer_timeout;
        let (mut late, mut outstanding) = (Vec::new(), false);
        for channel in self.channels.iter_mut() {
            let Some(oldest) = channel.unacked.first() else { continue };
            outstanding = true;
            let timeout = oldest.queue.consumer_timeout().unwrap_or(server);
            if timeout > 0 && now.saturating_sub(oldest.at) > Duration::from_millis(timeout) && !blocked {
                late.push((channel.key.number, timeout));
            }
        }
        self.next_tick = outstanding.then(|| now + self.tick_interval());
        for (number, timeout) in late {
            let text = format!(
                "delivery acknowledgement on channel {number} timed out. Timeout value used: {timeout} ms. This timeout \
                 value can be configured, see consumers doc guide to learn more"
            );
            self.raise(number, AmqpError::precondition_failed(text));
        }
    }

    fn tick_interval(&self) -> Duration {
        Duration::from_millis(self.shared.config.channel_tick_interval)
    }
}
