//! The consumers of a queue: whose turn it is, and who has room.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::command::{ChannelLimit, ConsumerKey, NewConsumer, Requester, Window};

pub struct Consumer {
    pub key: ConsumerKey,
    pub from: Requester,
    pub no_ack: bool,
    pub exclusive: bool,
    /// Unacked messages at most, 0: unlimited.
    prefetch: u32,
    unacked: u32,
    window: Arc<Window>,
    limit: Arc<ChannelLimit>,
    /// A consumer without acks that was created under a channel-wide limit waits while the channel is full.
    waits_on_limit: bool,
    /// It stands in the ring: when its turn comes, its room is looked at.
    waiting: bool,
}

impl Consumer {
    /// Messages that may be delivered now, before the channel-wide limit.
    fn own_room(&self) -> u32 {
        let prefetch = match (self.no_ack, self.prefetch) {
            (true, _) | (_, 0) => u32::MAX,
            (false, limit) => limit.saturating_sub(self.unacked),
        };
        prefetch.min(self.window.room())
    }

    /// Takes room for up to `wanted` messages and says for how many.
    fn take_room(&self, wanted: u32) -> u32 {
        let wanted = wanted.min(self.own_room());
        if self.no_ack {
            if self.waits_on_limit && self.limit.is_full() {
                0
            } else {
                wanted
            }
        } else if wanted == 0 {
            0
        } else {
            self.limit.take(wanted)
        }
    }

    /// Leaves word wherever it may have no room, so that it is woken when some is made.
    fn starve(&self) {
        if self.window.room() == 0 {
            self.window.starve();
        }
        if self.limit.is_full() {
            self.limit.starve();
        }
    }

    /// `messages` of `bytes` in all are on their way.
    pub fn sent(&mut self, messages: u32, bytes: u32) {
        self.window.fill(messages, bytes);
        if !self.no_ack {
            self.unacked += messages;
        }
    }
}

/// Serial numbers are never used again, so that a late acknowledgement cannot meet a wrong consumer.
static SERIAL: AtomicU64 = AtomicU64::new(1);

#[derive(Default)]
pub struct Consumers {
    slots: Vec<Option<Consumer>>,
    /// Slots in the order in which they are served; who has no room leaves it until room is made.
    ring: VecDeque<u32>,
    count: u32,
}

impl Consumers {
    pub fn count(&self) -> u32 {
        self.count
    }

    pub fn has_exclusive(&self) -> bool {
        self.iter().any(|c| c.exclusive)
    }

    pub fn iter(&self) -> impl Iterator<Item = &Consumer> {
        self.slots.iter().flatten()
    }

    pub fn add(&mut self, new: NewConsumer) -> ConsumerKey {
        let slot = self
            .slots
            .iter()
            .position(Option::is_none)
            .unwrap_or(self.slots.len());
        let key = ConsumerKey {
            slot: slot as u32,
            serial: SERIAL.fetch_add(1, Ordering::Relaxed),
        };
        let consumer = Consumer {
            key,
            from: new.from,
            no_ack: new.no_ack,
            exclusive: new.exclusive,
            prefetch: new.prefetch,
            unacked: 0,
            waits_on_limit: new.no_ack && new.limit.is_set(),
            window: new.window,
            limit: new.limit,
            waiting: true,
        };
        if slot == self.slots.len() {
            self.slots.push(Some(consumer));
        } else {
            self.slots[slot] = Some(consumer);
        }
        self.ring.push_back(key.slot);
        self.count += 1;
        key
    }

    pub fn get_mut(&mut self, key: ConsumerKey) -> Option<&mut Consumer> {
        self.slots
            .get_mut(key.slot as usize)?
            .as_mut()
            .filter(|c| c.key == key)
    }

    pub fn remove(&mut self, key: ConsumerKey) -> Option<Consumer> {
        self.get_mut(key)?;
        let consumer = self.slots[key.slot as usize].take();
        self.ring.retain(|slot| *slot != key.slot);
        self.count -= 1;
        consumer
    }

    pub fn drain(&mut self) -> impl Iterator<Item = Consumer> + use<> {
        self.ring.clear();
        self.count = 0;
        std::mem::take(&mut self.slots).into_iter().flatten()
    }

    /// `count` messages of this consumer are no longer unacked.
    pub fn settled(&mut self, key: ConsumerKey, count: u32) {
        let Some(consumer) = self.get_mut(key) else {
            return;
        };
        consumer.unacked = consumer.unacked.saturating_sub(count);
        if !consumer.waiting {
            consumer.waiting = true;
            self.ring.push_back(key.slot);
        }
    }

    /// Everybody who left the ring may have room again.
    pub fn wake(&mut self) {
        for consumer in self.slots.iter_mut().flatten().filter(|c| !c.waiting) {
            consumer.waiting = true;
            self.ring.push_back(consumer.key.slot);
        }
    }

    /// Whose turn it is, and how many of `ready` messages it takes: a lone consumer as many as it has room for,
    /// several one each. None when nobody has room; they have then been told to wake the queue when they have.
    pub fn next(&mut self, ready: u64) -> Option<(ConsumerKey, u32)> {
        let wanted = if self.count == 1 {
            ready.min(u64::from(u32::MAX)) as u32
        } else {
            1
        };
        while let Some(slot) = self.ring.pop_front() {
            let Some(consumer) = self.slots.get_mut(slot as usize).and_then(Option::as_mut) else {
                continue;
            };
            let mut room = consumer.take_room(wanted);
            if room == 0 {
                // Leave word, then look once more: room may have been made in between.
                consumer.starve();
                room = consumer.take_room(wanted);
            }
            if room > 0 {
                self.ring.push_back(slot);
                return Some((consumer.key, room));
            }
            consumer.waiting = false;
        }
        None
    }

    /// Gives back room that [`Consumers::next`] took and that was not used.
    pub fn give_back(&mut self, key: ConsumerKey, count: u32) {
        if let Some(consumer) = self.get_mut(key)
            && !consumer.no_ack
        {
            consumer.limit.free(count);
        }
    }
}
