//! A stretch of a queue's messages, in memory or in storage only: what owners hand to each other.

use leveret_storage::Run;

use crate::message;

/// Where the messages of a segment are.
#[derive(Clone, Debug)]
pub enum Content {
    /// In memory.
    Here(Run),
    /// In storage only: so many messages, which take about so many bytes there, their bodies `bodies` of them.
    Away { count: u32, bytes: u32, bodies: u32 },
}

/// A stretch of messages of one queue: message `i` of it has the sequence number `first + i`.
#[derive(Clone, Debug)]
pub struct Segment {
    pub first: u64,
    pub content: Content,
    /// All of them are persistent (else none is).
    pub persistent: bool,
    /// They were given to storage for want of memory, though they need not outlive the broker.
    pub spilled: bool,
    /// Somebody may have seen them before.
    pub redelivered: bool,
    /// The level they wait on in a queue with priorities.
    pub level: u8,
    /// How often they came back unsettled; only counted, and shown, by quorum queues.
    pub returns: u32,
    /// When they expire, in milliseconds since the Unix epoch; otherwise [`Segment::NEVER`] or [`Segment::UNDATED`].
    pub expires: u64,
}

impl Segment {
    /// No time to live.
    pub const NEVER: u64 = u64::MAX;
    /// They may have a time to live: their content tells, once it has been read from storage.
    pub const UNDATED: u64 = 0;

    /// Messages in memory, of whom nothing more is known.
    pub fn new(first: u64, run: Run) -> Segment {
        Segment::of(first, Content::Here(run))
    }

    /// So many messages, of about so many bytes, that only storage has. How many of these are bodies is an estimate.
    pub fn away(first: u64, count: u32, bytes: u64) -> Segment {
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        let bodies = bytes.saturating_sub(count.saturating_mul(message::LEAST));
        Segment::of(first, Content::Away { count, bytes, bodies })
    }

    fn of(first: u64, content: Content) -> Segment {
        Segment {
            first,
            content,
            persistent: false,
            spilled: false,
            redelivered: false,
            level: 0,
            returns: 0,
            expires: Segment::NEVER,
        }
    }

    /// Whether a queue, `durable` or not, has given them to storage.
    pub fn is_stored(&self, durable: bool) -> bool {
        self.spilled || (durable && self.persistent)
    }

    /// The messages, if they are in memory.
    pub fn here(&self) -> Option<&Run> {
        match &self.content {
            Content::Here(run) => Some(run),
            Content::Away { .. } => None,
        }
    }

    pub fn here_mut(&mut self) -> Option<&mut Run> {
        match &mut self.content {
            Content::Here(run) => Some(run),
            Content::Away { .. } => None,
        }
    }

    pub fn count(&self) -> u32 {
        match &self.content {
            Content::Here(run) => run.count(),
            Content::Away { count, .. } => *count,
        }
    }

    /// Bytes of the messages; an estimate for a part of what is away.
    pub fn bytes(&self) -> usize {
        match &self.content {
            Content::Here(run) => run.bytes(),
            Content::Away { bytes, .. } => *bytes as usize,
        }
    }

    /// Bytes of the bodies; an estimate for a part of what is away, and for what has never been here.
    pub fn bodies(&self) -> u64 {
        match &self.content {
            Content::Here(run) => (run.from..run.to).map(|index| message::body_size(&run.block, index)).sum(),
            Content::Away { bodies, .. } => u64::from(*bodies),
        }
    }

    /// The last sequence number.
    pub fn last(&self) -> u64 {
        self.first + u64::from(self.count()) - 1
    }

    /// Takes the first `count` messages off.
    pub fn split_front(&mut self, count: u32) -> Segment {
        let mut front = self.clone();
        self.drop_front(count);
        match (&mut front.content, &self.content) {
            (Content::Here(front), _) => front.to = front.from + count,
            (Content::Away { count: taken, bytes: some, bodies: of_them }, Content::Away { bytes, bodies, .. }) => {
                *taken = count;
                (*some, *of_them) = (*some - bytes, *of_them - bodies);
            }
            // One was a copy of the other.
            _ => {}
        }
        front
    }

    /// Leaves the first `count` messages out.
    pub fn drop_front(&mut self, count: u32) {
        match &mut self.content {
            Content::Here(run) => run.from += count,
            Content::Away { count: left, bytes, bodies } => {
                let share = |all: u32| (u64::from(all) * u64::from(count) / u64::from(*left)) as u32;
                (*bytes, *bodies) = (*bytes - share(*bytes), *bodies - share(*bodies));
                *left -= count;
            }
        }
        self.first += u64::from(count);
    }

    /// Adds to `filled` those of the messages that are among `runs`, which ascend, in memory; says how many are not.
    pub fn materialise(&self, runs: &[(u64, Run)], filled: &mut Vec<Segment>) -> u64 {
        let mut missing = u64::from(self.count());
        let from = runs.partition_point(|(first, run)| first + u64::from(run.count()) <= self.first);
        for (first, run) in runs[from..].iter().take_while(|(first, _)| *first <= self.last()) {
            let from = self.first.max(*first);
            let to = (self.last() + 1).min(first + u64::from(run.count()));
            if from < to {
                missing -= to - from;
                let run = run.slice((from - first) as u32, (to - first) as u32);
                filled.push(Segment { first: from, content: Content::Here(run), ..self.clone() });
            }
        }
        missing
    }

    /// Lets go of the content, which storage has.
    pub fn send_away(&mut self) {
        let narrow = |bytes: u64| u32::try_from(bytes).unwrap_or(u32::MAX);
        let (count, bytes, bodies) = (self.count(), narrow(self.bytes() as u64), narrow(self.bodies()));
        self.content = Content::Away { count, bytes, bodies };
    }
}
