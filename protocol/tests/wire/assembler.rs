use crate::generate::{Published, published};
use leveret_protocol::{
    AmqpError,
    assembler::{Assembler, Complete, MAX_BODY, Progress, whole},
    content,
    frame::{self, BODY, HEADER, METHOD},
    hot,
};
use proptest::prelude::*;

const NO_LIMIT: u64 = u64::MAX;

/// The payload of a content header.
fn header(class: u16, weight: u16, body_size: u64) -> Vec<u8> {
    [&class.to_be_bytes()[..], &weight.to_be_bytes(), &body_size.to_be_bytes(), &[0, 0]].concat()
}

/// A channel on which `basic.publish` has come.
fn published_to(routing_key: &[u8]) -> Assembler {
    let payload = [b"\0\x3C\0\x28\0\0\0", &[routing_key.len() as u8][..], routing_key, &[0]].concat();
    let mut assembler = Assembler::default();
    assembler.start(&hot::publish(&payload).expect("well-formed"), 0);
    assembler
}

fn complete(progress: Result<Progress, AmqpError>) -> Complete {
    match progress {
        Ok(Progress::Complete(complete)) => complete,
        other => panic!("not complete: {other:?}"),
    }
}

#[track_caller]
fn refused(progress: Result<Progress, AmqpError>, text: &str, ids: (u16, u16)) {
    let error = progress.expect_err("must be refused");
    assert_eq!((error.reply_text().as_str(), (error.class, error.method), error.fatal), (text, ids, false));
}

#[test]
fn content_without_a_method_is_unexpected() {
    let text = "UNEXPECTED_FRAME - expected method frame, got non method frame instead";
    refused(Assembler::default().header(&header(60, 0, 0), NO_LIMIT), text, (0, 0));
    refused(Assembler::default().body(b"", 4096), text, (0, 0));
    assert_eq!(Assembler::default().unexpected(BODY).reply_text(), text);
}

#[test]
fn a_method_or_a_body_in_place_of_the_header_is_unexpected() {
    let text = "UNEXPECTED_FRAME - expected content header for class 60, got non content header frame instead";
    refused(published_to(b"q").body(b"x", 4096), text, (60, 40));
    refused(Err(published_to(b"q").unexpected(METHOD)), text, (60, 40));
}

#[test]
fn a_method_or_a_header_in_place_of_the_body_is_unexpected() {
    let text = "UNEXPECTED_FRAME - expected content body, got non content body frame instead";
    let mut assembler = published_to(b"q");
    assert_eq!(assembler.header(&header(60, 0, 1), NO_LIMIT), Ok(Progress::More));
    refused(Err(assembler.unexpected(METHOD)), text, (60, 40));
    refused(assembler.header(&header(60, 0, 1), NO_LIMIT), text, (60, 40));
    assert!(assembler.is_idle());
}

#[test]
fn the_header_must_be_of_class_60_and_weight_0() {
    let got_10 = "UNEXPECTED_FRAME - expected content header for class 60, got one for class 10 instead";
    refused(published_to(b"q").header(&header(10, 0, 1), NO_LIMIT), got_10, (60, 40));
    let weight = "UNEXPECTED_FRAME - expected content header for class 60, got non content header frame instead";
    refused(published_to(b"q").header(&header(60, 1, 1), NO_LIMIT), weight, (60, 40));
}

#[test]
fn a_body_may_not_be_longer_than_announced() {
    let mut assembler = published_to(b"q");
    assert_eq!(assembler.header(&header(60, 0, 3), NO_LIMIT), Ok(Progress::More));
    let text = "FRAME_ERROR - content body frame exceeds remaining content size";
    refused(assembler.body(b"abcd", 4096), text, (60, 40));
}

#[test]
fn more_than_512_mib_are_refused_on_sight_of_the_header() {
    assert_eq!(published_to(b"q").header(&header(60, 0, MAX_BODY), NO_LIMIT), Ok(Progress::More));
    let text = "FRAME_ERROR - content body size 536870913 exceeds maximum allowed size 536870912";
    refused(published_to(b"q").header(&header(60, 0, MAX_BODY + 1), NO_LIMIT), text, (60, 40));
}

