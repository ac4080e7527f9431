//! A recorded life done again on the model of a file system, one moment at a time.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use super::disk::{Disk, Node};
use super::life::Said;
use super::trace::Call;

/// How far the recorded process had come, by what it said.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    pub submitted: u64,
    pub promised: u64,
}

/// A beginning or an end of a call.
#[derive(Clone, Copy, Debug)]
struct Moment {
    call: usize,
    ends: bool,
}

/// An open file.
#[derive(Clone, Copy, Debug)]
enum Handle {
    Here {
        node: Node,
        at: u64,
        append: bool,
    },
    /// What the process says.
    Voice,
}

/// The calls of one life.
pub struct Recording {
    calls: Vec<Call>,
    moments: Vec<Moment>,
    /// Where the store was, and where the process said things.
    dir: PathBuf,
    voice: PathBuf,
}

impl Recording {
    pub fn new(calls: Vec<Call>, dir: &Path, voice: &Path) -> Recording {
        let mut moments: Vec<(usize, Moment)> = Vec::new();
        for (call, Call { begin, end, .. }) in calls.iter().enumerate() {
            moments.push((*begin, Moment { call, ends: false }));
            moments.push((*end, Moment { call, ends: true }));
        }
        // Stable: a call on a single line begins before it ends.
        moments.sort_by_key(|(line, _)| *line);
        let moments = moments.into_iter().map(|(_, moment)| moment).collect();
        Recording { calls, moments, dir: dir.to_owned(), voice: voice.to_owned() }
    }

    pub fn calls(&self) -> usize {
        self.calls.len()
    }

    /// How many calls were under way when the process ended.
    pub fn open_ends(&self) -> usize {
        self.calls.iter().filter(|call| call.result.is_none()).count()
    }

    pub fn moments(&self) -> usize {
        self.moments.len()
    }

    /// Whether any file was written past the page cache.
    pub fn goes_past_the_page_cache(&self) -> bool {
        let direct = |call: &Call| {
            call.name == "openat" && call.arguments.get(2).is_some_and(|how| how.word().contains("O_DIRECT"))
        };
        self.calls.iter().any(direct)
    }

    /// The moments at which names or lengths of files change.
    pub fn turning_points(&self) -> Vec<usize> {
        let turns = |moment: &Moment| {
            let call = &self.calls[moment.call];
            let opens =
                call.name == "openat" && call.arguments.get(2).is_some_and(|how| how.word().contains("O_CREAT"));
            opens || ["rename", "unlink", "unlinkat", "rmdir", "mkdir", "ftruncate"].contains(&&*call.name)
        };
        (0..self.moments.len()).filter(|at| turns(&self.moments[*at])).collect()
    }
}

/// A recording that is being done again.
pub struct Replay<'a> {
    recording: &'a Recording,
    next: usize,
    handles: HashMap<i64, Handle>,
    /// What a call that has begun does: for syncs which calls they concern.
    under_way: HashMap<usize, UnderWay>,
    /// Calls are told apart across lives.
    base: usize,
}

enum UnderWay {
    Open(Handle),
    Change(Node),
    Sync(Node, Vec<usize>),
}

