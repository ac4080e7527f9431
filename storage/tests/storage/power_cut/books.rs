//! What must be found, what may be, and what must not.

use std::collections::{BTreeMap, BTreeSet};

use leveret_storage::conformance::{Model, insert};
use leveret_storage::{Note, Op, Recovered};

use super::plan::{Plan, Step, key_bytes, value};
use super::replay::Progress;

/// By queue: the length of each message.
type Messages = BTreeMap<u64, BTreeMap<u64, usize>>;

/// What a store that had done all steps so far would hold.
#[derive(Clone, Debug, Default)]
struct State {
    messages: Messages,
    /// (version, length) by key.
    definitions: BTreeMap<u64, (u64, usize)>,
    marks: BTreeMap<u64, u64>,
}

impl State {
    fn apply(&mut self, step: &Step) {
        match *step {
            Step::Put { key, version, len } => drop(self.definitions.insert(key, (version, len))),
            Step::Delete { key } => drop(self.definitions.remove(&key)),
            Step::Insert { queue, first, count, len } => {
                let new = (first..first + u64::from(count)).map(|sequence| (sequence, len));
                self.messages.entry(queue).or_default().extend(new);
            }
            Step::Spill { .. } => {}
            Step::Remove { queue, first, count } => {
                let range = first..first.saturating_add(count);
                if let Some(messages) = self.messages.get_mut(&queue) {
                    messages.retain(|sequence, _| !range.contains(sequence));
                }
            }
            Step::Drop { queue } => {
                self.messages.remove(&queue);
                self.marks.remove(&queue);
            }
            Step::Mark { queue, through } => {
                let mark = self.marks.entry(queue).or_default();
                *mark = through.max(*mark);
            }
        }
        self.messages.retain(|_, messages| !messages.is_empty());
    }
}

/// Follows a plan, and compares what is found with it.
pub struct Books<'a> {
    plan: &'a Plan,
    /// What was promised, and which group comes next.
    state: State,
    group: usize,
    number: u64,
}