#[test]
fn an_empty_body_needs_no_frame_and_allows_none() {
    let mut assembler = published_to(b"q");
    let message = complete(assembler.header(&header(60, 0, 0), 0));
    assert_eq!((message.body_size, message.too_large), (0, false));
    assert_eq!(message.parts().expect("whole").routing_key, b"q");
    let text = "UNEXPECTED_FRAME - expected method frame, got non method frame instead";
    refused(assembler.body(b"", 4096), text, (0, 0));
}

#[test]
fn a_body_beyond_the_limit_is_counted_and_not_kept() {
    let mut assembler = published_to(b"q");
    assert_eq!(assembler.header(&header(60, 0, 2_000_000), 1_000_000), Ok(Progress::More));
    for _ in 0..19 {
        assert_eq!(assembler.body(&[0; 100_000], 131_072), Ok(Progress::More));
        assert!(assembler.held() < 1_000);
    }
    let message = complete(assembler.body(&[0; 100_000], 131_072));
    assert_eq!((message.body_size, message.too_large), (2_000_000, true));
    assert!(assembler.is_idle());
}

#[test]
fn an_announced_size_alone_costs_no_memory() {
    let mut assembler = published_to(b"q");
    assert_eq!(assembler.header(&header(60, 0, MAX_BODY), NO_LIMIT), Ok(Progress::More));
    assert_eq!(assembler.body(b"x", 131_072), Ok(Progress::More));
    assert!(assembler.held() < 1_000, "{}", assembler.held());
}

#[test]
fn a_frame_that_would_be_refused_or_thrown_away_does_not_begin() {
    assert!(!Assembler::default().begin_body(1, 4096), "no content");
    assert!(!published_to(b"q").begin_body(1, 4096), "no header");
    let mut assembler = published_to(b"q");
    assert_eq!(assembler.header(&header(60, 0, 3), NO_LIMIT), Ok(Progress::More));
    assert!(!assembler.begin_body(4, 4096), "longer than announced");
    assert!(assembler.begin_body(3, 4096));
    assert!(!assembler.begin_body(0, 4096), "one has begun");
    let mut assembler = published_to(b"q");
    assert_eq!(assembler.header(&header(60, 0, 3), 2), Ok(Progress::More));
    assert!(!assembler.begin_body(3, 4096), "too large");
}

#[test]
fn a_message_takes_no_more_memory_than_it_has_octets_and_at_most_eight_times_what_has_come() {
    let mut assembler = published_to(b"q");
    let (frames, frame) = (100, 131_064);
    assert_eq!(assembler.header(&header(60, 0, frames * frame as u64), NO_LIMIT), Ok(Progress::More));
    let mut moved = 0;
    for came in 1..frames as usize {
        let before = assembler.held();
        assert_eq!(assembler.body(&vec![0; frame], 131_072), Ok(Progress::More));
        assert!(assembler.held() <= 8 * (came * (frame + 8) + 100), "{came} frames: {}", assembler.held());
        moved += usize::from(assembler.held() != before);
    }
    assert!(moved <= 3, "memory was taken {moved} times");
    let message = complete(assembler.body(&vec![0; frame], 131_072)).message;
    assert_eq!(message.capacity(), message.len());
}

#[test]
fn empty_body_frames_within_a_body_leave_no_trace() {
    let mut assembler = published_to(b"q");
    assert_eq!(assembler.header(&header(60, 0, 2), NO_LIMIT), Ok(Progress::More));
    assert_eq!(assembler.body(b"", 4096), Ok(Progress::More));
    assert_eq!(assembler.body(b"a", 4096), Ok(Progress::More));
    assert_eq!(assembler.body(b"", 4096), Ok(Progress::More));
    let message = complete(assembler.body(b"b", 4096));
    let bodies: Vec<_> = message.parts().expect("whole").bodies().map(<[u8]>::to_vec).collect();
    assert_eq!(bodies, [b"ab"]);
}

