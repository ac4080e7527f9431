//! Who lives on which of the broker's [threads](crate::threads): together while one thread will do, on more while it has
//! more to do than it can, and a core is idle or those who wait for their turn are many.
//!
//! Looked at ten times a second while a thread has much to do, else twice. What a connection has to do is reckoned from
//! what it reads and writes. One that is told to move goes with its next turn.

use std::fs;
use std::sync::Arc;
use std::time::Duration;

use crate::clock::{Clock, SystemClock};
use crate::command::Peer;
use crate::server::Shared;
use crate::threads::Threads;

/// Share of its time above which a thread has more to do than is good.
const HOT: f64 = 0.9;
/// Cores that must be idle for a few connections to be moved apart: with less, another thread would only take time from
/// those who load the broker.
const SPARE: f64 = 0.5;
/// So many busy connections are moved apart even so: each waits for the turns of fewer others then.
const MANY: usize = 24;
/// A thread above this gets no more connections.
const ROOM: f64 = 0.6;
/// Two threads that take less than this together become one.
const CALM: f64 = 0.4;
/// How many looks in a row must say so before connections are moved apart, and together.
const APART: u32 = 3;
const TOGETHER: u32 = 10;

const CALM_PERIOD: Duration = Duration::from_millis(500);
const HOT_PERIOD: Duration = Duration::from_millis(100);

/// From which thread to which.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// Some of the connections; the other thread may not have begun.
    Apart { from: usize, to: usize },
    /// All of them.
    Together { from: usize, to: usize },
}

/// What may have to be done when threads are busy for these shares of their time.
fn step(busy: &[f64], limit: usize) -> Option<Step> {
    let by_busy = |a: &usize, b: &usize| busy[*a].total_cmp(&busy[*b]);
    let mut order: Vec<usize> = (0..busy.len()).collect();
    order.sort_by(by_busy);
    let (&least, &most) = (order.first()?, order.last()?);
    if busy[most] >= HOT {
        let to = if busy[least] < ROOM { least } else { busy.len() };
        return (to != most && to < limit).then_some(Step::Apart { from: most, to });
    }
    let [a, b, ..] = order[..] else { return None };
    (busy[a] + busy[b] < CALM).then_some(Step::Together { from: a.max(b), to: a.min(b) })
}

/// Which connections go, of those that did `work`, so that up to `share` of it goes with them.
fn chosen(work: &[u64], share: f64) -> Vec<usize> {
    let total: u64 = work.iter().sum();
    #[expect(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    let wanted = (total as f64 * share) as u64;
    let mut order: Vec<usize> = (0..work.len()).filter(|&at| work[at] > 0).collect();
    order.sort_by_key(|&at| std::cmp::Reverse(work[at]));
    let mut sum = 0;
    order.retain(|&at| {
        let goes = sum + work[at] <= wanted;
        sum += if goes { work[at] } else { 0 };
        goes
    });
    order
}

/// Time that all cores together have been idle, and how many cores there are, as far as the system tells.
#[derive(Clone, Copy)]
struct Cores {
    idle: u64,
    all: u64,
    count: u32,
}

impl Cores {
    /// As Linux tells it in /proc/stat: a line of ticks for all cores, then one for each.
    fn parse(stat: &str) -> Option<Cores> {
        let ticks: Vec<u64> =
            stat.lines().next()?.strip_prefix("cpu ")?.split_whitespace().flat_map(str::parse).collect();
        // user, nice, system, idle, iowait, irq, softirq, steal; time of guests is in user already.
        let [.., idle, waiting, _, _, _] = ticks.get(..8)? else { return None };
        let count = stat.lines().skip(1).take_while(|line| line.starts_with("cpu")).count();
        Some(Cores { idle: idle + waiting, all: ticks[..8].iter().sum(), count: u32::try_from(count).ok()? })
    }

    fn now() -> Option<Cores> {
        Cores::parse(&fs::read_to_string("/proc/stat").ok()?)
    }

    /// Cores that did nothing since `before`.
    #[expect(clippy::cast_precision_loss)]
    fn idle_since(self, before: Cores) -> f64 {
        let (idle, all) = (self.idle.saturating_sub(before.idle), self.all.saturating_sub(before.all));
        if all == 0 { 0.0 } else { idle as f64 / all as f64 * f64::from(self.count) }
    }
}

/// What was seen at the last look.
struct Spread {
    busy: Vec<Duration>,
    at: Duration,
    /// The step that seemed right, and how many times in a row.
    inclined: Option<(Step, u32)>,
    /// What there was when it first seemed right to move connections apart.
    noted: Noted,
}

#[derive(Default)]
struct Noted {
    cores: Option<Cores>,
    work: Vec<(Arc<Peer>, u64)>,
}

impl Noted {
    fn now(shared: &Shared, thread: usize) -> Noted {
        let peers = shared.peers_now().into_iter().filter(|peer| peer.place.wanted() == thread);
        let work = peers.map(|peer| (peer.clone(), peer.place.work())).collect();
        Noted { cores: Cores::now(), work }
    }

    /// The connections to be moved since then, so that up to `share` of the work goes with them.
    fn going(self, share: f64) -> Vec<Arc<Peer>> {
        let work: Vec<u64> = self.work.iter().map(|(peer, before)| peer.place.work() - before).collect();
        // Who cannot know assumes that there is one to spare.
        let idle = self.cores.zip(Cores::now()).map_or(1.0, |(before, now)| now.idle_since(before));
        if idle < SPARE && work.iter().filter(|&&work| work > 0).count() < MANY {
            return Vec::new();
        }
        chosen(&work, share).into_iter().map(|at| self.work[at].0.clone()).collect()
    }
}

