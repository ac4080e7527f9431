//! A run from its beginning to its report: threads, time, and what they amount to.

use std::process;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread::{self, Scope, ScopedJoinHandle};
use std::time::{Duration, Instant};

use super::check::Faults;
use super::consumer::{Consumed, consume};
use super::error::PerfError;
use super::histogram::Histogram;
use super::options::{Length, Plan, Scenario};
use super::process::{cpu_seconds, resident_bytes};
use super::producer::{Produced, produce};
use super::report::Report;
use super::shared::Shared;
use super::stage::Stage;

/// How long messages may stay away at the end before they count as lost.
const DRAIN_LIMIT: Duration = Duration::from_secs(10);
/// How often what others count is looked at.
const LOOK: Duration = Duration::from_millis(2);
/// How long the wait for an event may be before it is looked whether the user has interrupted.
const LONGEST_WAIT: Duration = Duration::from_millis(50);
const STACK: usize = 256 << 10;

/// Runs it, and leaves nothing declared behind. `interrupted` ends the measured time early.
pub fn run(plan: Plan, interrupted: Arc<AtomicBool>) -> Result<Report, PerfError> {
    let stage = Stage::named(&plan);
    let declared = stage.declare(&plan);
    if let Err(error) = declared {
        // What was refused may have come behind something that was not; the first error is the one to tell.
        let _ = stage.clear(&plan);
        return Err(error);
    }
    let shared = Shared::new(plan, stage.exchange.clone(), stage.queues.clone());
    let outcome = thread::scope(|scope| perform(scope, &shared, &interrupted));
    let left = stage.clear(&shared.plan);
    let outcome = outcome?;
    Ok(report(shared, outcome, left?))
}

/// What a thread tells the one that directs the run.
enum Event {
    /// It waits for the start, or for deliveries.
    Ready,
    /// A producer has ended.
    Produced,
    Failed,
}

/// Counters at one moment.
struct Moment {
    at: Instant,
    published: u64,
    received: u64,
    confirmed: u64,
    /// CPU seconds of the broker, if it is watched, and of this process.
    broker: Option<f64>,
    own: Option<f64>,
}

struct Outcome {
    begin: Moment,
    end: Moment,
    broker_resident: Option<u64>,
    produced: Vec<Produced>,
    consumed: Vec<Consumed>,
}

type Started<'scope, T> = Vec<ScopedJoinHandle<'scope, Result<T, PerfError>>>;

fn perform<'scope>(
    scope: &'scope Scope<'scope, '_>,
    shared: &'scope Shared,
    interrupted: &AtomicBool,
) -> Result<Outcome, PerfError> {
    let (tell, told) = mpsc::channel();
    let mut consumers = Started::new();
    let mut producers = Started::new();
    let watched = start_threads(scope, shared, &tell, &mut consumers, &mut producers)
        .and_then(|()| Director { shared, told, interrupted, ended: 0 }.direct());
    if !matches!(watched, Ok(Some(_))) {
        shared.abort();
    }
    shared.stop.store(true, Ordering::Relaxed);
    let mut errors = Vec::new();
    let produced = join(producers, &mut errors);
    let consumed = join(consumers, &mut errors);
    // An error that says why goes before those that only follow from it.
    errors.sort_by_key(|error| !error.is_cause());
    if let Some(error) = errors.into_iter().next() {
        return Err(error);
    }
    match watched? {
        Some((begin, end, broker_resident)) => Ok(Outcome { begin, end, broker_resident, produced, consumed }),
        // Whoever says that it failed also returns the error.
        None => Err(PerfError::Dropped),
    }
}

fn start_threads<'scope>(
    scope: &'scope Scope<'scope, '_>,
    shared: &'scope Shared,
    tell: &Sender<Event>,
    consumers: &mut Started<'scope, Consumed>,
    producers: &mut Started<'scope, Produced>,
) -> Result<(), PerfError> {
    for number in 0..shared.plan.consumers {
        let tell = tell.clone();
        let work = move || {
            let result = consume(shared, number, || tell_of(&tell, Event::Ready));
            if result.is_err() {
                tell_of(&tell, Event::Failed);
            }
            result
        };
        let thread = thread::Builder::new().stack_size(STACK).spawn_scoped(scope, work);
        consumers.push(thread.map_err(PerfError::Thread)?);
    }
    for number in 0..shared.plan.producers {
        let tell = tell.clone();
        let work = move || {
            let result = produce(shared, number, || tell_of(&tell, Event::Ready));
            tell_of(&tell, if result.is_ok() { Event::Produced } else { Event::Failed });
            result
        };
        let thread = thread::Builder::new().stack_size(STACK).spawn_scoped(scope, work);
        producers.push(thread.map_err(PerfError::Thread)?);
    }
    Ok(())
}