#[test]
fn the_meaningless_flag_bits_are_cleared() {
    let mut payload = header(60, 0, 0);
    payload[13] = 0b11;
    let message = complete(published_to(b"q").header(&payload, NO_LIMIT));
    assert_eq!(message.header().flags, 0);
    assert!(message.header().parse().is_ok());
}

#[test]
fn a_header_without_flags_completes_and_its_properties_are_refused() {
    for length in [12, 13] {
        let message = complete(published_to(b"q").header(&header(60, 0, 0)[..length], NO_LIMIT));
        assert_eq!(message.header().parse().expect_err("must be refused").code, 501);
    }
}

/// Takes frame after frame until a message is complete; answers it and the octets taken.
fn one_by_one(buffer: &[u8], frame_max: u32) -> Result<Option<(Complete, usize)>, AmqpError> {
    let mut assembler = Assembler::default();
    let mut taken = 0;
    let mut first = None;
    while let Some(frame) = frame::split(&buffer[taken..], frame_max)? {
        taken += frame.octets();
        if *first.get_or_insert(frame.channel) != frame.channel {
            return Ok(None);
        }
        let progress = match frame.kind {
            METHOD if assembler.is_idle() => {
                let publish = hot::publish(frame.payload)?;
                assembler.start(&publish, publish.bits());
                Progress::More
            }
            HEADER => assembler.header(frame.payload, NO_LIMIT)?,
            BODY => assembler.body(frame.payload, frame_max)?,
            kind => return Err(assembler.unexpected(kind)),
        };
        if let Progress::Complete(message) = progress {
            return Ok(Some((message, taken)));
        }
    }
    Ok(None)
}

#[track_caller]
fn same(buffer: &[u8], frame_max: u32) {
    let fast = whole(buffer, frame_max).expect("whole");
    let (slow, taken) = one_by_one(buffer, frame_max).expect("well-formed").expect("complete");
    let slow_parts = slow.parts().expect("whole");
    let fast_parts = leveret_protocol::Message::parse(fast.message).expect("whole");
    assert_eq!(taken, fast.consumed);
    assert_eq!((slow_parts.address, slow_parts.header), (fast_parts.address, fast_parts.header));
    assert_eq!((slow.address(), slow.content()), (slow_parts.address, slow_parts.content));
    assert_eq!((fast.publish.address, fast.content()), (fast_parts.address, fast_parts.content));
    assert_eq!(slow_parts.bits & 3, fast_parts.bits & 3);
    assert_eq!(slow_parts.body(), fast_parts.body());
    assert_eq!((slow.header(), slow.body_size), (fast.header, fast.header.body_size));
}

/// The frames of a message, the channel's number left out of account.
fn of(message: &Published) -> Vec<u8> {
    message.frames()
}

