//! How much memory blocks take, and what becomes of it when there are fewer of them.
//!
//! The allocator keeps what is freed, and can be told to give it back; but while it does, nobody else can allocate: some
//! 70 ms for a gigabyte of pages that are there, next to nothing for such as are gone already. So while messages become
//! fewer by much, their buffers are *set aside* instead of freed, until more messages come, who take their place, or
//! somebody who serves nobody gives back first their pages, one buffer at a time, and then them.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Bytes of blocks that are gone which the allocator has in any case, for those that come: a steady flow, which has less
/// than this under way, never sets anything aside. To give back so much takes it 5 ms.
const SPARE: usize = 64 << 20;
/// Bytes of a buffer below which it is not worth it: a smaller one has hardly more than two pages to itself.
const LARGE: usize = 16 << 10;

/// Counts the bytes of all blocks that are alive, so that the broker can stop reading publishers at a limit; and keeps
/// the buffers of some that are not.
#[derive(Debug)]
pub struct Gauge {
    bytes: AtomicUsize,
    /// The most that there have been, set aside or alive, since memory was given back: so much the allocator has for them.
    most: AtomicUsize,
    /// [`SPARE`]; [`usize::MAX`] while nobody is there who gives back what was set aside.
    spare: AtomicUsize,
    aside: Aside,
}

#[derive(Debug, Default)]
struct Aside {
    bytes: AtomicUsize,
    buffers: Mutex<Vec<Box<[u8]>>>,
}

impl Default for Gauge {
    fn default() -> Gauge {
        let (bytes, most, spare) = (AtomicUsize::new(0), AtomicUsize::new(0), AtomicUsize::new(usize::MAX));
        Gauge { bytes, most, spare, aside: Aside::default() }
    }
}

impl Gauge {
    /// Bytes held by blocks at this moment.
    pub fn bytes(&self) -> usize {
        self.bytes.load(Ordering::Relaxed)
    }

    /// From now on buffers are set aside while messages become fewer. The caller is to [`give_back`](Self::give_back) from
    /// time to time.
    pub fn set_aside(&self) {
        self.spare.store(SPARE, Ordering::Relaxed);
    }

    /// Gives the memory of all buffers that are set aside back to the system, and them to the allocator, which the caller
    /// is to tell next that it should do likewise. May take some tenths of a second for a gigabyte; nobody is held up
    /// meanwhile.
    pub fn give_back(&self) {
        while let Some(mut buffer) = self.aside.take() {
            pages::give_back(&mut buffer);
            let less = |most: usize| Some(most.saturating_sub(buffer.len()));
            // It always has something to put.
            let _ = self.most.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
        }
        // What was too small to be set aside goes back with the rest.
        self.most.store(self.bytes() + self.aside.bytes(), Ordering::Relaxed);
    }

    /// Counts a block of `bytes` more.
    pub(crate) fn add(&self, bytes: usize) {
        let now = self.bytes.fetch_add(bytes, Ordering::Relaxed) + bytes;
        let aside = self.aside.bytes();
        if now + aside > self.most.load(Ordering::Relaxed) {
            self.most.fetch_max(now + aside, Ordering::Relaxed);
        }
        if aside > 0 && self.free(now, aside) < self.spare.load(Ordering::Relaxed) / 2 {
            self.aside.free(bytes);
        }
    }

    /// Counts a block of `bytes` less, which was added before. Its buffer is freed, or set aside.
    pub(crate) fn sub(&self, bytes: usize, buffer: &mut Box<[u8]>) {
        let now = self.bytes.fetch_sub(bytes, Ordering::Relaxed).saturating_sub(bytes);
        if buffer.len() >= LARGE && self.free(now, self.aside.bytes()) > self.spare.load(Ordering::Relaxed) {
            self.aside.put(std::mem::take(buffer));
        }
    }

    /// Bytes that the allocator has free for blocks, about, when `now` are in use and so many set `aside`.
    fn free(&self, now: usize, aside: usize) -> usize {
        self.most.load(Ordering::Relaxed).saturating_sub(now.saturating_add(aside))
    }
}

impl Aside {
    fn bytes(&self) -> usize {
        self.bytes.load(Ordering::Relaxed)
    }

    fn buffers(&self) -> MutexGuard<'_, Vec<Box<[u8]>>> {
        self.buffers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn put(&self, buffer: Box<[u8]>) {
        let mut buffers = self.buffers();
        self.bytes.fetch_add(buffer.len(), Ordering::Relaxed);
        buffers.push(buffer);
    }

    fn take(&self) -> Option<Box<[u8]>> {
        let mut buffers = self.buffers();
        let Some(buffer) = buffers.pop() else {
            // The list itself may have become long.
            *buffers = Vec::new();
            return None;
        };
        self.bytes.fetch_sub(buffer.len(), Ordering::Relaxed);
        Some(buffer)
    }

    /// Frees as many as make up `bytes`, and no more: who needs that much finds it next time.
    fn free(&self, bytes: usize) {
        let mut freed = 0;
        while freed < bytes {
            let Some(buffer) = self.take() else { return };
            freed += buffer.len();
        }
    }
}

#[cfg(target_os = "linux")]
mod pages {
    use rustix::mm::{Advice, madvise};
    use rustix::param::page_size;

