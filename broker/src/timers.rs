//! One task that tells queues when something of theirs may have expired.
//!
//! A queue asks for its next moment only, so the heap holds about one entry per queue that has one.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::Notify;

use crate::clock::Clock;
use crate::command::QueueCommand;
use crate::queue::Queue;

pub struct Timers {
    heap: Mutex<Heap>,
    /// Rung when the first moment has moved forward.
    sooner: Notify,
    clock: Arc<dyn Clock>,
}

#[derive(Default)]
struct Heap {
    moments: BinaryHeap<Reverse<(u64, u64)>>,
    waiting: std::collections::HashMap<u64, Weak<Queue>>,
    next: u64,
}

impl Timers {
    pub fn new(clock: Arc<dyn Clock>) -> Arc<Timers> {
        Arc::new(Timers { heap: Mutex::default(), sooner: Notify::new(), clock })
    }

    /// Milliseconds since the Unix epoch.
    pub fn now(&self) -> u64 {
        self.clock.wall()
    }

    /// Sends the queue a tick once the wall clock shows `moment`.
    pub fn at(&self, moment: u64, queue: Weak<Queue>) {
        let mut heap = self.heap.lock().unwrap_or_else(PoisonError::into_inner);
        let first = heap.moments.peek().is_none_or(|Reverse((other, _))| moment < *other);
        let id = heap.next;
        heap.next += 1;
        heap.waiting.insert(id, queue);
        heap.moments.push(Reverse((moment, id)));
        drop(heap);
        if first {
            self.sooner.notify_one();
        }
    }

    /// Rings for ever; the broker's end aborts it.
    pub async fn run(self: Arc<Timers>) {
        loop {
            let (due, next) = self.due();
            for queue in due {
                queue.push(QueueCommand::Tick);
            }
            let Some(moment) = next else {
                self.sooner.notified().await;
                continue;
            };
            let rest = Duration::from_millis(moment.saturating_sub(self.now()));
            tokio::select! {
                () = self.sooner.notified() => {}
                () = self.clock.sleep_until(self.clock.now() + rest) => {}
            }
        }
    }

    fn due(&self) -> (Vec<Arc<Queue>>, Option<u64>) {
        let now = self.now();
        let mut heap = self.heap.lock().unwrap_or_else(PoisonError::into_inner);
        let mut due = Vec::new();
        while let Some(Reverse((moment, id))) = heap.moments.peek().copied() {
            if moment > now {
                return (due, Some(moment));
            }
            heap.moments.pop();
            due.extend(heap.waiting.remove(&id).and_then(|queue| queue.upgrade()));
        }
        (due, None)
    }
}