/// Nobody listens any more once the run is over.
fn tell_of(tell: &Sender<Event>, event: Event) {
    let _ = tell.send(event);
}

fn join<T>(threads: Started<'_, T>, errors: &mut Vec<PerfError>) -> Vec<T> {
    let mut results = Vec::new();
    for thread in threads {
        match thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)) {
            Ok(result) => results.push(result),
            Err(error) => errors.push(error),
        }
    }
    results
}

/// Who keeps the time.
struct Director<'a> {
    shared: &'a Shared,
    told: Receiver<Event>,
    interrupted: &'a AtomicBool,
    /// Producers that have ended.
    ended: usize,
}

/// What was counted at the beginning and the end of what is measured, and the broker's memory; None: a thread failed.
type Measured = Option<(Moment, Moment, Option<u64>)>;

impl Director<'_> {
    fn direct(mut self) -> Result<Measured, PerfError> {
        let plan = &self.shared.plan;
        for _ in 0..plan.producers + plan.consumers {
            // A sender is kept by each thread until its end, so this fails only with all of them.
            if !matches!(self.told.recv(), Ok(Event::Ready)) {
                return Ok(None);
            }
        }
        let (begin, end_of_time) = match plan.length {
            Length::Time { warmup, measured } => {
                let start = Instant::now();
                self.shared.start(warmup);
                if !self.wait_until(start + warmup) {
                    return Ok(None);
                }
                let begin = self.moment()?;
                if !self.wait_until(begin.at + measured) {
                    return Ok(None);
                }
                (begin, Some(self.moment()?))
            }
            Length::Messages(_) => {
                // Taken first: a few messages are there before anything is read of this process.
                let begin = self.moment()?;
                self.shared.start(Duration::ZERO);
                (begin, None)
            }
        };
        let resident =
            plan.broker_pid.map(|pid| resident_bytes(pid).map_err(|source| PerfError::Process { pid, source }));
        let resident = resident.transpose()?;
        if end_of_time.is_some() {
            self.shared.stop_publishing.store(true, Ordering::Relaxed);
        }
        if !self.wait_for_the_last() {
            return Ok(None);
        }
        let end = match end_of_time {
            Some(end) => end,
            // That the producers have ended is heard of later than the last message has come.
            None => {
                let now = self.moment()?;
                Moment { at: self.shared.last().unwrap_or(now.at), ..now }
            }
        };
        Ok(Some((begin, end, resident)))
    }

    /// False when a thread failed before.
    fn wait_until(&mut self, end: Instant) -> bool {
        loop {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() || self.interrupted.load(Ordering::Relaxed) {
                return true;
            }
            if !self.hear(left.min(LONGEST_WAIT)) {
                return false;
            }
        }
    }

    /// Waits for an event at most this long. False when it is a failure.
    fn hear(&mut self, limit: Duration) -> bool {
        match self.told.recv_timeout(limit) {
            Ok(Event::Produced) => self.ended += 1,
            Ok(Event::Ready) | Err(RecvTimeoutError::Timeout) => {}
            Ok(Event::Failed) | Err(RecvTimeoutError::Disconnected) => return false,
        }
        true
    }

    /// Waits until the producers have ended and all they sent has come, or nothing has come for a while.
    fn wait_for_the_last(&mut self) -> bool {
        let shared = self.shared;
        while self.ended < shared.plan.producers {
            if self.interrupted.load(Ordering::Relaxed) {
                shared.stop_publishing.store(true, Ordering::Relaxed);
            }
            if !self.hear(LONGEST_WAIT) {
                return false;
            }
        }
        let expected = shared.published.load(Ordering::Relaxed) * shared.plan.copies();
        let (mut last, mut seen) = (Instant::now(), 0);
        loop {
            let received = shared.received.load(Ordering::Relaxed);
            if received >= expected {
                return true;
            }
            if received != seen {
                (last, seen) = (Instant::now(), received);
            } else if last.elapsed() > DRAIN_LIMIT {
                return true;
            }
            if !self.hear(LOOK) {
                return false;
            }
        }
    }

    fn moment(&self) -> Result<Moment, PerfError> {
        let pid = self.shared.plan.broker_pid;
        let broker =
            pid.map(|pid| cpu_seconds(pid).map_err(|source| PerfError::Process { pid, source })).transpose()?;
        let own = cpu_seconds(process::id()).ok();
        Ok(Moment {
            at: Instant::now(),
            published: self.shared.published.load(Ordering::Relaxed),
            received: self.shared.received.load(Ordering::Relaxed),
            confirmed: self.shared.confirmed.load(Ordering::Relaxed),
            broker,
            own,
        })
    }
}

