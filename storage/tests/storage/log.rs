//! The log: what a crash or damage leaves of it, what is read back, and the space it takes.

use std::fs;
use std::path::{Path, PathBuf};

use leveret_storage::conformance::{self, Model, Place, insert, read};
use leveret_storage::disk::{DiskOptions, open_disk_with};
use leveret_storage::{Backend, Batch, Note, Op, Quarantined, Recovered};

use crate::support::{Dice, DiskPlace};

fn remove(queue: u64, first: u64, count: u64) -> Op {
    Op::Remove { queue, first, count }
}

fn first_segment(place: &DiskPlace) -> PathBuf {
    place.dir().join("messages/0000000001.log")
}

/// Makes `messages/` hold nothing but this segment, and forgets what was put aside.
fn restore(place: &DiskPlace, segment: &[u8]) {
    fs::remove_dir_all(place.dir().join("messages")).unwrap();
    fs::create_dir(place.dir().join("messages")).unwrap();
    fs::write(first_segment(place), segment).unwrap();
    let _ = fs::remove_dir_all(place.dir().join("quarantine"));
}

/// Commits batch after batch; returns after each how long the log was and what the store then held.
fn write(place: &DiskPlace, batches: Vec<Vec<Op>>) -> Vec<(usize, Model)> {
    let (mut backend, _) = place.open().unwrap();
    let mut model = Model::default();
    let mut states = Vec::new();
    for ops in batches {
        ops.iter().for_each(|op| model.apply(op));
        backend.commit(&Batch::fold(ops)).unwrap();
        states.push((fs::metadata(first_segment(place)).unwrap().len() as usize, model.clone()));
    }
    states
}

fn small_log(place: &DiskPlace) -> Vec<(usize, Model)> {
    let batches = vec![
        vec![insert(1, 1, 3, 10), insert(2, 1, 1, 20)],
        vec![insert(1, 7, 2, 10)],
        vec![remove(1, 2, 1), remove(2, 1, 1), insert(3, 1, 2, 8)],
        vec![insert(1, 9, 2, 10), insert(4, 1, 2, 16)],
    ];
    write(place, batches)
}

fn opened(place: &DiskPlace) -> (Box<dyn Backend>, Recovered, Model) {
    let (backend, recovered) = place.open().unwrap();
    let model = Model::of(&recovered, &*backend);
    (backend, recovered, model)
}

#[test]
fn wherever_the_log_is_torn_all_whole_batches_before_are_there_and_nothing_else() {
    let place = DiskPlace::new();
    let states = small_log(&place);
    let whole = fs::read(first_segment(&place)).unwrap();
    for len in 0..whole.len() {
        restore(&place, &whole[..len]);
        let expected = states.iter().rev().find(|state| state.0 <= len).map(|state| state.1.clone());
        let (mut backend, recovered, model) = opened(&place);
        assert_eq!(model, expected.clone().unwrap_or_default(), "torn at {len}");
        assert_eq!(recovered.quarantined, [], "torn at {len}");
        // And the log goes on from there.
        let mut model = expected.unwrap_or_default();
        let next = insert(9, 1, 1, 5);
        model.apply(&next);
        backend.commit(&Batch::fold([next])).unwrap();
        drop(backend);
        assert_eq!(opened(&place).2, model, "torn at {len} and continued");
    }
}

#[test]
fn whichever_bit_is_flipped_only_what_it_hits_is_lost_and_that_is_named() {
    let place = DiskPlace::new();
    let states = small_log(&place);
    let whole = fs::read(first_segment(&place)).unwrap();
    let all = states.last().unwrap().1.clone();
    for at in 0..whole.len() {
        let mut damaged = whole.clone();
        damaged[at] ^= 1 << (at % 8);
        restore(&place, &damaged);
        let (backend, recovered, found) = opened(&place);
        let frame = states.iter().position(|state| at < state.0).unwrap();
        let before = if frame == 0 { Model::default() } else { states[frame - 1].1.clone() };
        let after = &states[frame].1;
        let get = |model: &Model, queue, sequence| model.queues.get(&queue)?.get(&sequence).cloned();
        for queue in 1..5 {
            for sequence in 1..20 {
                let (was, is) = (get(&before, queue, sequence), get(after, queue, sequence));
                let (wanted, there) = (get(&all, queue, sequence), get(&found, queue, sequence));
                // What the frame did not change is as it would be without the damage; the rest may be undone.
                let undone = if was == is { wanted.clone() } else { was };
                assert!(there == wanted || there == undone, "byte {at}: message {sequence} of queue {queue}");
            }
        }
        let named = !recovered.quarantined.is_empty() || !recovered.notes.is_empty();
        assert!(found == all || named, "byte {at}: the loss goes unnamed");
        assert!(recovered.quarantined.is_empty() || place.dir().join("quarantine").exists(), "byte {at}: it is kept");
        drop(backend);
        let (_backend, again, model) = opened(&place);
        assert_eq!(model, found, "byte {at}");
        assert_eq!(again.quarantined, [], "byte {at}: it is reported once");
        assert_eq!(again.notes, [], "byte {at}: it is reported once");
    }
}