proptest! {
    #[test]
    fn a_message_in_the_buffer_is_what_the_assembler_makes_of_it(message in published(), after in published()) {
        let bytes = of(&message);
        same(&[&bytes[..], &of(&after)].concat(), 4096);
        let found = whole(&bytes, 4096).expect("whole");
        prop_assert_eq!((found.channel, found.consumed), (message.channel, bytes.len()));
        prop_assert_eq!((found.publish.exchange, found.publish.routing_key), (&message.exchange[..], &message.routing_key[..]));
        let parts = leveret_protocol::Message::parse(found.message).expect("whole");
        prop_assert_eq!(parts.body(), message.body());
        prop_assert_eq!(parts.header, message.header());
    }

    #[test]
    fn a_message_is_whole_only_with_its_last_octet(message in published(), cut: prop::sample::Index) {
        let bytes = of(&message);
        prop_assert!(whole(&bytes[..cut.index(bytes.len())], 4096).is_none());
    }

    /// Whatever is wrong with a message, the fast path never accepts what the slow one would not.
    #[test]
    fn what_the_fast_path_takes_the_slow_path_takes_too(message in published(), place: prop::sample::Index, octet: u8) {
        let mut bytes = of(&message);
        let place = place.index(bytes.len());
        bytes[place] = octet;
        if whole(&bytes, 4096).is_some() {
            same(&bytes, 4096);
        }
    }

    /// Frames in pieces, each given or put where there is room for it, make the message that whole frames make.
    #[test]
    fn a_body_in_pieces_is_the_same_as_in_whole_frames(
        message in published(),
        frame_max in 9..64u32,
        pieces in prop::collection::vec((1..9usize, any::<bool>()), 1..9),
    ) {
        let (mut whole, mut cut) = (published_to(b"q"), published_to(b"q"));
        let mut pieces = pieces.into_iter().cycle();
        let (mut expected, mut progress) = (whole.header(&message.header(), NO_LIMIT), cut.header(&message.header(), NO_LIMIT));
        for body in &message.bodies {
            prop_assert_eq!(&progress, &expected);
            expected = whole.body(body, frame_max);
            prop_assert!(cut.begin_body(body.len(), frame_max));
            let mut rest = &body[..];
            while !rest.is_empty() {
                let (size, given) = pieces.next().expect("endless");
                let size = if given {
                    let size = size.min(rest.len());
                    cut.piece(&rest[..size]);
                    size
                } else {
                    let (buffer, most) = cut.room().expect("octets are missing");
                    let size = size.min(most);
                    buffer.extend_from_slice(&rest[..size]);
                    cut.came(size);
                    size
                };
                rest = &rest[size..];
                prop_assert_eq!(cut.open(), Some(rest.len()));
            }
            progress = Ok(cut.end_body());
        }
        prop_assert_eq!(progress, expected);
        prop_assert!(cut.open().is_none() && cut.is_idle());
    }

    #[test]
    fn the_assembler_cuts_bodies_into_full_frames(message in published(), frame_max in 9..64u32) {
        let mut assembler = published_to(b"q");
        let mut progress = assembler.header(&message.header(), NO_LIMIT);
        for body in &message.bodies {
            progress = assembler.body(body, frame_max);
        }
        let made = complete(progress);
        let sizes: Vec<_> = made.parts().expect("whole").bodies().map(<[u8]>::len).collect();
        let max = frame_max as usize - 8;
        if let Some((last, full)) = sizes.split_last() {
            prop_assert!(full.iter().all(|size| *size == max) && (1..=max).contains(last));
        }
        prop_assert_eq!(made.parts().expect("whole").body(), message.body());
        prop_assert_eq!(content::header(made.parts().expect("whole").header), made.header());
    }
}

#[test]
fn irregular_messages_are_left_to_the_slow_path() {
    let regular = Published {
        channel: 3,
        exchange: b"x".to_vec(),
        routing_key: b"k".to_vec(),
        bits: 0,
        flags_and_properties: vec![0, 0],
        bodies: vec![b"ab".to_vec(), b"c".to_vec()],
    };
    assert!(whole(&regular.frames(), 4096).is_some());
    let changed = |change: fn(&mut Published)| {
        let mut message = regular.clone();
        change(&mut message);
        whole(&message.frames(), 4096).is_none()
    };
    assert!(changed(|message| message.channel = 0), "channel 0");
    assert!(changed(|message| message.bodies.insert(1, Vec::new())), "an empty body frame");
    assert!(changed(|message| message.flags_and_properties = vec![0, 1]), "a flag without meaning");
    assert!(changed(|message| message.flags_and_properties.clear()), "no flags");

    let mut heartbeat_between = regular.frames();
    let header_at = 7 + 4 + 2 + 4 + 1 + 1;
    heartbeat_between.splice(header_at..header_at, frame::heartbeat());
    assert!(whole(&heartbeat_between, 4096).is_none(), "another frame between");
    let mut other_channel = regular.frames();
    other_channel[header_at + 2] = 4;
    assert!(whole(&other_channel, 4096).is_none(), "a header of another channel");
    assert!(whole(&regular.frames(), 13).is_none(), "a frame too large");
}
