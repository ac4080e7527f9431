use std::sync::atomic::AtomicBool;
use std::sync::mpsc;
use std::task::Wake;
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use super::*;

/// Only ever used up by a failure.
const PATIENCE: Duration = Duration::from_secs(20);

/// Counts how often it is called, and wakes a thread.
struct Bell {
    rung: AtomicUsize,
    sleeper: Thread,
}

impl Bell {
    fn new() -> Arc<Bell> {
        Arc::new(Bell { rung: AtomicUsize::new(0), sleeper: thread::current() })
    }

    fn rung(&self) -> usize {
        self.rung.load(Ordering::SeqCst)
    }

    /// Sleeps until it has been called since `before`.
    fn wait(&self, before: usize) {
        let deadline = Instant::now() + PATIENCE;
        while self.rung() == before {
            thread::park_timeout(PATIENCE);
            assert!(Instant::now() < deadline, "a waker was lost");
        }
    }
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.rung.fetch_add(1, Ordering::SeqCst);
        self.sleeper.unpark();
    }
}

// Mailbox

#[test]
fn the_bell_rings_once_for_a_sleeper_and_not_for_one_who_is_awake() {
    let mailbox = Mailbox::default();
    let bell = Bell::new();
    let waker = Waker::from(bell.clone());
    mailbox.push(1).unwrap();
    assert_eq!(bell.rung(), 0);
    assert!(!mailbox.sleep(&waker), "something has come already");
    let mut taken = VecDeque::new();
    mailbox.take(&mut taken);
    assert!(mailbox.sleep(&waker));
    mailbox.push(2).unwrap();
    assert!(mailbox.append(&mut vec![3, 4]));
    assert_eq!(bell.rung(), 1);
    mailbox.take(&mut taken);
    assert_eq!(taken, [1, 2, 3, 4], "behind what was there");
}

#[test]
fn a_closed_mailbox_returns_what_is_left_and_takes_nothing_more() {
    let mailbox = Mailbox::default();
    mailbox.push(1).unwrap();
    mailbox.push(2).unwrap();
    assert_eq!(mailbox.close(), [1, 2]);
    assert_eq!(mailbox.push(3), Err(3));
    let mut items = vec![4, 5];
    assert!(!mailbox.append(&mut items));
    assert_eq!(items, [4, 5], "they stay with who brought them");
    assert!(mailbox.close().is_empty());
}

#[test]
fn whatever_several_threads_push_arrives_once_in_the_order_of_each() {
    const PUSHERS: usize = 4;
    const EACH: usize = 20_000;
    let mailbox = Arc::new(Mailbox::default());
    let pushers: Vec<_> = (0..PUSHERS)
        .map(|pusher| {
            let mailbox = mailbox.clone();
            thread::spawn(move || {
                for n in 0..EACH {
                    if n % 3 == 0 {
                        assert!(mailbox.append(&mut vec![(pusher, n)]));
                    } else {
                        mailbox.push((pusher, n)).unwrap();
                    }
                }
            })
        })
        .collect();
    let bell = Bell::new();
    let waker = Waker::from(bell.clone());
    let (mut next, mut taken) = ([0; PUSHERS], VecDeque::new());
    while next.iter().sum::<usize>() < PUSHERS * EACH {
        let before = bell.rung();
        mailbox.take(&mut taken);
        for (pusher, n) in taken.drain(..) {
            assert_eq!(n, next[pusher]);
            next[pusher] += 1;
        }
        if next.iter().sum::<usize>() < PUSHERS * EACH && mailbox.sleep(&waker) {
            bell.wait(before);
        }
    }
    for pusher in pushers {
        pusher.join().unwrap();
    }
}

// Turn

/// Keeps what it is given; the commands of a panic make it fail.
struct Book {
    kept: Vec<(usize, usize)>,
    failed: usize,
    running: Arc<AtomicBool>,
}

const PANIC: (usize, usize) = (usize::MAX, 0);

impl Book {
    fn new() -> Book {
        Book { kept: Vec::new(), failed: 0, running: Arc::default() }
    }
}

impl Owner for Book {
    type Command = (usize, usize);

    fn run(&mut self, commands: &mut Vec<(usize, usize)>) {
        assert!(!self.running.swap(true, Ordering::SeqCst), "one at a time");
        for command in commands.drain(..) {
            if command == PANIC {
                panic!("asked to");
            }
            self.kept.push(command);
        }
        self.running.store(false, Ordering::SeqCst);
    }

    fn fail(&mut self) {
        self.failed += 1;
        self.running.store(false, Ordering::SeqCst);
    }
}