#[test]
fn a_flipped_bit_in_a_body_costs_that_record_only() {
    let place = DiskPlace::new();
    let states = small_log(&place);
    let whole = fs::read(first_segment(&place)).unwrap();
    let Op::Insert { run, .. } = insert(4, 1, 2, 16) else { unreachable!("it is an insert") };
    let body = run.block.bytes(0);
    let at = whole.windows(body.len()).position(|bytes| bytes == body).expect("bodies lie there as they are");
    let mut damaged = whole;
    damaged[at] ^= 4;
    restore(&place, &damaged);
    let (_backend, recovered, model) = opened(&place);
    assert_eq!(recovered.quarantined, [Quarantined::Record { queue: 4, first: 1 }]);
    let mut expected = states.last().unwrap().1.clone();
    expected.queues.remove(&4);
    assert_eq!(model, expected);
}

/// Twelve lone messages, for which room was made.
fn with_room(place: &DiskPlace) -> (Vec<(usize, Model)>, Vec<u8>) {
    let states = write(place, (0..12).map(|n| vec![insert(1, 1 + n, 1, 40)]).collect());
    let whole = fs::read(first_segment(place)).unwrap();
    assert!(whole.len() > 100_000 && whole.ends_with(&[0; 1000]), "there is room");
    (states, whole)
}

#[test]
fn room_made_for_small_batches_is_no_damage_and_is_used() {
    let place = DiskPlace::new();
    let (states, whole) = with_room(&place);
    for clean in [false, true] {
        let (backend, recovered, model) = opened(&place);
        assert_eq!(model, states[11].1);
        assert_eq!((recovered.clean, recovered.notes, recovered.quarantined), (clean, vec![], vec![]));
        backend.close().unwrap();
    }
    restore(&place, &whole);
    assert_eq!(opened(&place).2, states[11].1);
}

#[test]
fn a_batch_cut_short_in_the_room_made_for_it_is_not_there_and_no_damage() {
    let place = DiskPlace::new();
    let (states, whole) = with_room(&place);
    let end = whole.iter().rposition(|byte| *byte != 0).unwrap() + 1;
    let begin = end - 100;
    for len in begin..end {
        let mut torn = whole.clone();
        torn[len..].fill(0);
        restore(&place, &torn);
        let (_backend, recovered, model) = opened(&place);
        let expected = if model == states[11].1 { &states[11].1 } else { &states[10].1 };
        assert_eq!(&model, expected, "cut at {len}");
        // The last bytes alone are never missing, unless they lie in a sector of their own: somebody has damaged them.
        let damaged = (len > end - 8).then_some(Quarantined::Record { queue: 1, first: 12 });
        assert_eq!(recovered.quarantined, Vec::from_iter(damaged), "cut at {len}");
    }
}

#[test]
fn damage_to_the_last_batch_in_the_room_made_for_it_is_named() {
    let place = DiskPlace::new();
    let (states, whole) = with_room(&place);
    let mut damaged = whole;
    let end = damaged.iter().rposition(|byte| *byte != 0).unwrap();
    damaged[end - 20] ^= 1;
    restore(&place, &damaged);
    let (_backend, recovered, model) = opened(&place);
    assert_eq!((recovered.quarantined, recovered.notes), (vec![Quarantined::Record { queue: 1, first: 12 }], vec![]));
    assert_eq!(model, states[10].1);
}