    /// Gives back the memory of a buffer that nobody reads any more. What it holds is zero afterwards, or as it was.
    pub fn give_back(buffer: &mut [u8]) {
        let page = page_size();
        let before = buffer.as_ptr().align_offset(page);
        let Some(whole) = buffer.get_mut(before..).map(|rest| rest.len() / page * page).filter(|whole| *whole > 0)
        else {
            return;
        };
        let start = buffer[before..before + whole].as_mut_ptr();
        // SAFETY: the `whole` bytes from `start` on lie within `buffer`, which is borrowed for writing: nobody else reads
        // them, and bytes may become any others. They are whole pages, so nothing outside of the buffer goes with them,
        // such as what the allocator notes before and behind it. It spares those who serve a stall of 70 ms for each
        // gigabyte: see docs/performance.md.
        //
        // Locked memory cannot be given back, and need not.
        let _ = unsafe { madvise(start.cast(), whole, Advice::LinuxDontNeed) };
    }
}

#[cfg(not(target_os = "linux"))]
mod pages {
    /// Elsewhere this advice means something else, or nothing.
    pub fn give_back(_: &mut [u8]) {}
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::{Gauge, LARGE, SPARE, pages};
    use crate::{Block, Span};

    const BUFFER: usize = 1 << 20;

    fn block(gauge: &Arc<Gauge>, bytes: usize) -> Arc<Block> {
        Block::of_one(vec![7; bytes], Span { start: 0, len: 1, meta: 0 }, gauge)
    }

    fn blocks(gauge: &Arc<Gauge>, count: usize) -> Vec<Arc<Block>> {
        (0..count).map(|_| block(gauge, BUFFER)).collect()
    }

    fn gauge() -> Arc<Gauge> {
        let gauge = Arc::new(Gauge::default());
        gauge.set_aside();
        gauge
    }

    const WITHIN_SPARE: usize = SPARE / BUFFER;

    #[test]
    fn what_is_gone_is_freed_until_there_is_enough_and_then_set_aside() {
        let gauge = gauge();
        let mut held = blocks(&gauge, WITHIN_SPARE + 10);
        held.truncate(11);
        assert_eq!(gauge.aside.bytes(), 0);
        held.clear();
        assert!((9 * BUFFER..=11 * BUFFER).contains(&gauge.aside.bytes()), "{}", gauge.aside.bytes());
        assert_eq!(gauge.bytes(), 0);
    }

    #[test]
    fn nothing_is_set_aside_unless_somebody_gives_it_back() {
        let gauge = Arc::new(Gauge::default());
        drop(blocks(&gauge, WITHIN_SPARE + 10));
        assert_eq!(gauge.aside.bytes(), 0);
    }

    #[test]
    fn small_ones_are_freed() {
        let gauge = gauge();
        let small = block(&gauge, LARGE - 1);
        drop(blocks(&gauge, WITHIN_SPARE + 10));
        let before = gauge.aside.bytes();
        drop(small);
        assert_eq!(gauge.aside.bytes(), before);
    }

    #[test]
    fn messages_that_come_take_the_place_of_what_is_set_aside() {
        let gauge = gauge();
        drop(blocks(&gauge, 2 * WITHIN_SPARE));
        let most = gauge.aside.bytes() + SPARE;
        let mut held = Vec::new();
        for _ in 0..2 * WITHIN_SPARE {
            held.push(block(&gauge, BUFFER));
            let kept = gauge.bytes() + gauge.aside.bytes();
            assert!(kept <= most + 3 * BUFFER, "{kept} bytes, more than there were");
        }
        assert_eq!(gauge.aside.bytes(), 0);
    }

    #[test]
    fn a_few_that_come_leave_it_where_it_is() {
        let gauge = gauge();
        drop(blocks(&gauge, 2 * WITHIN_SPARE));
        let before = gauge.aside.bytes();
        let _held = blocks(&gauge, 5);
        assert_eq!(gauge.aside.bytes(), before);
    }

    #[test]
    fn after_it_was_given_back_as_much_is_spare_as_before() {
        let gauge = gauge();
        drop(blocks(&gauge, 3 * WITHIN_SPARE));
        gauge.give_back();
        assert_eq!(gauge.aside.bytes(), 0);
        drop(blocks(&gauge, WITHIN_SPARE / 2));
        assert_eq!(gauge.aside.bytes(), 0, "it has spare ones, and took one of those");
    }

    #[test]
    fn small_ones_that_were_given_back_do_not_count_as_spare() {
        let gauge = gauge();
        drop((0..2 * SPARE / LARGE).map(|_| block(&gauge, LARGE - 1)).collect::<Vec<_>>());
        gauge.give_back();
        drop(block(&gauge, BUFFER));
        assert_eq!(gauge.aside.bytes(), 0);
    }

    #[test]
    fn pages_that_are_not_whole_stay() {
        let mut memory = vec![7u8; 1 << 16];
        let all = memory.len();
        pages::give_back(&mut memory[100..all - 100]);
        assert!(memory[..100].iter().chain(&memory[all - 100..]).all(|octet| *octet == 7));
        #[cfg(target_os = "linux")]
        assert!(memory.contains(&0), "the whole ones are gone");
        pages::give_back(&mut memory[..10]);
        pages::give_back(&mut []);
        assert!(memory[..10].iter().all(|octet| *octet == 7));
    }
}
