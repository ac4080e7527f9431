//! The consumers of a queue: whose turn it is, and who has room.

use std::cmp::Reverse;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::command::{ChannelLimit, ConsumerKey, NewConsumer, Requester, Window};

pub struct Consumer {
    pub key: ConsumerKey,
    pub from: Requester,
    pub no_ack: bool,
    pub exclusive: bool,
    priority: i64,
    /// Unacked messages at most, 0: unlimited.
    prefetch: u32,
    unacked: u32,
    window: Arc<Window>,
    limit: Arc<ChannelLimit>,
    /// It stands in the ring: when its turn comes, its room is looked at.
    waiting: bool,
    /// The queue's count of turns at its last one.
    served: u64,
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
            // What it gets counts for nothing, but it waits while the channel is full.
            if self.limit.is_full() { 0 } else { wanted }
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
        if self.limit.is_set() && self.own_room() > 0 {
            self.limit.starve();
        }
    }

    /// Takes room for up to `wanted` messages; where there is none, it leaves word and looks once more, since room may
    /// have been made in between.
    fn room(&self, wanted: u32) -> u32 {
        match self.take_room(wanted) {
            0 => {
                self.starve();
                self.take_room(wanted)
            }
            room => room,
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
    /// By falling priority, the slots in the order in which they are served; who has no room leaves its ring until
    /// room is made.
    rings: BTreeMap<Reverse<i64>, VecDeque<u32>>,
    count: u32,
    /// How often somebody has been served.
    turns: u64,
    /// Single active consumer: only one is served, the others wait for its end.
    single: Option<Single>,
}

struct Single {
    active: Option<ConsumerKey>,
    /// A newcomer of higher priority takes over (quorum queues).
    overtaken: bool,
}

impl Consumers {
    /// With `single_active` only one consumer is served; in a `quorum` queue one of higher priority takes over.
    pub fn new(single_active: bool, quorum: bool) -> Consumers {
        let single = single_active.then_some(Single { active: None, overtaken: quorum });
        Consumers { single, ..Consumers::default() }
    }

    pub fn count(&self) -> u32 {
        self.count
    }

    pub fn is_single_active(&self) -> bool {
        self.single.is_some()
    }

    pub fn has_exclusive(&self) -> bool {
        self.iter().any(|consumer| consumer.exclusive)
    }

    fn iter(&self) -> impl Iterator<Item = &Consumer> {
        self.slots.iter().flatten()
    }

    pub fn add(&mut self, new: NewConsumer) -> ConsumerKey {
        let free = self.slots.iter().position(Option::is_none);
        let slot = free.unwrap_or_else(|| {
            self.slots.push(None);
            self.slots.len() - 1
        });
        let serial = SERIAL.fetch_add(1, Ordering::Relaxed);
        let key = ConsumerKey { slot: slot as u32, serial };
        self.slots[slot] = Some(Consumer {
            key,
            from: new.from,
            no_ack: new.no_ack,
            exclusive: new.exclusive,
            priority: new.priority,
            prefetch: new.prefetch,
            unacked: 0,
            window: new.window,
            limit: new.limit,
            waiting: false,
            served: 0,
        });
        self.count += 1;
        self.enter_ring(key.slot);
        self.choose_active(Some(key));
        key
    }

    pub fn get_mut(&mut self, key: ConsumerKey) -> Option<&mut Consumer> {
        let consumer = self.slots.get_mut(key.slot as usize)?.as_mut();
        consumer.filter(|consumer| consumer.key == key)
    }

    pub fn remove(&mut self, key: ConsumerKey) -> Option<Consumer> {
        self.get_mut(key)?;
        let consumer = self.slots[key.slot as usize].take()?;
        if let Some(ring) = self.rings.get_mut(&Reverse(consumer.priority)) {
            ring.retain(|slot| *slot != key.slot);
        }
        let last = !self.iter().any(|other| other.priority == consumer.priority);
        if last {
            self.rings.remove(&Reverse(consumer.priority));
        }
        self.count -= 1;
        self.choose_active(None);
        Some(consumer)
    }

    pub fn drain(&mut self) -> impl Iterator<Item = Consumer> + use<> {
        self.rings.clear();
        self.count = 0;
        std::mem::take(&mut self.slots).into_iter().flatten()
    }

    /// Single active consumer: keeps the active one, or chooses by priority, then by age.
    fn choose_active(&mut self, new: Option<ConsumerKey>) {
        let Some(single) = &self.single else { return };
        let priority = |key: ConsumerKey| {
            let consumer = self.slots.get(key.slot as usize).and_then(Option::as_ref);
            consumer.filter(|consumer| consumer.key == key).map(|consumer| consumer.priority)
        };
        let current = single.active.and_then(|key| Some((key, priority(key)?)));
        let active = match (current, new.and_then(|key| Some((key, priority(key)?)))) {
            (Some((_, old)), Some((key, higher))) if single.overtaken && higher > old => Some(key),
            (Some((key, _)), _) => Some(key),
            (None, _) => self.iter().max_by_key(|c| (c.priority, Reverse(c.key.serial))).map(|c| c.key),
        };
        if let Some(single) = &mut self.single {
            single.active = active;
        }
    }

    fn enter_ring(&mut self, slot: u32) {
        let Some(consumer) = self.slots.get_mut(slot as usize).and_then(Option::as_mut) else { return };
        if !std::mem::replace(&mut consumer.waiting, true) {
            self.rings.entry(Reverse(consumer.priority)).or_default().push_back(slot);
        }
    }

    /// `count` messages of this consumer are no longer unacked. Under a channel-wide limit that alone brings nobody
    /// back into the ring: the channel wakes all its queues when there is room, so that all have the same chance.
    pub fn settled(&mut self, key: ConsumerKey, count: u32) {
        let Some(consumer) = self.get_mut(key) else { return };
        let was_full = consumer.prefetch > 0 && consumer.unacked >= consumer.prefetch;
        consumer.unacked = consumer.unacked.saturating_sub(count);
        if was_full || !consumer.limit.is_set() {
            self.enter_ring(key.slot);
        }
    }

    /// Everybody who left the ring may have room again: whoever was served longest ago goes first, or under a limit
    /// that several share it would always be the same one.
    pub fn wake(&mut self) {
        let left = self.iter().filter(|consumer| !consumer.waiting);
        let mut left: Vec<(u64, u32)> = left.map(|consumer| (consumer.served, consumer.key.slot)).collect();
        left.sort_unstable();
        for (_, slot) in left {
            self.enter_ring(slot);
        }
    }

    /// Whose turn it is, and how many of `all` messages it takes: one each in turn, but as many as there is room
    /// for when nobody else of its priority waits. None when nobody has room; they have then been told to wake the
    /// queue when they have.
    pub fn next(&mut self, all: u32) -> Option<(ConsumerKey, u32)> {
        if let Some(single) = &self.single {
            let key = single.active?;
            let room = self.get_mut(key)?.room(all);
            return (room > 0).then_some((key, room));
        }
        for ring in self.rings.values_mut() {
            while let Some(slot) = ring.pop_front() {
                let Some(consumer) = self.slots.get_mut(slot as usize).and_then(Option::as_mut) else { continue };
                let room = consumer.room(if ring.is_empty() { all } else { 1 });
                if room > 0 {
                    self.turns += 1;
                    consumer.served = self.turns;
                    ring.push_back(slot);
                    return Some((consumer.key, room));
                }
                consumer.waiting = false;
            }
        }
        None
    }
}