#[test]
fn however_a_batch_is_written_and_whoever_reads_meanwhile_it_is_there() {
    let place = DiskPlace::new();
    let mut dice = Dice(11);
    let mut model = Model::default();
    let (mut backend, ..) = open_small(&place.dir());
    for n in 0..2_000 {
        let (first, len) = (1 + n * 8, [40, 1_100, 4_096 - 80, 20_000][dice.roll(20).min(3) as usize]);
        let ops = match dice.roll(4) {
            0 if n > 10 => vec![remove(1, 1 + dice.roll(n * 8), 40)],
            _ => vec![insert(1, first, 1 + dice.roll(3) as u32, len + dice.roll(30) as usize)],
        };
        ops.iter().for_each(|op| model.apply(op));
        let at_once = dice.roll(5) > 0;
        backend.commit(&Batch { at_once, ..Batch::fold(ops) }).unwrap();
        if at_once {
            backend.sync().unwrap();
        }
        match dice.roll(200) {
            0 => {
                drop(backend);
                let recovered;
                (backend, recovered, ..) = open_small(&place.dir());
                assert_eq!((recovered.notes, recovered.quarantined), (vec![], vec![]), "after step {n}");
            }
            // The newest, on pages that are written again in a moment.
            1..=100 => {
                let newest = first.saturating_sub(400);
                let mut expected = model.queues.get(&1).cloned().unwrap_or_default();
                expected.retain(|sequence, _| *sequence >= newest);
                let found = read(&*backend.reader().unwrap(), 1, newest, u32::MAX);
                assert!(found == expected, "after step {n}");
            }
            _ => {}
        }
    }
    drop(backend);
    let (_backend, recovered, found) = open_small(&place.dir());
    assert!(found == model);
    assert_eq!((recovered.notes, recovered.quarantined), (vec![], vec![]));
}

/// After a power cut, the bytes of each frame but the first as `tear` leaves them; the first was synced.
fn after_power_cut(tear: impl Fn(&mut Vec<u8>, &[usize])) -> (Recovered, Model, Vec<Model>) {
    let place = DiskPlace::new();
    let (mut backend, _) = place.open().unwrap();
    let mut model = Model::default();
    let (mut ends, mut models) = (Vec::new(), Vec::new());
    for n in 0..4 {
        let op = insert(1, 1 + n, 1, 50);
        model.apply(&op);
        backend.commit(&Batch::fold([op])).unwrap();
        if n < 2 {
            backend.sync().unwrap();
        }
        ends.push(fs::metadata(first_segment(&place)).unwrap().len() as usize);
        models.push(model.clone());
    }
    drop(backend);
    let mut bytes = fs::read(first_segment(&place)).unwrap();
    tear(&mut bytes, &ends);
    restore(&place, &bytes);
    fs::write(place.dir().join("boot"), "another boot\n").unwrap();
    let (_backend, recovered, model) = opened(&place);
    (recovered, model, models)
}

#[test]
fn after_a_power_cut_nothing_stays_behind_what_is_torn_and_was_not_synced() {
    let (recovered, model, models) = after_power_cut(|bytes, ends| bytes[ends[2] - 5] ^= 1);
    assert_eq!(model, models[1]);
    assert_eq!(recovered.quarantined, []);
    assert!(recovered.notes.iter().any(|note| matches!(note, Note::TailCut { .. })), "{:?}", recovered.notes);
    // A hole of zeros in its head, with a whole frame behind it.
    let (recovered, model, models) = after_power_cut(|bytes, ends| bytes[ends[1]..ends[1] + 60].fill(0));
    assert_eq!((model, recovered.quarantined), (models[1].clone(), vec![]));
}

#[test]
fn after_a_power_cut_damage_in_what_was_synced_is_damage() {
    let (recovered, model, models) = after_power_cut(|bytes, ends| bytes[ends[0] - 5] ^= 1);
    assert_eq!(recovered.quarantined, [Quarantined::Record { queue: 1, first: 1 }]);
    let mut expected = models[3].clone();
    expected.queues.get_mut(&1).unwrap().remove(&1);
    assert_eq!(model, expected);
}

/// Small files, so that there are many.
fn small() -> DiskOptions {
    DiskOptions { segment_bytes: 32 << 10, spare_bytes: 64 << 10, ..DiskOptions::default() }
}

fn open_small(dir: &Path) -> (Box<dyn Backend>, Recovered, Model) {
    let (backend, recovered) = open_disk_with(dir, &small()).unwrap();
    let model = Model::of(&recovered, &*backend);
    (backend, recovered, model)
}

