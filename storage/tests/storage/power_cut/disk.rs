//! A model of a file system that tells what is on the device from what was only asked for.
//!
//! What is assumed, and it is as little as can be: data of a file is there, with the file's length, once an fsync or
//! fdatasync of that file that began after the write has ended; `sync_file_range` promises nothing. A name is there, or
//! gone, once an fsync of its *directory* has ended; to sync the file does not keep its name. Of all else anything may be
//! there: any of the writes, also a later one without an earlier; of a write any sectors of 512 bytes; its length without
//! its data (then zeros); a change of names without an earlier one. Only a rename happens as a whole, and a sector is
//! either as it was or as it became.
//!
//! With one exception: in sled's directory the names change in order, as file systems with a journal have it. sled syncs a
//! snapshot of its index, renames it and removes the one before, and cannot do without both.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Component, Path};
use std::rc::Rc;

use crate::support::Dice;

const SECTOR: usize = 512;
/// sled's directory, and that in which a database is made.
const IN_ORDER: [&str; 2] = ["definitions", "definitions.new"];

/// A file's or directory's number.
pub type Node = usize;

/// What was asked for and may not be on the device.
#[derive(Clone, Debug)]
struct Pending<T> {
    change: T,
    /// Which of the calls.
    call: usize,
    /// The call has returned.
    ended: bool,
}

#[derive(Clone, Debug)]
enum Data {
    Write {
        at: u64,
        bytes: Rc<Vec<u8>>,
    },
    /// The file is at least this long.
    Reach(u64),
    Length(u64),
}

#[derive(Clone, Debug)]
enum Name {
    Link {
        name: String,
        node: Node,
    },
    Unlink {
        name: String,
    },
    /// Within one directory.
    Rename {
        from: String,
        to: String,
        node: Node,
    },
}

#[derive(Clone, Debug)]
enum Content {
    File {
        device: Vec<u8>,
        pending: Vec<Pending<Data>>,
        len: u64,
    },
    /// By name; `now` is what the running programs see.
    Directory {
        device: BTreeMap<String, Node>,
        pending: Vec<Pending<Name>>,
        now: BTreeMap<String, Node>,
    },
}

/// The file system.
#[derive(Clone, Debug)]
pub struct Disk {
    nodes: Vec<Content>,
}

/// A directory as it may be found after the cut.
pub type Image = BTreeMap<String, Found>;

#[derive(Debug, PartialEq, Eq)]
pub enum Found {
    File(Vec<u8>),
    Directory(Image),
}

impl Disk {
    /// A disk that has this on it, and is otherwise empty.
    pub fn new(root: &Image) -> Disk {
        let mut disk = Disk { nodes: Vec::new() };
        disk.take_in(root);
        disk
    }

    pub const ROOT: Node = 0;

    fn take_in(&mut self, image: &Image) -> Node {
        let this = self.nodes.len();
        self.nodes.push(empty_directory());
        let mut names = BTreeMap::new();
        for (name, found) in image {
            let node = match found {
                Found::Directory(image) => self.take_in(image),
                Found::File(bytes) => {
                    let content = Content::File { device: bytes.clone(), pending: Vec::new(), len: bytes.len() as u64 };
                    self.nodes.push(content);
                    self.nodes.len() - 1
                }
            };
            names.insert(name.clone(), node);
        }
        self.nodes[this] = Content::Directory { device: names.clone(), pending: Vec::new(), now: names };
        this
    }

    /// What lies at `path` below `from` now.
    pub fn find(&self, from: Node, path: &Path) -> Option<Node> {
        path.components().try_fold(from, |at, part| match (&self.nodes[at], part) {
            (_, Component::CurDir) => Some(at),
            (Content::Directory { now, .. }, Component::Normal(name)) => now.get(name.to_str()?).copied(),
            _ => None,
        })
    }

    /// The directory in which `path` below `from` has, or is to have, its name; and the name.
    fn parent(&self, from: Node, path: &Path) -> (Node, String) {
        let parent = path.parent().and_then(|parent| self.find(from, parent));
        let name = path.file_name().and_then(|name| name.to_str()).map(str::to_owned);
        parent.zip(name).unwrap_or_else(|| panic!("{} is where something can be", path.display()))
    }

    /// Makes an empty file or directory. Returns it, and the directory it is in.
    pub fn make(&mut self, call: usize, from: Node, path: &Path, directory: bool) -> (Node, Node) {
        let content = match directory {
            true => empty_directory(),
            false => Content::File { device: Vec::new(), pending: Vec::new(), len: 0 },
        };
        let node = self.nodes.len();
        self.nodes.push(content);
        let (parent, name) = self.parent(from, path);
        self.change_names(call, parent, Name::Link { name, node });
        (node, parent)
    }

