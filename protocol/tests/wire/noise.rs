//! Nothing panics and nothing runs away, whatever the octets.

use crate::{
    generate::{octets, published},
    methods::payload,
};
use leveret_protocol::{
    Assembler, Message, Properties,
    assembler::whole,
    content::{self, Edits},
    deliver,
    error::{octets as shown, text_of},
    frame, hot, method,
    table::Table,
    value::decode_table,
};
use proptest::{collection::vec, prelude::*};

/// Everything that takes octets, on these octets.
fn everything(bytes: &[u8]) {
    for frame_max in [0, 1, 8, 9, 64, u32::MAX] {
        if let Err(error) = frame::split(bytes, frame_max) {
            assert!(error.reply_text().len() <= 255);
        }
        if let Some(whole) = whole(bytes, frame_max) {
            assert!(whole.consumed <= bytes.len() && Message::parse(whole.message).is_some());
        }
        let mut out = Vec::new();
        deliver::content(&mut out, 1, bytes, frame_max);
        deliver::deliver(&mut out, 1, bytes, 1, true, bytes, bytes, frame_max);
        deliver::get_ok(&mut out, 1, 1, true, bytes, 1);
        deliver::content_but(&mut out, 1, bytes, frame_max, 4, |_, _| {});
        deliver::returned(&mut out, 1, 312, &text_of(bytes), bytes, bytes, frame_max);
        assert!(out.len() <= 4 * (20 * bytes.len() + 600));
    }
    for error in
        [method::decode(bytes).err(), hot::publish(bytes).err(), hot::settle(bytes).err()].into_iter().flatten()
    {
        assert!(error.reply_text().len() <= 255);
    }
    let _ = (Table::parse(bytes).is_ok(), decode_table(bytes).is_ok(), shown(bytes));
    let header = content::header(bytes);
    let _ = (header.parse().is_ok(), header.is_persistent());
    let _ = (content::edit(bytes, &Edits::default()).is_ok(), Properties::parse(u16::MAX, bytes).is_ok());
    if let Some(message) = Message::parse(bytes) {
        let _ = (message.body(), message.content_header().parse().is_ok(), message.rebuild(bytes, bytes));
    }
}

proptest! {
    #[test]
    fn noise_does_no_harm(bytes in octets(300)) {
        everything(&bytes);
    }

    #[test]
    fn damaged_frames_do_no_harm(message in published(), damage in vec((any::<prop::sample::Index>(), any::<u8>()), 0..4)) {
        let mut bytes = message.frames();
        for (place, octet) in damage {
            let place = place.index(bytes.len());
            bytes[place] = octet;
        }
        everything(&bytes);
        everything(&bytes[13..]);
    }

    #[test]
    fn damaged_methods_do_no_harm(payload in payload(), place: prop::sample::Index, octet: u8) {
        let mut bytes = payload;
        let place = place.index(bytes.len());
        bytes[place] = octet;
        everything(&bytes);
    }

    #[test]
    fn frames_in_any_order_do_no_harm_to_an_assembler(
        frames in vec((0..3u8, octets(30), 0..60u64), 0..20),
        frame_max in 0..40u32,
    ) {
        let mut assembler = Assembler::default();
        for (kind, bytes, size) in frames {
            let header = [&[0, 60, 0, 0][..], &size.to_be_bytes(), &bytes].concat();
            let _ = match kind {
                0 => hot::publish(b"\0\x3C\0\x28\0\0\0\x01q\0").map(|publish| assembler.start(&publish, 0)).is_ok(),
                1 => assembler.header(&header, 40).is_ok(),
                _ => assembler.body(&bytes, frame_max).is_ok(),
            };
            prop_assert!(assembler.held() < 4_000);
        }
    }
}
