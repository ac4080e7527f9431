//! Power cuts: what a store really does is recorded, and of what a cut at any moment could have left on the device images
//! are made, opened and compared with what had been promised by then.
//!
//! * `plan`: what is asked of the store. `life`: the process that asks it, under strace (`trace`).
//! * `disk`: a file system that knows what is durable. `replay`: the recorded calls done again on it.
//! * `books`: what must be found.
//!
//! `LEVERET_LONG` makes it 10,000 images. A failure says how its image is made and opened again.

mod books;
mod disk;
mod life;
mod plan;
mod replay;
mod trace;

use std::env;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::OpenOptionsExt;
use std::panic::{self, AssertUnwindSafe};
use std::path::{Path, PathBuf};

use leveret_storage::conformance::Model;
use leveret_storage::{Batch, Op};

use crate::support::Dice;
use books::Books;
use disk::{Disk, Found, Image};
use plan::{Plan, key_bytes, value};
use replay::{Progress, Recording, Replay};

/// Tells the recorded process which life of which plan it is to live, and where.
const CHILD: &str = "LEVERET_POWER_CUT_LIFE";
const TEST: &str = "power_cut::whatever_a_power_cut_leaves_what_was_promised_is_there";
/// `SEED:IMAGE:DIRECTORY`, as a failure says it.
const AGAIN: &str = "LEVERET_POWER_CUT";

/// Images from this number on are those of which the next opening is recorded.
const BASES: u64 = 1_000_000;
const LIVES: usize = 8;
const GROUPS: usize = 250;

/// (recorded workloads, images of each, images of which the next opening is recorded in its turn, images of that)
fn sizes() -> [u64; 4] {
    if long() { [10, 900, 10, 10] } else { [2, 80, 2, 10] }
}

fn long() -> bool {
    env::var_os("LEVERET_LONG").is_some()
}

fn some_seed() -> u64 {
    std::time::UNIX_EPOCH.elapsed().expect("a clock after 1970").as_nanos() as u64 % 1_000_000_007
}

#[test]
fn whatever_a_power_cut_leaves_what_was_promised_is_there() {
    if let Some(life) = env::var_os(CHILD) {
        return live(life.to_str().expect("paths in UTF-8"));
    }
    let [workloads, images, bases, nested] = sizes();
    if let Ok(again) = env::var(AGAIN) {
        let mut words = again.splitn(3, ':');
        let mut number = || words.next().and_then(|word| word.parse().ok()).expect("SEED:IMAGE:DIRECTORY");
        let (seed, image) = (number(), number());
        let place = PathBuf::from(words.next().expect("SEED:IMAGE:DIRECTORY"));
        return Workload::read(seed, &place).check([image].into(), (image >= BASES).then_some(nested));
    }
    for _ in 0..workloads {
        let place = if long() { tempfile::tempdir().expect("a directory") } else { scratch() };
        let checked = panic::catch_unwind(|| {
            let workload = Workload::record(some_seed(), place.path());
            workload.check((0..images).collect(), None);
            workload.check((BASES..BASES + bases).collect(), Some(nested));
        });
        if let Err(panic) = checked {
            eprintln!("what was recorded is kept in {}", place.keep().display());
            panic::resume_unwind(panic);
        }
    }
}

/// A plan, and what was recorded while it was carried out.
struct Workload {
    seed: u64,
    plan: Plan,
    lives: Vec<Recording>,
    place: PathBuf,
}

impl Workload {
    /// Carries the plan out, one process after the other.
    fn record(seed: u64, place: &Path) -> Workload {
        println!("seed {seed}");
        let plan = Plan::new(seed, LIVES, GROUPS);
        let dir = place.join("data");
        fs::create_dir(&dir).expect("a directory");
        let mut disk = Disk::new(&Image::new());
        let (mut calls, mut progress) = (0, Progress::default());
        let mut lives = Vec::new();
        for life in 0..plan.lives.len() {
            trace_life(seed, Some(life), place);
            let recording = settle(life, place, calls, &mut disk, &mut progress);
            calls += recording.calls();
            lives.push(recording);
        }
        assert_eq!(progress.submitted, plan.number_before(plan.groups.len()), "all of the plan was carried out");
        let direct = rustix::fs::OFlags::DIRECT.bits() as i32;
        if fs::OpenOptions::new().write(true).custom_flags(direct).open(place.join("said")).is_ok() {
            let goes = lives.iter().any(Recording::goes_past_the_page_cache);
            assert!(goes, "small batches that are waited for are written past the page cache");
        }
        Workload { seed, plan, lives, place: place.to_owned() }
    }

