//! The process that is recorded: does what the plan says, and says what it has submitted and what was promised. What it
//! says goes to a file, so that the trace shows it among the store's own calls.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::Path;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use leveret_storage::disk::{DiskOptions, open_disk_with};
use leveret_storage::{Backend, Entry, Level, Recovered, StorageError, Store, StoreOptions};

use super::plan::{End, Plan, Step, Then};
use crate::support::PATIENCE;

/// Small files, so that cleaning goes on all the time.
pub fn open(dir: &Path) -> Result<(Box<dyn Backend>, Recovered), StorageError> {
    open_disk_with(dir, &DiskOptions { segment_bytes: 256 << 10, spare_bytes: 512 << 10, ..DiskOptions::default() })
}

/// What the process says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Said {
    /// All steps up to this number are about to be submitted.
    Submitted(u64),
    /// All steps up to this number are on the device.
    Promised(u64),
    /// The store was closed, and all steps are.
    Closed,
}

impl Said {
    fn line(self) -> String {
        match self {
            Said::Submitted(number) => format!("submitted {number}\n"),
            Said::Promised(number) => format!("promised {number}\n"),
            Said::Closed => "closed 0\n".to_owned(),
        }
    }

    /// `None`: not one of ours.
    pub fn parse(line: &str) -> Option<Said> {
        let (verb, number) = line.trim_end().split_once(' ')?;
        let number = number.parse().ok()?;
        Some(match verb {
            "submitted" => Said::Submitted(number),
            "promised" => Said::Promised(number),
            "closed" => Said::Closed,
            _ => return None,
        })
    }
}

/// One write for each line.
fn say(mut to: &File, said: Said) {
    to.write_all(said.line().as_bytes()).expect("what was promised can be said");
}

/// Lives life `number` of the plan in `dir`; without a number only opens the store and closes it.
pub fn live(plan: &Plan, number: Option<usize>, dir: &Path, said: &Path) {
    let file = || OpenOptions::new().append(true).create(true).open(said).expect("a file to say things in");
    let (voice, own) = (file(), file());
    let (complete, completed) = mpsc::channel();
    let (backend, _) = open(dir).expect("the store opens");
    let store = Store::start(
        backend,
        StoreOptions::default(),
        move |done: &mut Vec<(Level, u64)>| {
            for (level, number) in done.drain(..) {
                if level == Level::Synced {
                    say(&voice, Said::Promised(number));
                }
                let _ = complete.send(number);
            }
        },
        |error| panic!("{error}"),
    )
    .expect("the store starts");
    let Some(life) = number.map(|number| &plan.lives[number]) else {
        return store.close().expect("the store closes");
    };
    let mut number = plan.number_before(life.groups.start);
    for (steps, then) in &plan.groups[life.groups.clone()] {
        number += steps.len() as u64;
        say(&own, Said::Submitted(number));
        submit(&store, steps, (*then != Then::Nothing).then_some((Level::Synced, number)));
        match then {
            Then::Wait => wait(&completed, number),
            Then::Rest => thread::sleep(Duration::from_millis(120)),
            Then::Nothing | Then::Ask => {}
        }
    }
    match life.end {
        End::Closed => {
            store.close().expect("the store closes");
            say(&own, Said::Closed);
        }
        End::Killed => {
            let last = u64::MAX;
            submit(&store, &[], Some((Level::Written, last)));
            wait(&completed, last);
            // Nothing of the store is closed, nor does anything run on.
            std::process::exit(0);
        }
    }
}

fn submit(store: &Store<(Level, u64)>, steps: &[Step], notify: Option<(Level, u64)>) {
    let mut entries = Vec::new();
    for step in steps {
        if let Step::Mark { queue, through } = step {
            let mark = store.mark(*queue).expect("the store is open");
            mark.delivered_through(*through).expect("a mark can be written");
        }
        entries.extend(step.op().map(Entry::Op));
    }
    entries.extend(notify.map(|(level, number)| Entry::Notify(level, (level, number))));
    store.submit(&mut entries);
}

fn wait(completed: &mpsc::Receiver<u64>, number: u64) {
    while completed.recv_timeout(PATIENCE).expect("what was asked for completes") != number {}
}
