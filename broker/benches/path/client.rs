//! A client that blocks, and sends everything that a round has to say in one write.

use std::collections::VecDeque;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

use leveret_protocol::amq::{
    AMQPClass, FieldTable, LongString, basic, channel, confirm, connection, exchange, queue, short,
};
use leveret_protocol::{frame, hot, message, method};

const CHANNEL: u16 = 1;
const FRAME_MAX: u32 = 131_072;
/// Above this, what was said is sent without waiting for more.
const ENOUGH: usize = 32 << 10;

pub struct Client {
    stream: TcpStream,
    input: Vec<u8>,
    output: Vec<u8>,
    /// Delivery tags that are not acked, oldest first.
    unacked: VecDeque<u64>,
    deliveries: u64,
    /// The highest publish that is confirmed.
    confirmed: u64,
    confirms_wanted: u64,
    answers: u64,
    auto: bool,
}

impl Client {
    /// Logs in and opens the one channel.
    pub fn connect(address: SocketAddr) -> Client {
        let stream = TcpStream::connect(address).expect("the broker listens");
        stream.set_nodelay(true).expect("a socket");
        let (input, output) = (Vec::new(), b"AMQP\x00\x00\x09\x01".to_vec());
        let mut client = Client {
            stream,
            input,
            output,
            unacked: VecDeque::new(),
            deliveries: 0,
            confirmed: 0,
            confirms_wanted: 0,
            answers: 0,
            auto: true,
        };
        client.answer();
        let start_ok = connection::StartOk {
            client_properties: FieldTable::default(),
            mechanism: short("PLAIN"),
            response: LongString::from("\0guest\0guest"),
            locale: short("en_US"),
        };
        client.ask(0, AMQPClass::Connection(connection::AMQPMethod::StartOk(start_ok)));
        let tune_ok = connection::TuneOk { channel_max: 2047, frame_max: FRAME_MAX, heartbeat: 0 };
        client.say(0, AMQPClass::Connection(connection::AMQPMethod::TuneOk(tune_ok)));
        let open = connection::Open { virtual_host: short("/") };
        client.ask(0, AMQPClass::Connection(connection::AMQPMethod::Open(open)));
        client.ask(CHANNEL, AMQPClass::Channel(channel::AMQPMethod::Open(channel::Open {})));
        client
    }

    fn say(&mut self, channel: u16, method: AMQPClass) {
        method::encode(&mut self.output, channel, &method);
    }

    fn ask(&mut self, channel: u16, method: AMQPClass) {
        self.say(channel, method);
        self.answer();
    }

    /// Sends what was said, and waits for one answer.
    fn answer(&mut self) {
        self.send();
        let answers = self.answers;
        while self.answers == answers {
            self.read();
        }
    }

    /// Sends what was said.
    pub fn send(&mut self) {
        self.stream.write_all(&self.output).expect("the broker is there");
        self.output.clear();
    }

    fn read(&mut self) {
        let mut buffer = [0; 64 << 10];
        let count = self.stream.read(&mut buffer).expect("the broker is there");
        assert!(count > 0, "the broker has closed the connection");
        self.input.extend_from_slice(&buffer[..count]);
        let mut at = 0;
        while let Some(frame) = frame::split(&self.input[at..], FRAME_MAX).expect("frames") {
            at += frame.octets();
            if frame.kind != frame::METHOD {
                continue;
            }
            match method::ids(frame.payload) {
                (60, 60) => {
                    self.deliveries += 1;
                    if !self.auto {
                        let tag = 5 + usize::from(frame.payload[4]);
                        let tag = frame.payload[tag..tag + 8].try_into().expect("eight octets");
                        self.unacked.push_back(u64::from_be_bytes(tag));
                    }
                }
                (60, 80) => match hot::settle(frame.payload) {
                    Ok(Some(hot::Settle::Ack { tag, .. })) => self.confirmed = self.confirmed.max(tag),
                    other => panic!("not an ack: {other:?}"),
                },
                (10 | 20, 40 | 50) => panic!("closed: {}", String::from_utf8_lossy(frame.payload)),
                _ => self.answers += 1,
            }
        }
        self.input.drain(..at);
    }

