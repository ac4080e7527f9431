//! One task that tells owners when something of theirs may be due: a queue's messages expire, an exchange's delays end.
//!
//! An owner asks for its next moment only, and what it asked for before is forgotten: one entry for each that has one.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::Notify;

use crate::clock::{Clock, Moment};

/// Who waits for a moment.
pub trait Ticked: Send + Sync {
    /// The moment has come.
    fn tick(&self);
}

pub struct Timers {
    moments: Mutex<Moments>,
    /// Rung when the first moment has moved forward.
    sooner: Notify,
    clock: Arc<dyn Clock>,
}

#[derive(Default)]
struct Moments {
    /// Each with the owner's id.
    ordered: BTreeSet<(u64, u64)>,
    owners: HashMap<u64, (u64, Weak<dyn Ticked>)>,
}

impl Timers {
    pub fn new(clock: Arc<dyn Clock>) -> Arc<Timers> {
        Arc::new(Timers { moments: Mutex::default(), sooner: Notify::new(), clock })
    }

    /// Milliseconds since the Unix epoch.
    pub fn now(&self) -> u64 {
        self.clock.wall()
    }

    /// [`Timers::now`], if anybody wants to know.
    pub(crate) fn moment(&self) -> Moment<'_> {
        Moment::of(&*self.clock)
    }

    /// Ticks `owner`, whose id in storage is `id`, once the wall clock shows `moment`; not at the moment that it asked
    /// for before, if that has not come yet.
    pub fn at(&self, moment: u64, id: u64, owner: Weak<dyn Ticked>) {
        let mut moments = self.moments.lock().unwrap_or_else(PoisonError::into_inner);
        let first = moments.ordered.first().is_none_or(|(other, _)| moment < *other);
        if let Some((before, _)) = moments.owners.insert(id, (moment, owner)) {
            moments.ordered.remove(&(before, id));
        }
        moments.ordered.insert((moment, id));
        drop(moments);
        if first {
            self.sooner.notify_one();
        }
    }

    /// Rings for ever; the broker's end aborts it.
    pub async fn run(self: Arc<Timers>) {
        loop {
            // Read first: whatever time passes before the sleep begins shortens it.
            let start = self.clock.now();
            let (due, next) = self.due();
            for owner in due {
                owner.tick();
            }
            let Some(moment) = next else {
                self.sooner.notified().await;
                continue;
            };
            let rest = Duration::from_millis(moment.saturating_sub(self.now()));
            tokio::select! {
                () = self.sooner.notified() => {}
                () = self.clock.sleep_until(start + rest) => {}
            }
        }
    }

    fn due(&self) -> (Vec<Arc<dyn Ticked>>, Option<u64>) {
        let now = self.now();
        let mut moments = self.moments.lock().unwrap_or_else(PoisonError::into_inner);
        let mut due = Vec::new();
        while let Some((moment, id)) = moments.ordered.first().copied() {
            if moment > now {
                return (due, Some(moment));
            }
            moments.ordered.pop_first();
            due.extend(moments.owners.remove(&id).and_then(|(_, owner)| owner.upgrade()));
        }
        (due, None)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;
    use crate::clock::{ManualClock, Sleep};

    struct Nobody;

    impl Ticked for Nobody {
        fn tick(&self) {}
    }

    /// Time goes on by an hour after each of the first two looks at the wall clock.
    struct Leaping(ManualClock, AtomicU64);

    impl Clock for Leaping {
        fn now(&self) -> Duration {
            self.0.now()
        }

        fn wall(&self) -> u64 {
            let wall = self.0.wall();
            if self.1.fetch_add(1, Ordering::Relaxed) < 2 {
                self.0.advance(HOUR);
            }
            wall
        }

        fn sleep_until(&self, deadline: Duration) -> Sleep {
            self.0.sleep_until(deadline)
        }
    }

    const HOUR: Duration = Duration::from_secs(3_600);

    struct Ringing(Notify);

    impl Ticked for Ringing {
        fn tick(&self) {
            self.0.notify_one();
        }
    }

    #[tokio::test]
    async fn time_that_passes_while_it_reckons_makes_nobody_late() {
        let clock = ManualClock::default();
        let timers = Timers::new(Arc::new(Leaping(clock.clone(), AtomicU64::new(0))));
        let ringing = Arc::new(Ringing(Notify::new()));
        let owner: Arc<dyn Ticked> = ringing.clone();
        timers.at(clock.wall() + 10 * 3_600_000, 7, Arc::downgrade(&owner));
        // Or it would reckon once more.
        timers.sooner.notified().await;
        let running = tokio::spawn(timers.run());
        while clock.now() < 2 * HOUR {
            tokio::task::yield_now().await;
        }
        clock.advance(8 * HOUR);
        let rung = tokio::time::timeout(Duration::from_secs(10), ringing.0.notified()).await;
        running.abort();
        assert!(rung.is_ok(), "ten hours have passed");
    }

    #[test]
    fn an_owner_has_one_entry_however_often_it_asks() {
        let clock = ManualClock::default();
        let timers = Timers::new(Arc::new(clock.clone()));
        let owner: Arc<dyn Ticked> = Arc::new(Nobody);
        let now = timers.now();
        for sooner in 0..1000 {
            timers.at(now + 2000 - sooner, 7, Arc::downgrade(&owner));
        }
        assert_eq!(timers.moments.lock().unwrap().ordered.len(), 1);
        clock.advance(Duration::from_millis(1000));
        let (due, next) = timers.due();
        assert_eq!((due.len(), next), (0, Some(now + 1001)));
        clock.advance(Duration::from_millis(1));
        assert_eq!((timers.due().0.len(), timers.due().1), (1, None));
    }
}