#[test]
fn every_command_of_several_threads_is_applied_once_in_the_order_of_each() {
    const PUSHERS: usize = 4;
    const EACH: usize = 20_000;
    let turn = Turn::new(Book::new());
    let pushers: Vec<_> = (0..PUSHERS)
        .map(|pusher| {
            let turn = turn.clone();
            thread::spawn(move || {
                for n in 0..EACH {
                    if n % 3 == 0 {
                        turn.append(&mut vec![(pusher, n)], 10);
                    } else {
                        turn.push((pusher, n));
                    }
                }
            })
        })
        .collect();
    for pusher in pushers {
        pusher.join().unwrap();
    }
    let mut next = [0; PUSHERS];
    for &(pusher, n) in turn.with(|book| std::mem::take(&mut book.kept)).iter() {
        assert_eq!(n, next[pusher]);
        next[pusher] += 1;
    }
    assert_eq!(next, [EACH; PUSHERS]);
}

#[test]
fn a_panic_fails_the_state_and_later_commands_still_run() {
    let turn = Turn::new(Book::new());
    turn.push((0, 0));
    turn.push(PANIC);
    assert_eq!(turn.with(|book| book.failed), 1);
    turn.append(&mut vec![(0, 1), PANIC, (0, 2)], 0);
    turn.push((0, 3));
    let (kept, failed) = turn.with(|book| (book.kept.clone(), book.failed));
    assert_eq!(failed, 2);
    assert_eq!(kept, [(0, 0), (0, 1), (0, 3)], "what came with the defect is given up");
}

/// Waits for a word before each run.
struct Gated {
    gate: mpsc::Receiver<()>,
    reached: mpsc::Sender<()>,
}

impl Owner for Gated {
    type Command = ();

    fn run(&mut self, commands: &mut Vec<()>) {
        commands.clear();
        self.reached.send(()).unwrap();
        self.gate.recv_timeout(PATIENCE).unwrap();
    }

    fn fail(&mut self) {}
}

#[test]
fn a_mailbox_above_its_limit_is_full_until_it_is_emptied_and_then_calls_who_waits() {
    let (open, gate) = mpsc::channel();
    let (reached, at_gate) = mpsc::channel();
    let turn = Turn::new(Gated { gate, reached });
    let runner = {
        let turn = turn.clone();
        thread::spawn(move || turn.push(()))
    };
    at_gate.recv_timeout(PATIENCE).unwrap();

    // Somebody runs the state, so this is left behind for them.
    let bell = Bell::new();
    let waker = Waker::from(bell.clone());
    turn.append(&mut vec![()], TURN_BYTES);
    assert!(!turn.is_full(&waker), "at the limit, not over it");
    turn.append(&mut vec![()], 1);
    assert!(turn.is_over() && turn.is_full(&waker));
    assert_eq!(bell.rung(), 0);

    open.send(()).unwrap();
    at_gate.recv_timeout(PATIENCE).unwrap();
    assert_eq!(bell.rung(), 1, "called when it is taken");
    assert!(!turn.is_full(&waker));
    open.send(()).unwrap();
    runner.join().unwrap();
}

#[test]
fn whoever_waits_for_a_full_mailbox_is_called() {
    let turn = Turn::new(Book::new());
    let pushers: Vec<_> = (0..4)
        .map(|pusher| {
            let turn = turn.clone();
            thread::spawn(move || {
                let bell = Bell::new();
                let waker = Waker::from(bell.clone());
                for n in 0..5_000 {
                    turn.append(&mut vec![(pusher, n)], TURN_BYTES / 2 + 1);
                    let before = bell.rung();
                    if turn.is_full(&waker) {
                        bell.wait(before);
                    }
                }
            })
        })
        .collect();
    for pusher in pushers {
        pusher.join().unwrap();
    }
}

/// Tells itself to go on, so many times.
struct Endless {
    itself: std::sync::Weak<Turn<Endless>>,
    runs: usize,
}

impl Owner for Endless {
    type Command = usize;

    fn run(&mut self, commands: &mut Vec<usize>) {
        self.runs += 1;
        for left in commands.drain(..).filter(|left| *left > 0) {
            self.itself.upgrade().unwrap().push(left - 1);
        }
    }

    fn fail(&mut self) {}
}

fn endless() -> Arc<Turn<Endless>> {
    let turn = Turn::new(Endless { itself: std::sync::Weak::new(), runs: 0 });
    let itself = Arc::downgrade(&turn);
    turn.with(|state| state.itself = itself);
    turn
}

#[test]
fn a_busy_state_does_not_hold_the_task_that_happens_to_run_it() {
    let runtime = tokio::runtime::Builder::new_current_thread().build();
    runtime.unwrap().block_on(async {
        let turn = endless();
        turn.push(100);
        assert_eq!(turn.with(|state| state.runs), ROUNDS, "the rest is a task's");
        while turn.with(|state| state.runs) < 101 {
            tokio::task::yield_now().await;
        }
    });
}

#[test]
fn a_busy_state_on_a_thread_of_its_own_runs_to_the_end() {
    let turn = endless();
    turn.push(2_000_000);
    assert_eq!(turn.with(|state| state.runs), 2_000_001);
}
