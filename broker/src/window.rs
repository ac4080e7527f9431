//! What limits deliveries besides a consumer's own prefetch, counted by queues and connections together.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

/// What a queue has handed to a consumer's connection and the connection has not encoded yet: the transport window.
/// Needed because a consumer without acknowledgements or prefetch has no other limit.
#[derive(Default)]
pub struct Window {
    messages: AtomicU32,
    bytes: AtomicU32,
    starved: AtomicBool,
}

impl Window {
    /// Messages under way to one consumer.
    pub const MESSAGES: u32 = 1024;
    /// Bytes under way to one consumer above which no more are sent; one message may pass it.
    pub const BYTES: u32 = 1 << 20;

    /// How many messages may be handed over now.
    pub fn room(&self) -> u32 {
        if self.bytes.load(Ordering::Acquire) >= Self::BYTES {
            return 0;
        }
        Self::MESSAGES.saturating_sub(self.messages.load(Ordering::Acquire))
    }

    pub fn fill(&self, messages: u32, bytes: u32) {
        self.messages.fetch_add(messages, Ordering::AcqRel);
        self.bytes.fetch_add(bytes, Ordering::AcqRel);
    }

    /// The queue has found no room. It must look once more after this: the connection may just have made some.
    pub fn starve(&self) {
        self.starved.store(true, Ordering::SeqCst);
        std::sync::atomic::fence(Ordering::SeqCst);
    }

    /// Gives room back. True when the queue has starved and there is room enough to make waking it worth while.
    pub fn drain(&self, messages: u32, bytes: u32) -> bool {
        let left = self.messages.fetch_sub(messages, Ordering::AcqRel) - messages;
        let bytes = self.bytes.fetch_sub(bytes, Ordering::AcqRel) - bytes;
        std::sync::atomic::fence(Ordering::SeqCst);
        left <= Self::MESSAGES / 2
            && bytes <= Self::BYTES / 2
            && self.starved.load(Ordering::SeqCst)
            && self.starved.swap(false, Ordering::SeqCst)
    }
}

/// The limit that all consumers of a channel share (`basic.qos` with global set).
#[derive(Default)]
pub struct ChannelLimit {
    /// 0: none.
    limit: AtomicU32,
    used: AtomicU32,
    starved: AtomicBool,
}

impl ChannelLimit {
    pub fn set(&self, limit: u32) {
        self.limit.store(limit, Ordering::SeqCst);
    }

    pub fn is_set(&self) -> bool {
        self.limit.load(Ordering::Acquire) != 0
    }

    /// Takes up to `wanted` places and says how many.
    pub fn take(&self, wanted: u32) -> u32 {
        let mut taken = 0;
        let _ = self.used.fetch_update(Ordering::AcqRel, Ordering::Acquire, |used| {
            taken = match self.limit.load(Ordering::Acquire) {
                0 => wanted,
                limit => wanted.min(limit.saturating_sub(used)),
            };
            Some(used + taken)
        });
        taken
    }

    /// True while no message may be delivered.
    pub fn is_full(&self) -> bool {
        let limit = self.limit.load(Ordering::Acquire);
        limit != 0 && self.used.load(Ordering::Acquire) >= limit
    }

    pub fn add(&self, count: u32) {
        self.used.fetch_add(count, Ordering::AcqRel);
    }

    /// As [`Window::starve`].
    pub fn starve(&self) {
        self.starved.store(true, Ordering::SeqCst);
        std::sync::atomic::fence(Ordering::SeqCst);
    }

    pub fn free(&self, count: u32) {
        self.used.fetch_sub(count, Ordering::AcqRel);
        std::sync::atomic::fence(Ordering::SeqCst);
    }

    /// True when a queue has starved of this limit and should look again.
    pub fn take_starved(&self) -> bool {
        !self.is_full() && self.starved.load(Ordering::SeqCst) && self.starved.swap(false, Ordering::SeqCst)
    }
}
