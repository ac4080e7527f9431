//! Gives memory that nothing needs any more back to the system.
//!
//! The allocator keeps what is freed, since it may be wanted again: of a backlog of a gigabyte that is gone, all of it,
//! for ever, if little that lives on lies behind it. So once a second it is looked at how much memory the process has
//! beyond its messages, and when that has grown and stays, the allocator is told to let go of what it has no use for.
//! While a backlog comes and goes its memory is left where it is.

use std::sync::Arc;
use std::time::Duration;

use leveret_storage::Gauge;

use crate::clock::{Clock, SystemClock};

const PERIOD: Duration = Duration::from_secs(1);
/// How many looks in a row must say so: what is wanted again within as many seconds is not worth the way to the system
/// and back, a quarter of a second for a gigabyte.
const LOOKS: usize = 5;
/// Bytes that are not worth it: about as much as the broker takes under full load beyond its messages.
const WORTH_WHILE: i64 = 32 << 20;
/// After so many looks the allocator is told anew though nothing has grown. What it could not give back then was in use,
/// as by connections, and may be free by now; if nothing is, that costs next to nothing.
const ANEW: u32 = 60;

/// What was seen at the last looks.
#[derive(Default)]
struct Watch {
    /// Bytes that the process has beyond its messages, at each of them, the latest anywhere.
    beyond: [i64; LOOKS],
    /// How many looks there were since memory was given back, or since the start.
    count: u32,
    /// The least since then: it is in use, as far as one knows.
    floor: i64,
}

impl Watch {
    /// A further look: the process has so many bytes beyond its messages. True: it should give memory back.
    fn look(&mut self, beyond: i64) -> bool {
        self.beyond[self.count as usize % LOOKS] = beyond;
        self.count += 1;
        self.floor = self.floor.min(beyond);
        if (self.count as usize) < LOOKS {
            return false;
        }
        let least = self.beyond.iter().copied().fold(i64::MAX, i64::min);
        let grown = least - self.floor > WORTH_WHILE + self.floor / 4;
        grown || self.count >= ANEW && least > WORTH_WHILE
    }

    /// Memory has been given back, and so many bytes are left beyond messages.
    fn given_back(&mut self, beyond: i64) {
        (self.count, self.floor) = (0, beyond);
    }
}

/// Watches over the process's memory until it is aborted, by the machine's time: it is the machine's memory. `gauge`
/// counts what messages need of it.
pub(crate) async fn watch(gauge: Arc<Gauge>, clock: Arc<SystemClock>) {
    let beyond = || system::own_bytes().map(|bytes| signed(bytes) - signed(gauge.bytes()));
    let mut watch = Watch::default();
    gauge.set_aside();
    loop {
        clock.sleep(PERIOD).await;
        // Where the system does not tell, nothing can be given back.
        let Some(before) = beyond() else { return };
        if !watch.look(before) {
            continue;
        }
        // Not here: it may take a while, and connections are served here. Large buffers go first, so that the allocator,
        // which holds everybody up meanwhile, has little left to do.
        let of_messages = gauge.clone();
        let giving_back = tokio::task::spawn_blocking(move || {
            of_messages.give_back();
            system::give_back();
        });
        if giving_back.await.is_err() {
            return;
        }
        let after = beyond().unwrap_or(before);
        tracing::debug!(before, after, "memory is given back");
        watch.given_back(after);
    }
}

/// A number of bytes, of which no machine has so many that it does not fit.
fn signed(bytes: usize) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

/// With GNU's C library, whose allocator keeps memory and can be told not to.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
mod system {
    /// Bytes of memory that are the process's own: not those of files, such as the program.
    pub fn own_bytes() -> Option<usize> {
        pages(&std::fs::read_to_string("/proc/self/statm").ok()?)?.checked_mul(rustix::param::page_size())
    }

    /// As Linux tells it: all pages, those that are resident, those of them that are shared, and more.
    pub fn pages(statm: &str) -> Option<usize> {
        let mut counts = statm.split_whitespace().skip(1).map_while(|count| count.parse::<usize>().ok());
        let (resident, shared) = (counts.next()?, counts.next()?);
        Some(resident.saturating_sub(shared))
    }

    pub fn give_back() {
        // SAFETY: malloc_trim takes a number, may be called at any time from any thread, and changes nothing that lives:
        // it locks one arena after the other and gives pages back that lie within free chunks. It brings 1.3 to 1.6 GB back
        // after a backlog of 1.5 million messages of 1 KiB, where 8 MB are left, and no safe way does: docs/performance.md.
        unsafe {
            libc::malloc_trim(0);
        }
    }
}

/// Other allocators give memory back themselves, or have no way to be told.
#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
mod system {
    pub fn own_bytes() -> Option<usize> {
        None
    }

    pub fn give_back() {}
}

#[cfg(test)]
mod tests {
    use super::{ANEW, LOOKS, Watch};

    const MIB: i64 = 1 << 20;

    /// At which look of these it should give memory back first, if at any.
    fn first(watch: &mut Watch, looks: impl IntoIterator<Item = i64>) -> Option<usize> {
        looks.into_iter().position(|mib| watch.look(mib * MIB))
    }

    #[test]
    fn what_stays_after_a_backlog_is_given_back_within_seconds() {
        let mut watch = Watch::default();
        assert_eq!(first(&mut watch, [4, 5, 6, 7, 8, 9, 10, 1000, 1000, 1000, 1000, 1000]), Some(7 + LOOKS - 1));
    }

    #[test]
    fn a_broker_under_full_load_keeps_what_it_has() {
        assert_eq!(first(&mut Watch::default(), [20; 200]), None);
    }

    #[test]
    fn a_backlog_that_comes_and_goes_keeps_its_memory() {
        let swings = [1000, 1000, 1000, 1000, 10].into_iter().cycle().take(200);
        assert_eq!(first(&mut Watch::default(), swings), None);
    }

    #[test]
    fn what_is_in_use_is_looked_at_once_and_left_alone() {
        let mut watch = Watch::default();
        assert_eq!(first(&mut watch, [70; 10]), Some(LOOKS - 1));
        watch.given_back(70 * MIB);
        assert_eq!(first(&mut watch, [100; ANEW as usize - 1]), None, "it has not grown by much");
    }

    #[test]
    fn what_comes_on_top_of_it_is_given_back() {
        let mut watch = Watch::default();
        watch.given_back(400 * MIB);
        assert_eq!(first(&mut watch, [530; 20]), None, "a quarter more and 32 MiB is 532");
        assert_eq!(first(&mut watch, [534; 20]), Some(LOOKS - 1));
    }

    #[test]
    fn what_was_in_use_and_is_free_by_now_is_given_back_in_time() {
        let mut watch = Watch::default();
        watch.given_back(400 * MIB);
        assert_eq!(first(&mut watch, [400; 1000]), Some(ANEW as usize - 1));
    }

    #[test]
    fn the_floor_sinks_with_what_the_system_has_got_back_otherwise() {
        let mut watch = Watch::default();
        watch.given_back(400 * MIB);
        assert_eq!(first(&mut watch, [10, 200, 200, 200, 200, 200]), Some(LOOKS));
    }

    #[test]
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    fn pages_of_files_do_not_count() {
        use super::system::{own_bytes, pages};
        assert_eq!(pages("5000 2500 900 700 0 3000 0\n"), Some(1600));
        assert_eq!(pages("5000 2500"), None);
        assert!(own_bytes().is_some_and(|bytes| bytes > 1 << 16));
    }
}
