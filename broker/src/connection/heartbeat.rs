//! The heartbeat rule, apart from any clock or socket (AMQP 4.2.7, with RabbitMQ's intervals).
//!
//! Sending: every half interval, if nothing was written since the last look. Receiving: every interval, if nothing
//! came since the last look; the second time in a row the peer is dead, so between two and three intervals after its
//! last octet.

use std::time::Duration;

pub struct Heartbeat {
    interval: Duration,
    next_send: Duration,
    next_check: Duration,
    sent: u64,
    received: u64,
    silent: bool,
}

/// What is due.
#[derive(Debug, PartialEq, Eq)]
pub enum Due {
    Nothing,
    /// Write a heartbeat frame.
    Send,
    /// The peer is dead.
    Dead,
}

impl Heartbeat {
    /// None for an interval of zero: no heartbeats in either direction.
    pub fn new(seconds: u16, now: Duration) -> Option<Heartbeat> {
        let interval = Duration::from_secs(seconds.into());
        (seconds > 0).then(|| Heartbeat {
            interval,
            next_send: now + interval / 2,
            next_check: now + interval,
            sent: 0,
            received: 0,
            silent: false,
        })
    }

    /// When to look again.
    pub fn next(&self) -> Duration {
        self.next_send.min(self.next_check)
    }

    /// Looks at the counters of octets sent and received. While `blocked` by the broker itself, silence means nothing.
    pub fn look(&mut self, now: Duration, sent: u64, received: u64, blocked: bool) -> Due {
        if now >= self.next_check {
            // An interval from now, however late this look is: the peer must have had so long to be heard.
            self.next_check = now + self.interval;
            let silent = received == self.received && !blocked;
            self.received = received;
            if silent && std::mem::replace(&mut self.silent, silent) {
                return Due::Dead;
            }
            self.silent = silent;
        }
        if now >= self.next_send {
            self.next_send = now + self.interval / 2;
            let idle = sent == self.sent;
            self.sent = sent;
            if idle {
                return Due::Send;
            }
        }
        Due::Nothing
    }

    /// `octets` of a heartbeat were written; they do not count as traffic that spares the next one.
    pub fn wrote(&mut self, octets: u64) {
        self.sent += octets;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_silent_peer_dies_between_two_and_three_intervals_after_its_last_octet() {
        // The last octet comes at any tenth of an interval.
        for tenth in 0..10u32 {
            let last = SECOND * 5 + SECOND * tenth / 10;
            let mut heartbeat = Heartbeat::new(1, Duration::ZERO).unwrap();
            let died = loop {
                let now = heartbeat.next();
                let received = now.min(last).as_millis() as u64 + 1;
                if heartbeat.look(now, now.as_millis() as u64 + 1, received, false) == Due::Dead {
                    break now;
                }
                assert!(now < SECOND * 20);
            };
            let silence = died - last;
            assert!(silence >= SECOND * 2 && silence <= SECOND * 3, "{silence:?} after {last:?}");
        }
    }

    #[test]
    fn a_broker_that_stood_still_gives_its_peer_time_to_be_heard() {
        let mut heartbeat = Heartbeat::new(1, Duration::ZERO).unwrap();
        assert_ne!(heartbeat.look(SECOND, 0, 1, false), Due::Dead);
        // Checks that were missed meanwhile are not made up for.
        for tenth in 0..10u32 {
            let now = SECOND * 60 + SECOND * tenth / 10;
            assert_ne!(heartbeat.look(now, 0, 1, false), Due::Dead, "after {now:?}");
        }
    }

    #[test]
    fn any_octet_keeps_the_peer_alive() {
        let mut heartbeat = Heartbeat::new(2, Duration::ZERO).unwrap();
        for step in 1..100u64 {
            let now = heartbeat.next();
            assert_ne!(heartbeat.look(now, 0, step, false), Due::Dead);
        }
    }

    #[test]
    fn a_heartbeat_goes_out_every_half_interval_without_traffic_and_only_then() {
        let mut heartbeat = Heartbeat::new(2, Duration::ZERO).unwrap();
        assert_eq!(heartbeat.next(), SECOND);
        assert_eq!(heartbeat.look(SECOND, 0, 1, false), Due::Send);
        heartbeat.wrote(8);
        assert_eq!(heartbeat.look(SECOND * 2, 8, 2, false), Due::Send);
        heartbeat.wrote(8);
        assert_eq!(heartbeat.look(SECOND * 3, 500, 3, false), Due::Nothing);
    }

    #[test]
    fn a_blocked_peer_may_be_silent() {
        let mut heartbeat = Heartbeat::new(1, Duration::ZERO).unwrap();
        for _ in 0..50 {
            let now = heartbeat.next();
            assert_ne!(heartbeat.look(now, 0, 0, true), Due::Dead);
        }
    }

    #[test]
    fn an_interval_of_zero_means_no_heartbeats() {
        assert!(Heartbeat::new(0, Duration::ZERO).is_none());
    }
}