    /// Waits until all that was sent has been taken in.
    pub fn synchronize(&mut self) {
        let qos = basic::Qos { prefetch_count: 0, global: false };
        self.ask(CHANNEL, AMQPClass::Basic(basic::AMQPMethod::Qos(qos)));
    }

    fn say_without_answer(&mut self, method: AMQPClass) {
        self.say(CHANNEL, method);
        if self.output.len() > ENOUGH {
            self.synchronize();
        }
    }

    pub fn declare(&mut self, name: &str) {
        self.say_without_answer(AMQPClass::Queue(queue::AMQPMethod::Declare(queue::Declare {
            queue: short(name),
            passive: false,
            durable: false,
            exclusive: false,
            auto_delete: false,
            nowait: true,
            arguments: FieldTable::default(),
        })));
    }

    /// An exchange of the type that its name is.
    pub fn exchange(&mut self, name: &str) {
        self.say_without_answer(AMQPClass::Exchange(exchange::AMQPMethod::Declare(exchange::Declare {
            exchange: short(name),
            kind: short(name),
            passive: false,
            durable: false,
            auto_delete: false,
            internal: false,
            nowait: true,
            arguments: FieldTable::default(),
        })));
    }

    pub fn bind(&mut self, queue: &str, exchange: &str, key: &str) {
        self.say_without_answer(AMQPClass::Queue(queue::AMQPMethod::Bind(queue::Bind {
            queue: short(queue),
            exchange: short(exchange),
            routing_key: short(key),
            nowait: true,
            arguments: FieldTable::default(),
        })));
    }

    pub fn select_confirms(&mut self) {
        let select = confirm::Select { nowait: false };
        self.ask(CHANNEL, AMQPClass::Confirm(confirm::AMQPMethod::Select(select)));
    }

    pub fn prefetch(&mut self, prefetch_count: u16) {
        let qos = basic::Qos { prefetch_count, global: false };
        self.ask(CHANNEL, AMQPClass::Basic(basic::AMQPMethod::Qos(qos)));
    }

    pub fn consume(&mut self, queue: &str, no_ack: bool) {
        self.auto = no_ack;
        let consume = basic::Consume {
            queue: short(queue),
            consumer_tag: short(queue),
            no_local: false,
            no_ack,
            exclusive: false,
            nowait: false,
            arguments: FieldTable::default(),
        };
        self.ask(CHANNEL, AMQPClass::Basic(basic::AMQPMethod::Consume(consume)));
    }

    /// A transient message.
    pub fn publish(&mut self, exchange: &str, key: &str, body: usize) {
        let address = message::address(exchange.as_bytes(), key.as_bytes());
        let publish = [&[0, 60, 0, 40, 0, 0][..], &address, &[0]].concat();
        frame::encode(&mut self.output, frame::METHOD, CHANNEL, &publish);
        let header = [&[0, 60, 0, 0][..], &(body as u64).to_be_bytes(), &[0x10, 0, 1]].concat();
        frame::encode(&mut self.output, frame::HEADER, CHANNEL, &header);
        frame::encode(&mut self.output, frame::BODY, CHANNEL, &vec![b'x'; body]);
    }

    /// Waits for so many deliveries.
    pub fn receive(&mut self, count: u64) {
        while self.deliveries < count {
            self.read();
        }
        self.deliveries -= count;
    }

    /// Waits until so many more publishes are confirmed, all there are.
    pub fn receive_confirms(&mut self, count: u64) {
        // Confirms may have come with what was read before.
        self.confirms_wanted += count;
        while self.confirmed < self.confirms_wanted {
            self.read();
        }
    }

    /// Says an ack for each of so many deliveries, oldest first; they go out with what is said next.
    pub fn ack_oldest(&mut self, count: u64) {
        for _ in 0..count {
            let tag = self.unacked.pop_front().expect("as many are unacked");
            hot::encode_ack(&mut self.output, CHANNEL, tag, false);
        }
    }

    /// The same with the last ones that came, in the order in which they came.
    pub fn ack_newest(&mut self, count: u64) {
        let from = self.unacked.len() - count as usize;
        for tag in self.unacked.drain(from..) {
            hot::encode_ack(&mut self.output, CHANNEL, tag, false);
        }
    }
}
