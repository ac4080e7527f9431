//! What a connection does when a time has come: heartbeats, deadlines, deliveries looked at.

use std::task::Context;
use std::time::Duration;

use leveret_protocol::frame;

use super::heartbeat::{Due, Heartbeat};
use super::{Connection, DEFERRED_LIMIT, Phase};

impl Connection {
    /// Heartbeats, deadlines and timeouts. True when one was due.
    pub(super) fn look_at_time(&mut self, cx: &mut Context<'_>) -> bool {
        let running = matches!(self.phase, Phase::Running);
        let tick = self.next_tick.filter(|_| running);
        let beat = self.heartbeat.as_ref().filter(|_| running).map(Heartbeat::next);
        let Some(next) = [self.deadline, beat, tick].into_iter().flatten().min() else {
            self.sleep = None;
            return false;
        };
        let now = self.shared.clock.now();
        if now >= next {
            self.on_time(now);
            return true;
        }
        // Its waker is this task's, on this thread: it need not be told again.
        if self.sleep.as_ref().is_some_and(|sleep| sleep.0 == next) {
            return false;
        }
        let (_, sleep) = self.sleep.insert((next, self.shared.clock.sleep_until(next)));
        sleep.as_mut().poll(cx).is_ready()
    }

    /// Does what the time has come for.
    fn on_time(&mut self, now: Duration) {
        if self.deadline.is_some_and(|deadline| now >= deadline) {
            return match self.shutting_down.take() {
                // Confirms that have not come by now are not waited for.
                Some(error) => {
                    self.deadline = None;
                    self.close(Some(error));
                }
                None => self.phase = Phase::Ended,
            };
        }
        if !matches!(self.phase, Phase::Running) {
            return;
        }
        // A client that is not read cannot be heard.
        let waits = self.deferred > DEFERRED_LIMIT || self.full.is_some();
        let blocked = self.parked || waits || self.shutting_down.is_some();
        match self.heartbeat.as_mut().map(|heartbeat| heartbeat.look(now, self.sent, self.received, blocked)) {
            Some(Due::Dead) => {
                tracing::warn!(seconds = self.heartbeat_seconds, "missed heartbeats from a client: connection dropped");
                self.phase = Phase::Ended;
                return;
            }
            // What waits to be written will do.
            Some(Due::Send) if self.output.is_empty() => {
                let beat = frame::heartbeat();
                self.output.octets().extend_from_slice(&beat);
                if let Some(heartbeat) = &mut self.heartbeat {
                    heartbeat.wrote(beat.len() as u64);
                }
            }
            _ => {}
        }
        if self.next_tick.is_some_and(|tick| now >= tick) {
            self.look_at_outstanding(now, blocked);
        }
    }
}