#[test]
fn full_segments_are_known_by_their_sidecars_and_read_where_these_are_missing_or_wrong() {
    let place = DiskPlace::new();
    let (mut backend, ..) = open_small(&place.dir());
    let mut model = Model::default();
    for n in 0..100 {
        let ops = [insert(1, 1 + n * 10, 10, 100), remove(1, 5 + n * 7, 2)];
        ops.iter().for_each(|op| model.apply(op));
        backend.commit(&Batch::fold(ops)).unwrap();
    }
    drop(backend);
    let sidecars = || {
        let names = fs::read_dir(place.dir().join("messages")).unwrap().map(|entry| entry.unwrap().path());
        let mut names: Vec<_> = names.filter(|path| path.extension().is_some_and(|e| e == "heads")).collect();
        names.sort();
        names
    };
    let whole: Vec<_> = sidecars().iter().map(|path| fs::read(path).unwrap()).collect();
    assert!(whole.len() > 2, "there are {} full segments", whole.len());
    fs::remove_file(&sidecars()[0]).unwrap();
    let mut wrong = whole[1].clone();
    wrong[30] ^= 1;
    fs::write(&sidecars()[0], &wrong).unwrap();
    let (_backend, recovered, found) = open_small(&place.dir());
    assert_eq!(found, model);
    assert_eq!((recovered.quarantined, recovered.notes), (vec![], vec![]));
    assert_eq!(sidecars().iter().map(|path| fs::read(path).unwrap()).collect::<Vec<_>>(), whole, "they are back");
}

#[test]
fn a_lost_segment_is_noticed_after_a_clean_stop_and_the_rest_loads() {
    let place = DiskPlace::new();
    let (mut backend, ..) = open_small(&place.dir());
    (0..100).for_each(|n| backend.commit(&Batch::fold([insert(1, 1 + n * 10, 10, 100)])).unwrap());
    backend.close().unwrap();
    fs::remove_file(place.dir().join("messages/0000000002.log")).unwrap();
    let (_backend, recovered, model) = open_small(&place.dir());
    let left = model.queues[&1].len() as u64;
    assert!((500..1000).contains(&left), "{left} are left");
    let file = place.dir().join("messages/0000000002.log");
    let missing = Note::Missing { messages: 1000 - left, definitions: 0 };
    assert_eq!(recovered.notes, [Note::SegmentMissing { file }, missing]);
}

#[test]
fn a_damaged_record_is_left_out_when_it_is_read_and_put_aside_once() {
    let place = DiskPlace::new();
    let (mut backend, _) = place.open().unwrap();
    let mut model = Model::default();
    for n in 0..3 {
        let op = insert(1, 1 + n * 10, 10, 100);
        model.apply(&op);
        backend.commit(&Batch::fold([op])).unwrap();
    }
    let reader = backend.reader().unwrap();
    let mut bytes = fs::read(first_segment(&place)).unwrap();
    let body = model.queues[&1][&15].1.clone();
    let at = bytes.windows(100).position(|bytes| bytes == body).unwrap();
    bytes[at + 50] ^= 1;
    fs::write(first_segment(&place), &bytes).unwrap();
    model.apply(&remove(1, 11, 10));
    let aside = || fs::read_dir(place.dir().join("quarantine")).map_or(0, |entries| entries.count());
    for _ in 0..2 {
        assert_eq!(read(&*reader, 1, 1, 100), model.read(1, 1, 100));
        assert_eq!(aside(), 1);
    }
    backend.commit(&Batch::fold([remove(1, 1, 1)])).unwrap();
    model.apply(&remove(1, 1, 1));
    drop(backend);
    let (_backend, recovered, found) = opened(&place);
    assert_eq!((found, recovered.quarantined), (model, vec![]));
}