    /// What an earlier run has recorded.
    fn read(seed: u64, place: &Path) -> Workload {
        let plan = Plan::new(seed, LIVES, GROUPS);
        let lives = (0..plan.lives.len()).map(|life| read_life(Some(life), place)).collect();
        Workload { seed, plan, lives, place: place.to_owned() }
    }

    /// Makes these images, opens them and compares; with `nested`, the opening is recorded, and so many images are
    /// made of cuts during it.
    fn check(&self, images: Vec<u64>, nested: Option<u64>) {
        let moments: usize = self.lives.iter().map(Recording::moments).sum();
        let mut offset = 0;
        let mut turns = Vec::new();
        for life in &self.lives {
            turns.extend(life.turning_points().into_iter().map(|at| offset + at));
            offset += life.moments();
        }
        let mut cuts: Vec<(usize, u64, Dice)> = Vec::new();
        for image in images {
            let mut dice = Dice(self.seed ^ image.wrapping_mul(0x9e37_79b9_7f4a_7c15));
            let cut = match dice.roll(2) {
                0 => dice.roll(moments as u64 + 1) as usize,
                _ => turns[dice.roll(turns.len() as u64) as usize] + dice.roll(6) as usize,
            };
            cuts.push((cut.min(moments), image, dice));
        }
        cuts.sort_by_key(|(cut, image, _)| (*cut, *image));
        let mut cuts = cuts.into_iter().peekable();
        let mut disk = Disk::new(&Image::new());
        let mut books = Books::new(&self.plan);
        let (mut calls, mut progress, mut before) = (0, Progress::default(), 0);
        for (life, recording) in self.lives.iter().enumerate() {
            let mut replay = Replay::new(recording, calls);
            while let Some((cut, image, mut dice)) = cuts.next_if(|(cut, ..)| *cut <= before + recording.moments()) {
                replay.until(cut - before, &mut disk, &mut progress);
                let checked = panic::catch_unwind(AssertUnwindSafe(|| {
                    let made = disk.image(&mut dice);
                    match nested {
                        None => open_and_check(&made, progress, &mut books, is_closed(&made)),
                        Some(nested) => self.cut_again(&made, progress, &mut books, nested, dice),
                    }
                }));
                if let Err(panic) = checked {
                    let Workload { seed, place, .. } = self;
                    eprintln!("image {image} of seed {seed}, cut at {cut} of {moments} in life {life}, {progress:?}");
                    eprintln!("{AGAIN}={seed}:{image}:{} makes it again", place.display());
                    panic::resume_unwind(panic);
                }
            }
            before += recording.moments();
            calls = replay.finish(&mut disk, &mut progress);
        }
    }

    /// Cuts during the opening of an image.
    fn cut_again(&self, image: &Image, progress: Progress, books: &mut Books<'_>, nested: u64, mut dice: Dice) {
        let place = tempfile::tempdir_in(&self.place).expect("a directory");
        let dir = place.path().join("data");
        write_image(image, &dir);
        let mut disk = Disk::new(&disk::read_in(&dir));
        trace_life(self.seed, None, place.path());
        let recording = read_life(None, place.path());
        let mut cuts: Vec<_> = (0..nested).map(|_| dice.roll(recording.moments() as u64 + 1) as usize).collect();
        cuts.sort_unstable();
        let mut replay = Replay::new(&recording, 0);
        for cut in cuts {
            replay.until(cut, &mut disk, &mut Progress::default());
            open_and_check(&disk.image(&mut dice), progress, books, is_closed(image));
        }
    }
}

/// Does a life again on `disk`, until the model has the files that are really there: otherwise it, or the trace, would
/// prove nothing. The trace leaves open whether what was under way when the process ended was done, and, of a file cut and
/// written at the same time, what came first.
fn settle(life: usize, place: &Path, calls: usize, disk: &mut Disk, progress: &mut Progress) -> Recording {
    let (before, there) = (disk.clone(), disk::read_in(&place.join("data")));
    let open_ends = read_life(Some(life), place).open_ends();
    for guess in 0..2 << open_ends.min(6) {
        fs::write(guesses(Some(life), place), guess.to_string()).expect("a file");
        let recording = read_life(Some(life), place);
        *disk = before.clone();
        Replay::new(&recording, calls).finish(disk, progress);
        if disk.now() == there {
            return recording;
        }
    }
    let differing = disk::differing(&disk.now(), &there);
    panic!("life {life}, {open_ends} calls under way at its end: the model has other files: {differing:?}");
}