    /// Takes a name out of a directory, and returns that.
    pub fn unlink(&mut self, call: usize, from: Node, path: &Path) -> Node {
        let (parent, name) = self.parent(from, path);
        self.change_names(call, parent, Name::Unlink { name });
        parent
    }

    /// Changes a name in a directory, and returns that.
    pub fn rename(&mut self, call: usize, from: &Path, to: &Path) -> Node {
        let node = self.find(Disk::ROOT, from).unwrap_or_else(|| panic!("{} is there", from.display()));
        let ((old, from), (new, to)) = (self.parent(Disk::ROOT, from), self.parent(Disk::ROOT, to));
        assert_eq!(old, new, "nothing is moved between directories where nothing is damaged");
        self.change_names(call, old, Name::Rename { from, to, node });
        old
    }

    fn change_names(&mut self, call: usize, directory: Node, change: Name) {
        let Content::Directory { pending, now, .. } = &mut self.nodes[directory] else {
            panic!("names are in directories");
        };
        change.apply(now);
        pending.push(Pending { change, call, ended: false });
    }

    /// How long a file is now.
    pub fn len(&self, node: Node) -> u64 {
        match &self.nodes[node] {
            Content::File { len, .. } => *len,
            Content::Directory { .. } => 0,
        }
    }

    pub fn write(&mut self, call: usize, node: Node, at: u64, bytes: Vec<u8>) {
        let end = at + bytes.len() as u64;
        self.change(call, node, Data::Write { at, bytes: Rc::new(bytes) }, |len| len.max(end));
    }

    pub fn set_len(&mut self, call: usize, node: Node, to: u64) {
        self.change(call, node, Data::Length(to), |_| to);
    }

    /// Reserves space, and makes the file as long.
    pub fn reach(&mut self, call: usize, node: Node, to: u64) {
        self.change(call, node, Data::Reach(to), |len| len.max(to));
    }

    fn change(&mut self, call: usize, node: Node, change: Data, new_len: impl FnOnce(u64) -> u64) {
        let Content::File { pending, len, .. } = &mut self.nodes[node] else {
            panic!("data is in files");
        };
        *len = new_len(*len);
        pending.push(Pending { change, call, ended: false });
    }

    /// The call has returned: a sync of `node` from here on concerns what it did there.
    pub fn ended(&mut self, call: usize, node: Node) {
        match &mut self.nodes[node] {
            Content::File { pending, .. } => end(pending, call),
            Content::Directory { pending, .. } => end(pending, call),
        }
    }

    /// What a sync of `node` that begins now will have made durable when it ends.
    pub fn syncing(&self, node: Node) -> Vec<usize> {
        match &self.nodes[node] {
            Content::File { pending, .. } => pending.iter().filter(|p| p.ended).map(|p| p.call).collect(),
            Content::Directory { pending, .. } => pending.iter().filter(|p| p.ended).map(|p| p.call).collect(),
        }
    }

    /// A sync that concerned `calls` has ended.
    pub fn synced(&mut self, node: Node, calls: &[usize]) {
        match &mut self.nodes[node] {
            Content::File { device, pending, .. } => {
                for done in pending.extract_if(.., |p| calls.binary_search(&p.call).is_ok()) {
                    done.change.apply(device);
                }
            }
            Content::Directory { device, pending, .. } => {
                for done in pending.extract_if(.., |p| calls.binary_search(&p.call).is_ok()) {
                    done.change.apply(device);
                }
            }
        }
    }

    /// What a power cut at this moment may leave: all that was synced, and of the rest what the dice say.
    pub fn image(&self, dice: &mut Dice) -> Image {
        let luck = Luck { kept: [0, 1, 5, 9, 10][dice.roll(5) as usize], torn: [0, 3, 8][dice.roll(3) as usize] };
        self.directory(Disk::ROOT, false, &luck, dice)
    }

    /// What the running programs see.
    pub fn now(&self) -> Image {
        self.directory(Disk::ROOT, false, &Luck { kept: 10, torn: 0 }, &mut Dice(0))
    }