#[test]
fn a_record_that_cannot_be_outlined_is_read_and_put_aside() {
    let place = DiskPlace::new();
    let (mut backend, _) = place.open().unwrap();
    let mut model = Model::default();
    for n in 0..3 {
        let op = insert(1, 1 + n * 10, 10, 100);
        model.apply(&op);
        backend.commit(&Batch::fold([op])).unwrap();
    }
    let reader = backend.reader().unwrap();
    let mut bytes = fs::read(first_segment(&place)).unwrap();
    let body = model.queues[&1][&11].1.clone();
    let at = bytes.windows(100).position(|bytes| bytes == body).unwrap();
    // The last length of the record: a number that does not end.
    bytes[at - 1] = 0xff;
    fs::write(first_segment(&place), &bytes).unwrap();
    model.apply(&remove(1, 11, 10));
    let known = reader.outlines(1, 1, 100).unwrap();
    let known: Vec<u64> = known.iter().map(|outline| outline.sequence).collect();
    assert_eq!(known, model.queues[&1].keys().copied().collect::<Vec<_>>());
    assert_eq!(fs::read_dir(place.dir().join("quarantine")).unwrap().count(), 1);
}

#[test]
fn a_closed_store_is_not_read() {
    let place = DiskPlace::new();
    let (backend, _) = place.open().unwrap();
    let reader = backend.reader().unwrap();
    backend.close().unwrap();
    assert!(reader.read(1, 1, 1, &Default::default()).is_err());
    assert!(reader.outlines(1, 1, 1).is_err());
}

fn disk(dir: &Path) -> u64 {
    let entries = fs::read_dir(dir).map(|entries| entries.map(|entry| entry.unwrap().metadata().unwrap().len()));
    entries.map_or(0, Iterator::sum)
}

/// Publishes and acknowledges in random order, one in fifty never; a copy of the directory, taken at any time, must
/// hold what a kill would leave.
fn churn(spill: bool, len: fn(u64) -> usize) {
    let place = DiskPlace::new();
    let copy = DiskPlace::new();
    let (mut backend, ..) = open_small(&place.dir());
    let reader = backend.reader().unwrap();
    let (mut model, mut dice) = (Model::default(), Dice(7));
    let (mut next, mut held): (u64, Vec<u64>) = (1, Vec::new());
    let (mut live, mut largest) = (0u64, 0u64);
    let log = place.dir().join(if spill { "spill" } else { "messages" });
    for round in 0..600 {
        let mut ops = Vec::new();
        for _ in 0..1 + dice.roll(8) {
            let op = match insert(1, next, 1, len(next)) {
                Op::Insert { queue, first, run } if spill => Op::Spill { queue, first, run },
                op => op,
            };
            live += len(next) as u64;
            ops.push(op);
            if next % 50 > 0 {
                held.push(next);
            }
            next += 1;
        }
        while held.len() > 60 {
            let sequence = held.swap_remove(dice.roll(held.len() as u64) as usize);
            live -= len(sequence) as u64;
            ops.push(remove(1, sequence, 1));
        }
        ops.iter().for_each(|op| model.apply(op));
        backend.commit(&Batch::fold(ops)).unwrap();
        if dice.roll(3) == 0 {
            backend.sync().unwrap();
        }
        if dice.roll(10) == 0 {
            backend.idle().unwrap();
        }
        largest = largest.max(disk(&log));
        let bound = 3 * live + 2 * (64 << 10) + 4 * (len(next) as u64).max(32 << 10);
        assert!(disk(&log) <= bound, "round {round}: {} bytes for {live} that live", disk(&log));
        if round % 20 == 7 {
            assert_eq!(read(&*reader, 1, 0, u32::MAX), model.read(1, 0, u32::MAX), "round {round}");
        }
        if round % 20 == 9 && !spill {
            let _ = fs::remove_dir_all(copy.dir());
            copy_directory(&place.dir(), &copy.dir());
            let (backend, recovered, found) = open_small(&copy.dir());
            assert_eq!((found, recovered.quarantined), (model.clone(), vec![]), "round {round}");
            drop(backend);
        }
    }
    assert!(largest > 100 << 10, "the test has filled several segments: {largest}");
    assert!(!log.join("0000000001.log").exists(), "what is left of the first segment lies elsewhere");
    // With nothing left but idling, next to nothing stays.
    backend.commit(&Batch::fold([Op::DropQueue { queue: 1 }])).unwrap();
    while backend.idle().unwrap() {}
    assert!(disk(&log) <= 64 << 10, "{} bytes for an empty queue", disk(&log));
}

fn copy_directory(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let to = to.join(path.file_name().unwrap());
        match path.is_dir() {
            true => copy_directory(&path, &to),
            false => drop(fs::copy(&path, &to).unwrap()),
        }
    }
}