fn trace_life(seed: u64, life: Option<usize>, place: &Path) {
    let number = life.map_or(-1, |life| life as i64);
    let variable = format!("{seed}:{number}:{}", place.display());
    trace::record(TEST, &[(CHILD, OsStr::new(&variable))], &trace_of(life, place));
}

fn read_life(life: Option<usize>, place: &Path) -> Recording {
    let mut calls = trace::read(&trace_of(life, place));
    let guess: u64 = fs::read_to_string(guesses(life, place)).map_or(0, |text| text.parse().expect("a number"));
    if guess & 1 == 1 {
        trace::exchange_overlapping(&mut calls);
    }
    let mut bit = 0;
    calls.retain(|call| {
        bit += u32::from(call.result.is_none());
        call.result.is_some() || guess >> bit & 1 == 0
    });
    Recording::new(calls, &place.join("data"), &place.join("said"))
}

/// What the trace leaves open: a bit for the order of what overlaps, and one for each call without a result.
fn guesses(life: Option<usize>, place: &Path) -> PathBuf {
    trace_of(life, place).with_extension("guesses")
}

fn trace_of(life: Option<usize>, place: &Path) -> PathBuf {
    place.join(life.map_or("trace".to_owned(), |life| format!("trace-{life}")))
}

/// In the recorded process.
fn live(what: &str) {
    let mut words = what.splitn(3, ':');
    let mut number = || words.next().and_then(|word| word.parse::<i64>().ok()).expect("SEED:LIFE:DIRECTORY");
    let (seed, life) = (number() as u64, number());
    let place = Path::new(words.next().expect("SEED:LIFE:DIRECTORY"));
    let plan = Plan::new(seed, LIVES, GROUPS);
    life::live(&plan, usize::try_from(life).ok(), &place.join("data"), &place.join("said"));
}

/// Where images lie, and the store that is recorded unless there is time for a real disk: in memory, if possible.
fn scratch() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).expect("a directory")
}

/// Makes files of an image, on a machine that was started again since.
fn write_image(image: &Image, dir: &Path) {
    disk::write_out(image, dir);
    if let Some(Found::File(_)) = image.get("boot") {
        fs::write(dir.join("boot"), "another one\n").expect("room for an image");
    }
}

/// Whether an image of the first cut is one of a store that was closed.
fn is_closed(image: &Image) -> bool {
    image.contains_key("clean")
}

/// Opens an image, compares it, opens it again, works with it, and opens it once more. `closed`: the store was before the
/// first cut.
fn open_and_check(image: &Image, progress: Progress, books: &mut Books<'_>, closed: bool) {
    let scratch = scratch();
    let dir = scratch.path().join("data");
    write_image(image, &dir);
    let (mut backend, recovered) = life::open(&dir).expect("the image opens");
    let found = Model::of(&recovered, &*backend);
    books.check(progress, &recovered, &found, closed);
    drop(backend);
    let recovered;
    (backend, recovered) = life::open(&dir).expect("it opens again");
    let mut model = Model::of(&recovered, &*backend);
    assert!(model == found, "the second opening finds what the first one did");
    assert_eq!((&recovered.notes[..], &recovered.quarantined[..]), (&[][..], &[][..]), "and has nothing to say");
    let more = |n: u64| [Op::PutDefinition { key: key_bytes(n).into(), value: value(n, 9_000).into() }];
    for n in 0..30 {
        more(n).iter().for_each(|op| model.apply(op));
        backend.commit(&Batch::fold(more(n))).expect("it can be written to");
    }
    backend.sync().and_then(|()| backend.close()).expect("it can be closed");
    let (backend, recovered) = life::open(&dir).expect("it opens for good");
    assert!(Model::of(&recovered, &*backend) == model, "what came afterwards is there");
    assert_eq!((&recovered.notes[..], &recovered.quarantined[..]), (&[][..], &[][..]), "and nothing is missed");
}
