//! What a message costs on its way through the codec: `cargo bench -p leveret-protocol`.

use leveret_protocol::{assembler, deliver, frame, hot, message};
use std::{hint::black_box, time::Instant};

const FRAME_MAX: u32 = 131_072;
/// As many messages as a read buffer may hold at 16 octets of body.
const MESSAGES: usize = 1_000;

fn main() {
    for body in [16, 1024] {
        let buffer = published(body);
        report("split, every frame", body, || {
            let mut rest = &buffer[..];
            while let Ok(Some(frame)) = frame::split(rest, FRAME_MAX) {
                black_box((frame.kind, frame.channel));
                rest = &rest[frame.octets()..];
            }
        });
        report("whole", body, || {
            let mut rest = &buffer[..];
            while let Some(whole) = assembler::whole(rest, FRAME_MAX) {
                black_box((whole.channel, whole.publish.bits(), whole.message.len()));
                rest = &rest[whole.consumed..];
            }
        });
        report("whole and its properties", body, || {
            let mut rest = &buffer[..];
            while let Some(whole) = assembler::whole(rest, FRAME_MAX) {
                let properties = whole.header.parse().expect("well-formed");
                black_box((properties.delivery_mode, properties.expiration));
                rest = &rest[whole.consumed..];
            }
        });
        let whole = assembler::whole(&buffer, FRAME_MAX).expect("a whole message");
        let (address, content) = (whole.publish.address, whole.content());
        let mut out = Vec::with_capacity(4 << 20);
        report("deliver", body, || {
            out.clear();
            for tag in 0..MESSAGES as u64 {
                deliver::deliver(
                    &mut out,
                    1,
                    black_box(b"ctag-1"),
                    tag,
                    false,
                    black_box(address),
                    black_box(content),
                    FRAME_MAX,
                );
            }
            black_box(&out);
        });
    }
    let mut acks = Vec::with_capacity(1 << 20);
    report("encode_ack", 0, || {
        acks.clear();
        for tag in 0..MESSAGES as u64 {
            hot::encode_ack(&mut acks, 1, tag, false);
        }
        black_box(&acks);
    });
}

/// A read buffer full of publishes of one persistent message to the queue `bench`.
fn published(body: usize) -> Vec<u8> {
    let mut buffer = Vec::new();
    let mut header = vec![0, 60, 0, 0];
    header.extend_from_slice(&(body as u64).to_be_bytes());
    header.extend_from_slice(&[0x10, 0, 2]);
    for _ in 0..MESSAGES {
        let publish = [&[0, 60, 0, 40, 0, 0][..], &message::address(b"", b"bench"), &[0]].concat();
        frame::encode(&mut buffer, frame::METHOD, 1, &publish);
        frame::encode(&mut buffer, frame::HEADER, 1, &header);
        frame::encode(&mut buffer, frame::BODY, 1, &vec![b'x'; body]);
    }
    buffer
}

/// Prints the best of many rounds, which is the one that was disturbed least.
fn report(what: &str, body: usize, mut round: impl FnMut()) {
    let mut best = f64::MAX;
    for _ in 0..300 {
        let start = Instant::now();
        round();
        best = best.min(start.elapsed().as_nanos() as f64 / MESSAGES as f64);
    }
    println!("{what:26} body {body:5}: {best:7.1} ns a message");
}