#[test]
fn space_of_acknowledged_messages_comes_back_and_a_kill_at_any_time_loses_nothing() {
    churn(false, |sequence| (sequence * 37 % 500) as usize);
}

#[test]
fn space_of_large_messages_comes_back() {
    churn(false, |sequence| if sequence % 10 == 0 { 50_000 } else { 300 });
}

#[test]
fn space_comes_back_as_fast_as_large_batches_are_written() {
    const KB: usize = 1000;
    let (place, batch, kept) = (DiskPlace::new(), 12, 40);
    let options = DiskOptions { segment_bytes: 1 << 20, spare_bytes: 1 << 20, ..DiskOptions::default() };
    let (mut backend, _) = open_disk_with(&place.dir(), &options).unwrap();
    (0..kept).for_each(|n| backend.commit(&Batch::fold([insert(1, 1 + n, 1, 1000 * KB)])).unwrap());
    let (live, mut most) = (kept + batch, 0);
    for round in 0..20 {
        // A small one of each batch stays, and with it what says that the batch before is removed.
        let first = 1 + round * 20;
        let mut ops = vec![insert(2, first, 1, KB)];
        ops.extend((1..=batch).map(|n| insert(2, first + n, 1, 1000 * KB)));
        ops.extend((round > 0).then(|| remove(2, first - 19, batch)));
        backend.commit(&Batch::fold(ops)).unwrap();
        backend.sync().unwrap();
        most = most.max(disk(&place.dir().join("messages")) / (1000 * KB as u64));
    }
    assert!(most <= 2 * live + 3 * batch, "{most} MB for {live} that live");
}

#[test]
fn space_of_spilled_messages_comes_back() {
    churn(true, |sequence| (sequence * 37 % 500) as usize);
}

#[test]
fn compacting_leaves_little_but_what_lives_and_ends_however_small_that_is() {
    for len in [0, 10, 3000, 40_000] {
        let place = DiskPlace::new();
        let (mut backend, ..) = open_small(&place.dir());
        let mut model = Model::default();
        for n in 0..100 {
            let ops = [insert(n % 7, 1 + n * 10, 10, len), remove(n % 7, 2 + n * 10, 4), insert(100 + n, 1, 1, len)];
            ops.iter().for_each(|op| model.apply(op));
            backend.commit(&Batch::fold(ops)).unwrap();
        }
        drop(backend);
        let (mut backend, _) = open_disk_with(&place.dir(), &DiskOptions { compact: true, ..small() }).unwrap();
        let steps = (0..10_000).take_while(|_| backend.idle().unwrap()).count();
        assert!(steps < 10_000, "it goes on for ever");
        backend.sync().unwrap();
        drop(backend);
        let (live, taken) = (700 * len as u64, disk(&place.dir().join("messages")));
        assert!(taken < live + live / 8 + (128 << 10), "{taken} bytes for {live}");
        assert_eq!(open_small(&place.dir()).2, model);
    }
}

#[test]
fn reading_goes_on_while_segments_are_cleaned_away() {
    let place = DiskPlace::new();
    let (mut backend, ..) = open_small(&place.dir());
    let reader = backend.reader().unwrap();
    (0..100).for_each(|n| backend.commit(&Batch::fold([insert(1, 1 + n * 50, 50, 100)])).unwrap());
    let done = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        let reading = scope.spawn(|| {
            let mut rounds = 0;
            while !done.load(std::sync::atomic::Ordering::Relaxed) || rounds == 0 {
                // Every fiftieth stays.
                let found = read(&*reader, 1, 0, u32::MAX);
                assert!((0..100).all(|n| found.contains_key(&(1 + n * 50))));
                rounds += 1;
            }
        });
        for n in 0..100 {
            backend.commit(&Batch::fold([remove(1, 2 + n * 50, 49)])).unwrap();
            backend.sync().unwrap();
        }
        (0..200).for_each(|n| backend.commit(&Batch::fold([insert(2, 1 + n, 1, 2000), remove(2, n, 1)])).unwrap());
        while backend.idle().unwrap() {}
        done.store(true, std::sync::atomic::Ordering::Relaxed);
        reading.join().unwrap();
    });
    let expected = conformance::read(&*reader, 1, 0, u32::MAX);
    drop(backend);
    assert_eq!(open_small(&place.dir()).2.queues[&1], expected);
    assert!(disk(&place.dir().join("messages")) < 400 << 10);
}