    fn directory(&self, node: Node, in_order: bool, luck: &Luck, dice: &mut Dice) -> Image {
        let Content::Directory { device, pending, .. } = &self.nodes[node] else {
            panic!("a directory");
        };
        let mut names = device.clone();
        for pending in pending {
            if dice.roll(10) < luck.kept {
                pending.change.apply(&mut names);
            } else if in_order {
                break;
            }
        }
        let found = |(name, node): (String, Node)| {
            let found = match &self.nodes[node] {
                Content::Directory { .. } => {
                    let in_order = IN_ORDER.contains(&&*name);
                    Found::Directory(self.directory(node, in_order, luck, dice))
                }
                Content::File { device, pending, .. } => Found::File(file(device, pending, luck, dice)),
            };
            (name, found)
        };
        names.into_iter().map(found).collect()
    }
}

/// Out of ten: how many changes are kept, and how many of those in part only.
struct Luck {
    kept: u64,
    torn: u64,
}

fn empty_directory() -> Content {
    Content::Directory { device: BTreeMap::new(), pending: Vec::new(), now: BTreeMap::new() }
}

fn end<T>(pending: &mut [Pending<T>], call: usize) {
    pending.iter_mut().filter(|p| p.call == call).for_each(|p| p.ended = true);
}

fn file(device: &[u8], pending: &[Pending<Data>], luck: &Luck, dice: &mut Dice) -> Vec<u8> {
    let mut bytes = device.to_vec();
    for pending in pending {
        if dice.roll(10) >= luck.kept {
            continue;
        }
        match &pending.change {
            Data::Write { at, bytes: written } if dice.roll(10) < luck.torn => tear(&mut bytes, *at, written, dice),
            whole => whole.apply(&mut bytes),
        }
    }
    bytes
}

/// Some of a write's sectors.
fn tear(file: &mut Vec<u8>, at: u64, written: &[u8], dice: &mut Dice) {
    let (at, end) = (at as usize, at as usize + written.len());
    let sectors = end.div_ceil(SECTOR) - at / SECTOR;
    let edge = dice.roll(sectors as u64 + 1) as usize;
    let way = dice.roll(4);
    if dice.roll(2) == 0 && file.len() < end {
        file.resize(end, 0);
    }
    for sector in 0..sectors {
        let there = match way {
            0 => sector < edge,
            1 => sector >= edge,
            2 => dice.roll(2) == 0,
            _ => false,
        };
        if there {
            let from = at.max((at / SECTOR + sector) * SECTOR);
            let to = end.min((at / SECTOR + sector + 1) * SECTOR);
            put(file, from, &written[from - at..to - at]);
        }
    }
}

fn put(file: &mut Vec<u8>, at: usize, bytes: &[u8]) {
    let end = at + bytes.len();
    if file.len() < end {
        file.resize(end, 0);
    }
    file[at..end].copy_from_slice(bytes);
}

impl Data {
    fn apply(&self, file: &mut Vec<u8>) {
        match self {
            Data::Write { at, bytes } => put(file, *at as usize, bytes),
            Data::Reach(to) => file.resize(file.len().max(*to as usize), 0),
            Data::Length(to) => file.resize(*to as usize, 0),
        }
    }
}

impl Name {
    fn apply(&self, names: &mut BTreeMap<String, Node>) {
        match self {
            Name::Link { name, node } => drop(names.insert(name.clone(), *node)),
            Name::Unlink { name } => drop(names.remove(name)),
            Name::Rename { from, to, node } => {
                names.remove(from);
                names.insert(to.clone(), *node);
            }
        }
    }
}

/// The names of what is not the same in both.
pub fn differing(one: &Image, other: &Image) -> Vec<String> {
    let names = one.keys().chain(other.keys().filter(|name| !one.contains_key(*name)));
    let parts = names.map(|name| match (one.get(name), other.get(name)) {
        (Some(Found::Directory(one)), Some(Found::Directory(other))) => {
            differing(one, other).iter().map(|within| format!("{name}/{within}")).collect()
        }
        (one, other) if one == other => Vec::new(),
        _ => vec![name.clone()],
    });
    parts.flatten().collect()
}

/// Makes real files of an image.
pub fn write_out(image: &Image, to: &Path) {
    fs::create_dir(to).expect("room for an image");
    for (name, found) in image {
        let path = to.join(name);
        match found {
            Found::File(bytes) => fs::write(&path, bytes).expect("room for an image"),
            Found::Directory(image) => write_out(image, &path),
        }
    }
}

/// An image of real files.
pub fn read_in(from: &Path) -> Image {
    let entries = fs::read_dir(from).expect("a directory").map(|entry| entry.expect("a directory's entry"));
    let found = entries.map(|entry| {
        let path = entry.path();
        let found = match path.is_dir() {
            true => Found::Directory(read_in(&path)),
            false => Found::File(fs::read(&path).expect("a file")),
        };
        (entry.file_name().to_string_lossy().into_owned(), found)
    });
    found.collect()
}