impl<'a> Books<'a> {
    pub fn new(plan: &'a Plan) -> Books<'a> {
        Books { plan, state: State::default(), group: 0, number: 0 }
    }

    /// Compares with a store that was opened; what was promised must not have become less since the last time. One
    /// that was `closed` before the cut has everything.
    ///
    /// # Panics
    /// When the two don't agree.
    pub fn check(&mut self, progress: Progress, recovered: &Recovered, found: &Model, closed: bool) {
        assert_eq!(recovered.quarantined, [], "a power cut damages nothing");
        for note in &recovered.notes {
            let expected = matches!(note, Note::MarksRaised | Note::TailCut { .. } | Note::CreationCompleted);
            assert!(expected, "{note:?} does not come from a power cut");
        }
        self.advance(progress.promised);
        let promised = if closed { progress.submitted } else { progress.promised };
        let mut state = self.state.clone();
        let (mut group, mut number) = (self.group, self.number);
        let mut matching = (number >= promised && same(&state.messages, found)).then_some(number);
        let mut possible: BTreeMap<u64, BTreeSet<Option<(u64, usize)>>> =
            state.definitions.iter().map(|(key, version)| (*key, BTreeSet::from([Some(*version)]))).collect();
        while number < progress.submitted {
            let (steps, _) = &self.plan.groups[group];
            for step in steps {
                state.apply(step);
                if let Step::Put { key, .. } | Step::Delete { key } = step {
                    let now = state.definitions.get(key).copied();
                    let before = possible.entry(*key).or_insert_with(|| BTreeSet::from([None]));
                    if number < promised {
                        before.clear();
                    }
                    before.insert(now);
                }
            }
            (group, number) = (group + 1, number + steps.len() as u64);
            if number >= promised && same(&state.messages, found) {
                matching = matching.or(Some(number));
            }
        }
        assert!(
            matching.is_some(),
            "{progress:?}: no state between has these messages; beside what was promised: {}; steps: {:?}",
            difference(&self.state.messages, found),
            self.plan
                .steps()
                .take(progress.submitted as usize)
                .skip(self.number.saturating_sub(12) as usize)
                .collect::<Vec<_>>()
        );
        same_contents(&state_lengths(self.plan, found), found);
        check_definitions(&possible, found);
        check_marks(recovered, closed.then_some(&state.marks));
    }

    fn advance(&mut self, promised: u64) {
        while self.number < promised {
            let (steps, _) = &self.plan.groups[self.group];
            steps.iter().for_each(|step| self.state.apply(step));
            (self.group, self.number) = (self.group + 1, self.number + steps.len() as u64);
        }
    }
}

fn same(expected: &Messages, found: &Model) -> bool {
    expected.len() == found.queues.len()
        && expected
            .iter()
            .all(|(queue, messages)| found.queues.get(queue).is_some_and(|found| found.keys().eq(messages.keys())))
}

fn difference(expected: &Messages, found: &Model) -> String {
    let pairs = |queue: &u64, sequences: Vec<u64>| sequences.into_iter().map(|n| (*queue, n)).collect::<Vec<_>>();
    let expected: BTreeSet<_> =
        expected.iter().flat_map(|(queue, messages)| pairs(queue, messages.keys().copied().collect())).collect();
    let found: BTreeSet<_> =
        found.queues.iter().flat_map(|(queue, messages)| pairs(queue, messages.keys().copied().collect())).collect();
    let missing: Vec<_> = expected.difference(&found).collect();
    let extra: Vec<_> = found.difference(&expected).collect();
    format!("missing {missing:?}, extra {extra:?}")
}

/// How long each of the messages found was when it was inserted.
fn state_lengths(plan: &Plan, found: &Model) -> Messages {
    let mut lengths = Messages::new();
    for step in plan.steps() {
        if let Step::Insert { queue, first, count, len } = *step
            && let Some(messages) = found.queues.get(&queue)
        {
            let there = messages.range(first..first + u64::from(count)).map(|(sequence, _)| (*sequence, len));
            lengths.entry(queue).or_default().extend(there);
        }
    }
    lengths
}

fn same_contents(lengths: &Messages, found: &Model) {
    for (queue, messages) in &found.queues {
        for (sequence, (meta, body)) in messages {
            let len = lengths[queue][sequence];
            let Op::Insert { run, .. } = insert(*queue, *sequence, 1, len) else { unreachable!("it is an insert") };
            let expected = run.messages().next();
            assert!(expected == Some((body, *meta)), "message {sequence} of queue {queue} is not what was inserted");
        }
    }
}

fn check_definitions(possible: &BTreeMap<u64, BTreeSet<Option<(u64, usize)>>>, found: &Model) {
    let mut known = BTreeSet::new();
    for (key, versions) in possible {
        let name = key_bytes(*key);
        let there = found.definitions.get(&name);
        let fits = versions.iter().any(|version| match (version, there) {
            (None, None) => true,
            (Some((version, len)), Some(there)) => *there == value(*version, *len),
            _ => false,
        });
        let there = there.map(|value| String::from_utf8_lossy(&value[..value.len().min(20)]).into_owned());
        assert!(fits, "definition {key} is {there:?}, and not one of {versions:?}");
        known.insert(name);
    }
    let unknown: Vec<_> = found.definitions.keys().filter(|key| !known.contains(*key)).collect();
    assert!(unknown.is_empty(), "definitions that nobody had put, or that were deleted: {unknown:?}");
}

/// After a power cut everything may have been delivered; after a clean end it is known.
fn check_marks(recovered: &Recovered, known: Option<&BTreeMap<u64, u64>>) {
    for queue in &recovered.queues {
        let through = queue.delivered_through;
        let last = queue.stored.last().map_or(0, |stored| stored.first + u64::from(stored.count) - 1);
        let expected = known.map_or(last, |marks| marks.get(&queue.queue).copied().unwrap_or(0));
        assert!(through >= expected, "queue {}: delivered through {through}, not {expected}", queue.queue);
    }
}