impl<'a> Replay<'a> {
    /// `base`: how many calls came before those of this recording.
    pub fn new(recording: &'a Recording, base: usize) -> Replay<'a> {
        Replay { recording, next: 0, handles: HashMap::new(), under_way: HashMap::new(), base }
    }

    /// Goes on until `moment`.
    pub fn until(&mut self, moment: usize, disk: &mut Disk, progress: &mut Progress) {
        while self.next < moment {
            let Moment { call: index, ends } = self.recording.moments[self.next];
            let call = &self.recording.calls[index];
            if ends {
                self.end(index, call, disk);
            } else if let Some(under_way) = self.begin(self.base + index, call, disk, progress) {
                self.under_way.insert(index, under_way);
            }
            self.next += 1;
        }
    }

    /// To the end; returns how many calls there have been by then.
    pub fn finish(mut self, disk: &mut Disk, progress: &mut Progress) -> usize {
        self.until(self.recording.moments(), disk, progress);
        self.base + self.recording.calls.len()
    }

    fn begin(&mut self, id: usize, call: &Call, disk: &mut Disk, progress: &mut Progress) -> Option<UnderWay> {
        let Call { arguments, result, .. } = call;
        match &*call.name {
            "open" | "creat" => panic!("{call:?} is not how files are opened here"),
            "openat" => {
                let flags = arguments[2].word();
                if arguments[1].path() == self.recording.voice {
                    return Some(UnderWay::Open(Handle::Voice));
                }
                let (from, path) = self.place(&arguments[0], arguments[1].path())?;
                let append = flags.contains("O_APPEND");
                match disk.find(from, path) {
                    None => {
                        assert!(flags.contains("O_CREAT"), "{call:?}: it is not there");
                        let (node, parent) = disk.make(id, from, path, false);
                        // The name is there when the call has ended.
                        self.under_way.insert(usize::MAX - id, UnderWay::Change(parent));
                        Some(UnderWay::Open(Handle::Here { node, at: 0, append }))
                    }
                    Some(node) => {
                        if flags.contains("O_TRUNC") && disk.len(node) > 0 {
                            disk.set_len(id, node, 0);
                            self.under_way.insert(usize::MAX - id, UnderWay::Change(node));
                        }
                        Some(UnderWay::Open(Handle::Here { node, at: 0, append }))
                    }
                }
            }
            "close" => {
                self.handles.remove(&arguments[0].number());
                None
            }
            "fcntl" => {
                let copies = arguments[1].word().starts_with("F_DUPFD");
                let handle = self.handles.get(&arguments[0].number()).filter(|_| copies)?;
                Some(UnderWay::Open(*handle))
            }
            "lseek" => {
                if let Some(Handle::Here { at, .. }) = self.handles.get_mut(&arguments[0].number()) {
                    *at = result.unwrap_or(0) as u64;
                }
                None
            }
            "write" | "writev" => {
                let handle = self.handles.get_mut(&arguments[0].number())?;
                let mut bytes = arguments[1].bytes().to_vec();
                bytes.truncate(result.map_or(usize::MAX, |len| len as usize));
                match handle {
                    Handle::Voice => {
                        hear(&bytes, progress);
                        None
                    }
                    Handle::Here { node, at, append } => {
                        let from = if *append { disk.len(*node) } else { *at };
                        *at = from + bytes.len() as u64;
                        let node = *node;
                        disk.write(id, node, from, bytes);
                        Some(UnderWay::Change(node))
                    }
                }
            }
            "pwrite64" => {
                let node = self.node(&call.arguments[0])?;
                let mut bytes = arguments[1].bytes().to_vec();
                bytes.truncate(result.map_or(usize::MAX, |len| len as usize));
                disk.write(id, node, arguments[3].number() as u64, bytes);
                Some(UnderWay::Change(node))
            }
            "ftruncate" => {
                let node = self.node(&arguments[0])?;
                disk.set_len(id, node, arguments[1].number() as u64);
                Some(UnderWay::Change(node))
            }
            // Neither content nor length.
            "fallocate" if arguments[1].word() == "FALLOC_FL_KEEP_SIZE" => None,
            "fallocate" => {
                let node = self.node(&arguments[0])?;
                assert_eq!(arguments[1].word(), "0", "{call:?}");
                disk.reach(id, node, (arguments[2].number() + arguments[3].number()) as u64);
                Some(UnderWay::Change(node))
            }
            "fsync" | "fdatasync" => {
                let node = self.node(&arguments[0])?;
                Some(UnderWay::Sync(node, disk.syncing(node)))
            }
            "sync_file_range" => None,
            "mkdir" => {
                let path = self.within(arguments[0].path())?;
                Some(UnderWay::Change(disk.make(id, Disk::ROOT, path, true).1))
            }
            "unlink" | "rmdir" => {
                let path = self.within(arguments[0].path())?;
                Some(UnderWay::Change(disk.unlink(id, Disk::ROOT, path)))
            }
            "unlinkat" => {
                let (from, path) = self.place(&arguments[0], arguments[1].path())?;
                Some(UnderWay::Change(disk.unlink(id, from, path)))
            }
            "rename" => {
                let (from, to) = (self.within(arguments[0].path())?, self.within(arguments[1].path())?);
                Some(UnderWay::Change(disk.rename(id, from, to)))
            }
            _ => panic!("{call:?} is not understood"),
        }
    }

    fn end(&mut self, index: usize, call: &Call, disk: &mut Disk) {
        // A process that ended in the middle of a call did not hear how it went.
        let Some(result) = call.result else { return };
        let id = self.base + index;
        for key in [index, usize::MAX - id] {
            match self.under_way.remove(&key) {
                Some(UnderWay::Open(handle)) => drop(self.handles.insert(result, handle)),
                Some(UnderWay::Change(node)) => disk.ended(id, node),
                Some(UnderWay::Sync(node, calls)) => disk.synced(node, &calls),
                None => {}
            }
        }
    }

    fn node(&self, descriptor: &super::trace::Argument) -> Option<Node> {
        match self.handles.get(&descriptor.number())? {
            Handle::Here { node, .. } => Some(*node),
            Handle::Voice => None,
        }
    }

    /// Where a path leads from, and on; `None`: away.
    fn place<'p>(&self, from: &super::trace::Argument, path: &'p Path) -> Option<(Node, &'p Path)> {
        if path.is_absolute() || from.word() == "AT_FDCWD" {
            return Some((Disk::ROOT, self.within(path)?));
        }
        Some((self.node(from)?, path))
    }

    fn within<'p>(&self, path: &'p Path) -> Option<&'p Path> {
        path.strip_prefix(&self.recording.dir).ok()
    }
}

fn hear(bytes: &[u8], progress: &mut Progress) {
    let line = std::str::from_utf8(bytes).expect("what is said is text");
    match Said::parse(line).expect("what is said is understood") {
        Said::Submitted(number) => progress.submitted = number,
        Said::Promised(number) => progress.promised = progress.promised.max(number),
        Said::Closed => progress.promised = progress.submitted,
    }
}