/// `left`: how many messages were in the queues when they were deleted.
fn report(shared: Shared, outcome: Outcome, left: u64) -> Report {
    let Outcome { begin, end, broker_resident, produced, consumed } = outcome;
    let mut report = Report::default();
    let plan = &shared.plan;
    report.text("scenario", plan.scenario.name());
    report.text("broker", &plan.url);
    report.count("producers", plan.producers as u64);
    report.count("consumers", plan.consumers as u64);
    report.count("queues", plan.queues as u64);
    report.text("first_queue", shared.queues.first().map_or("", String::as_str));
    report.count("size", plan.size as u64);
    let seconds = end.at.saturating_duration_since(begin.at).as_secs_f64();
    report.seconds("seconds", seconds);
    let per_second = |of: fn(&Moment) -> u64| ratio((of(&end) - of(&begin)) as f64, seconds).unwrap_or(0.0);
    report.number("published_per_s", per_second(|moment| moment.published));
    report.number("received_per_s", per_second(|moment| moment.received));
    if plan.window > 0 {
        report.number("confirmed_per_s", per_second(|moment| moment.confirmed));
    }
    let mut faults = Faults::default();
    let (mut times, mut confirm_times, mut late) = Default::default();
    let published: Vec<u64> = produced.iter().map(|produced| produced.messages).collect();
    for Produced { confirm_times: theirs, late: theirs_late, faults: found, .. } in produced {
        Histogram::merge(&mut confirm_times, &theirs);
        Histogram::merge(&mut late, &theirs_late);
        faults.add(found);
    }
    for Consumed { times: theirs, faults: found } in consumed {
        Histogram::merge(&mut times, &theirs);
        faults.add(found);
    }
    let every_message = plan.scenario == Scenario::Latency;
    report.times(if every_message { "latency_us" } else { "sampled_latency_us" }, &times);
    report.times("confirm_us", &confirm_times);
    report.times("late_us", &late);
    let messages = match plan.consumers {
        0 => end.published - begin.published,
        _ => end.received - begin.received,
    };
    let per_message = |begin: Option<f64>, end: Option<f64>| ratio((end? - begin?) * 1e6, messages as f64);
    if let Some(micros) = per_message(begin.broker, end.broker) {
        report.number("broker_cpu_us_per_message", micros);
    }
    if let Some(bytes) = broker_resident {
        report.number("broker_rss_mb", bytes as f64 / 1e6);
    }
    if let Some(micros) = per_message(begin.own, end.own) {
        report.number("own_cpu_us_per_message", micros);
    }
    report.count("published", published.iter().sum());
    report.count("received", shared.received.load(Ordering::Relaxed));
    report.count("confirmed", shared.confirmed.load(Ordering::Relaxed));
    report.count("redelivered", shared.redelivered.load(Ordering::Relaxed));
    report.count("blocked", shared.blocked.load(Ordering::Relaxed));
    faults.add(missing(shared, &published, left));
    // What was refused need not come.
    faults.lost = faults.lost.saturating_sub(faults.nacked);
    conclude(report, faults)
}

/// None where there is nothing to share out to.
fn ratio(amount: f64, among: f64) -> Option<f64> {
    (among > 0.0).then(|| amount / among)
}

/// What the queues' checks say; without consumers, what was left in the queues.
fn missing(shared: Shared, published: &[u64], left: u64) -> Faults {
    let mut faults = Faults::default();
    if shared.plan.consumers > 0 {
        shared.into_checks().for_each(|check| faults.add(check.finish(published)));
        return faults;
    }
    let copies = if shared.plan.is_fanout() { shared.plan.queues as u64 } else { 1 };
    let expected = published.iter().sum::<u64>() * copies;
    faults.lost = expected.saturating_sub(left);
    faults.duplicated = left.saturating_sub(expected);
    if left != expected {
        faults.note(format_args!("the queues held {left} messages, not {expected}"));
    }
    faults
}

fn conclude(mut report: Report, faults: Faults) -> Report {
    report.count("lost", faults.lost);
    report.count("duplicated", faults.duplicated);
    report.count("out_of_order", faults.out_of_order);
    report.count("foreign", faults.foreign);
    report.count("nacked", faults.nacked);
    report.count("wrongly_confirmed", faults.wrongly_confirmed);
    report.sound = faults.none();
    if let Some(first) = faults.first {
        report.text("first_fault", first);
    }
    let sound = report.sound;
    report.truth("sound", sound);
    report
}
