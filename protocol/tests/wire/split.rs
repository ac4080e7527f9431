use crate::generate::octets;
use leveret_protocol::frame::{self, BODY, HEADER, HEARTBEAT, METHOD};
use proptest::{collection::vec, prelude::*};

fn frames() -> impl Strategy<Value = Vec<(u8, u16, Vec<u8>)>> {
    let frame = prop_oneof![
        (Just(METHOD), any::<u16>(), vec(any::<u8>(), 4..60)),
        (Just(HEADER), 1..=u16::MAX, vec(any::<u8>(), 12..60)),
        (Just(BODY), 1..=u16::MAX, octets(60)),
        (Just(HEARTBEAT), Just(0), Just(Vec::new())),
    ];
    vec(frame, 0..8)
}

proptest! {
    #[test]
    fn frames_come_out_as_they_went_in_however_the_octets_are_chunked(
        frames in frames(),
        chunks in vec(1..40usize, 1..50),
    ) {
        let mut stream = Vec::new();
        frames.iter().for_each(|(kind, channel, payload)| frame::encode(&mut stream, *kind, *channel, payload));
        let mut buffer = Vec::new();
        let mut found = Vec::new();
        let mut chunks = chunks.into_iter().cycle();
        let mut unread = &stream[..];
        while !unread.is_empty() {
            let (chunk, rest) = unread.split_at(chunks.next().unwrap_or(1).min(unread.len()));
            unread = rest;
            buffer.extend_from_slice(chunk);
            while let Some(frame) = frame::split(&buffer, 4096).expect("well-formed") {
                found.push((frame.kind, frame.channel, frame.payload.to_vec()));
                let octets = frame.octets();
                buffer.drain(..octets);
            }
        }
        prop_assert_eq!(found, frames);
        prop_assert!(buffer.is_empty());
    }

    #[test]
    fn a_payload_of_frame_max_octets_passes_and_one_more_does_not(size in 12..200u32) {
        let mut bytes = Vec::new();
        frame::encode(&mut bytes, BODY, 1, &vec![0; size as usize]);
        prop_assert!(matches!(frame::split(&bytes, size), Ok(Some(_))));
        let error = frame::split(&bytes[..7], size - 1).expect_err("too large");
        prop_assert_eq!((error.code, error.fatal), (501, true));
    }
}
