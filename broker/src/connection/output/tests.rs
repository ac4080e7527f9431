use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use leveret_protocol::{deliver, frame};
use leveret_storage::Block;
use proptest::prelude::*;
use tokio::io::AsyncWrite;

use super::{LENT, Output, STRETCHES};
use crate::message::{self, BlockBuilder, Meta};

/// A client that takes so many octets of what it is given, in turn.
struct Client {
    takes: Vec<usize>,
    turn: usize,
    has: Vec<u8>,
    most_stretches: usize,
}

impl Client {
    fn new(takes: Vec<usize>) -> Client {
        Client { takes, turn: 0, has: Vec::new(), most_stretches: 0 }
    }
}

impl AsyncWrite for Client {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, octets: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[io::IoSlice::new(octets)])
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        stretches: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let takes = self.takes[self.turn % self.takes.len()];
        self.turn += 1;
        if takes == 0 {
            return Poll::Pending;
        }
        self.most_stretches = self.most_stretches.max(stretches.len());
        let before = self.has.len();
        for stretch in stretches {
            let room = takes - (self.has.len() - before);
            self.has.extend_from_slice(&stretch[..room.min(stretch.len())]);
        }
        Poll::Ready(Ok(self.has.len() - before))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// A block of messages whose bodies are cut into frames of these sizes.
fn block(messages: &[Vec<usize>]) -> Arc<Block> {
    let mut builder = BlockBuilder::default();
    for (number, sizes) in messages.iter().enumerate() {
        let mut stored = b"\x01x\x01k\0\xCE".to_vec();
        frame::encode(&mut stored, frame::HEADER, 9, &[7; 14]);
        sizes.iter().for_each(|size| frame::encode(&mut stored, frame::BODY, 9, &vec![number as u8; *size]));
        builder.add(&stored, Meta::new(4, 0));
    }
    builder.finish(&Arc::default())
}

/// Writes until the client wants no more for now, as a connection does.
fn write(output: &mut Output, client: &mut Client) {
    let mut cx = Context::from_waker(Waker::noop());
    while !output.is_empty() {
        let Poll::Ready(count) = output.write(Pin::new(client), &mut cx) else { break };
        assert!(count.expect("the client is there") > 0);
    }
    output.tidy();
}

fn write_all(output: &mut Output, client: &mut Client) {
    while !output.is_empty() {
        write(output, client);
    }
}

#[derive(Clone, Debug)]
enum Step {
    Octets(usize),
    Lend { sizes: Vec<Vec<usize>>, frame_max: u32 },
    Write,
}

fn step() -> impl Strategy<Value = Step> {
    let size = prop_oneof![0..100usize, LENT - 2..LENT + 2, 3 * LENT..20 * LENT];
    let sizes = prop::collection::vec(prop::collection::vec(size, 0..4), 1..3);
    prop_oneof![
        (0..300_000usize).prop_map(Step::Octets),
        (sizes, prop_oneof![Just(4096), Just(131_072)]).prop_map(|(sizes, frame_max)| Step::Lend { sizes, frame_max }),
        Just(Step::Write),
    ]
}

proptest! {
    #[test]
    fn what_is_written_is_what_was_added_whatever_was_lent_and_however_much_the_client_takes(
        steps in prop::collection::vec(step(), 1..20),
        takes in prop::collection::vec(prop_oneof![0..3usize, 1..500_000usize], 1..6),
    ) {
        prop_assume!(takes.iter().any(|takes| *takes > 2));
        let (mut output, mut client, mut expected) = (Output::default(), Client::new(takes), Vec::new());
        for (number, step) in steps.into_iter().enumerate() {
            match step {
                Step::Octets(count) => {
                    let octets: Vec<u8> = (0..count).map(|n| (n + number) as u8).collect();
                    output.octets().extend_from_slice(&octets);
                    expected.extend_from_slice(&octets);
                }
                Step::Lend { sizes, frame_max } => {
                    let block = block(&sizes);
                    for index in 0..block.count() {
                        output.lend(&block, index, message::content_at(&block, index), 3, frame_max);
                        deliver::content(&mut expected, 3, message::content(&block, index), frame_max);
                    }
                }
                Step::Write => write(&mut output, &mut client),
            }
            prop_assert_eq!(output.len(), expected.len() - client.has.len());
        }
        write_all(&mut output, &mut client);
        prop_assert!(client.has == expected);
        prop_assert!(client.most_stretches <= STRETCHES);
    }
}

#[test]
fn a_large_body_stays_in_its_block_until_it_is_written_and_no_longer() {
    let block = block(&[vec![LENT, 3, LENT]]);
    let mut output = Output::default();
    output.lend(&block, 0, message::content_at(&block, 0), 3, 131_072);
    assert_eq!(Arc::strong_count(&block), 3);
    assert!(output.octets().len() < 100);
    // All but the last octet, then that.
    let takes = output.len() - 1;
    let mut client = Client::new(vec![takes, 0, 1]);
    write(&mut output, &mut client);
    assert_eq!((output.len(), Arc::strong_count(&block)), (1, 2));
    write(&mut output, &mut client);
    assert_eq!((output.len(), Arc::strong_count(&block)), (0, 1));
}

#[test]
fn what_is_put_first_goes_before_what_is_lent() {
    let block = block(&[vec![LENT]]);
    let mut output = Output::default();
    output.octets().extend_from_slice(b"second");
    output.lend(&block, 0, message::content_at(&block, 0), 9, 131_072);
    output.octets().extend_from_slice(b"last");
    output.put_first(b"first");
    let mut client = Client::new(vec![1 << 20]);
    write_all(&mut output, &mut client);
    assert_eq!(client.has, [b"firstsecond", message::content(&block, 0), b"last"].concat());
}

#[test]
fn an_output_with_nothing_to_write_keeps_no_large_buffer() {
    let mut output = Output::default();
    let block = block(&vec![vec![LENT]; 200]);
    (0..200).for_each(|index| output.lend(&block, index, message::content_at(&block, index), 9, 131_072));
    let mut client = Client::new(vec![1 << 20]);
    write_all(&mut output, &mut client);
    output.give_back();
    assert!(output.octets().capacity() <= super::KEPT && output.bodies.capacity() <= super::KEPT_BODIES);
}