impl Spread {
    /// One look at the threads. How long until the next one.
    fn look(&mut self, shared: &Shared, threads: &Threads, now: Duration) -> Duration {
        let busy = threads.busy();
        let passed = now.saturating_sub(self.at).as_secs_f64().max(1e-3);
        let before = |index: usize| self.busy.get(index).copied().unwrap_or(busy[index]);
        let shares: Vec<f64> =
            busy.iter().enumerate().map(|(i, b)| b.saturating_sub(before(i)).as_secs_f64() / passed).collect();
        (self.busy, self.at) = (busy, now);
        let step = step(&shares, threads.limit());
        let times = match (step, self.inclined) {
            (Some(step), Some((same, times))) if step == same => times + 1,
            _ => 1,
        };
        self.inclined = step.map(|step| (step, times));
        match step {
            Some(Step::Apart { from, .. }) if times == 1 => self.noted = Noted::now(shared, from),
            Some(Step::Apart { from, to }) if times == APART => {
                self.inclined = None;
                let share = 0.5 * (1.0 - shares.get(to).copied().unwrap_or(0.0) / shares[from]);
                part(threads, to, &std::mem::take(&mut self.noted).going(share));
            }
            Some(Step::Together { from, to }) if times == TOGETHER => {
                self.inclined = None;
                let peers = shared.peers_now();
                peers.iter().filter(|peer| peer.place.wanted() == from).for_each(|peer| peer.place.want(to));
            }
            _ => {}
        }
        if shares.iter().any(|&share| share >= HOT) { HOT_PERIOD } else { CALM_PERIOD }
    }
}

/// Moves connections to a thread, which is begun if need be.
fn part(threads: &Threads, to: usize, going: &[Arc<Peer>]) {
    if going.is_empty() {
        return;
    }
    if let Err(error) = threads.begin(to) {
        tracing::warn!(%error, "cannot begin a further thread for connections");
        return;
    }
    tracing::debug!(connections = going.len(), thread = to, "a thread has more to do than it can");
    going.iter().for_each(|peer| peer.place.want(to));
}

/// Watches over the threads until it is aborted, by the machine's time: it is the machine's threads that are watched.
pub(crate) async fn watch(shared: Arc<Shared>, threads: Arc<Threads>, clock: Arc<SystemClock>) {
    if threads.limit() == 1 {
        return;
    }
    let mut spread = Spread { busy: threads.busy(), at: clock.now(), inclined: None, noted: Noted::default() };
    let mut period = CALM_PERIOD;
    loop {
        clock.sleep(period).await;
        period = spread.look(&shared, &threads, clock.now());
    }
}

#[cfg(test)]
mod tests {
    use super::{Cores, Step, chosen, step};

    #[test]
    fn one_thread_will_do_until_it_has_more_to_do_than_it_can() {
        assert_eq!(step(&[0.85], 4), None);
        assert_eq!(step(&[0.95], 4), Some(Step::Apart { from: 0, to: 1 }));
        assert_eq!(step(&[0.95], 1), None, "there may be no other");
    }

    #[test]
    fn a_thread_that_has_room_comes_before_a_new_one() {
        assert_eq!(step(&[0.95, 0.3], 4), Some(Step::Apart { from: 0, to: 1 }));
        assert_eq!(step(&[0.5, 0.97, 0.7], 4), Some(Step::Apart { from: 1, to: 0 }));
        assert_eq!(step(&[0.95, 0.7], 4), Some(Step::Apart { from: 0, to: 2 }));
        assert_eq!(step(&[0.95, 0.7], 2), None);
    }

    #[test]
    fn threads_that_do_little_become_one() {
        assert_eq!(step(&[0.1, 0.2], 4), Some(Step::Together { from: 1, to: 0 }));
        assert_eq!(step(&[0.3, 0.2], 4), None);
        assert_eq!(step(&[0.5, 0.1, 0.2], 4), Some(Step::Together { from: 2, to: 1 }));
        assert_eq!(step(&[0.1], 4), None);
    }

    #[test]
    fn what_goes_is_no_more_than_its_share() {
        assert_eq!(chosen(&[100, 100], 0.5), [0]);
        assert_eq!(chosen(&[90, 5, 5], 0.5), [1, 2]);
        assert_eq!(chosen(&[10, 0, 30, 20], 0.5), [2]);
        assert_eq!(chosen(&[10, 0, 30, 21], 0.5), [2], "rounded down");
        assert_eq!(chosen(&[0, 0], 0.5), [0; 0]);
    }

    #[test]
    fn idle_cores_are_told_by_the_ticks_between() {
        let before = Cores::parse("cpu  100 0 100 700 100 0 0 0 0 0\ncpu0 1\ncpu1 1\nintr 5\n").unwrap();
        let after = Cores::parse("cpu  150 0 150 750 150 0 0 0 0 0\ncpu0 1\ncpu1 1\nintr 5\n").unwrap();
        assert!((after.idle_since(before) - 1.0).abs() < 1e-9);
        assert!(Cores::parse("cpu 1 2 3").is_none());
        assert!(Cores::parse("").is_none());
    }
}
