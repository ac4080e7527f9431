//! A connection to the broker: a blocking socket, the handshake, requests and their answers.

use std::io::{ErrorKind, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use leveret_protocol::amq::{
    AMQPClass, AMQPValue, FieldTable, LongString, ShortString, basic, channel, connection, short,
};
use leveret_protocol::{Frame, frame, method};

use super::error::{PerfError, Scope};
use super::url::Url;

/// Bytes read at a time; it must hold the largest frame. Pages that are never filled are never taken from the system.
const READ_BUFFER: usize = 512 << 10;
/// Our side of the tuning.
const FRAME_MAX: u32 = 131_072;
/// How long a read or write blocks before it looks whether it is still wanted.
const TICK: Duration = Duration::from_millis(200);
/// How long the broker may take to accept a connection.
const CONNECT_LIMIT: Duration = Duration::from_secs(10);
/// How long it may take to answer a request, which behind a long queue of publishes is long.
const ANSWER_LIMIT: Duration = Duration::from_secs(60);

/// The one channel that each connection uses.
pub const CHANNEL: u16 = 1;

pub struct Link {
    stream: Arc<TcpStream>,
    buffer: Vec<u8>,
    /// What was read and not looked at yet.
    start: usize,
    end: usize,
    frame_max: u32,
    /// How often the broker has said that it takes no more publishes for now.
    pub blocked: u64,
}

impl Link {
    /// Connects, logs in and opens [`CHANNEL`].
    pub fn open(url: &Url) -> Result<Link, PerfError> {
        let stream = connect(url)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(TICK))?;
        stream.set_write_timeout(Some(TICK))?;
        let buffer = vec![0; READ_BUFFER];
        let mut link = Link { stream: Arc::new(stream), buffer, start: 0, end: 0, frame_max: FRAME_MAX, blocked: 0 };
        link.handshake(url)?;
        link.call(AMQPClass::Channel(channel::AMQPMethod::Open(channel::Open {})), "channel.open")?;
        Ok(link)
    }

    fn handshake(&mut self, url: &Url) -> Result<(), PerfError> {
        (&*self.stream).write_all(b"AMQP\x00\x00\x09\x01")?;
        let start = self.answer(0, "the protocol header").map_err(|error| match error {
            PerfError::Malformed(_) | PerfError::Dropped => PerfError::NotAmqp(url.clone()),
            other => other,
        })?;
        if !matches!(start, AMQPClass::Connection(connection::AMQPMethod::Start(_))) {
            return Err(unexpected(&start));
        }
        self.say(0, &start_ok(url))?;
        let tune = self.answer(0, "connection.start-ok").map_err(|error| match error {
            PerfError::Dropped => PerfError::DroppedInLogin,
            other => other,
        })?;
        let AMQPClass::Connection(connection::AMQPMethod::Tune(tune)) = tune else {
            return Err(unexpected(&tune));
        };
        if tune.frame_max != 0 {
            self.frame_max = self.frame_max.min(tune.frame_max);
        }
        let ok = connection::TuneOk { channel_max: tune.channel_max, frame_max: self.frame_max, heartbeat: 0 };
        self.say(0, &AMQPClass::Connection(connection::AMQPMethod::TuneOk(ok)))?;
        let open = connection::Open { virtual_host: short(&url.vhost) };
        self.say(0, &AMQPClass::Connection(connection::AMQPMethod::Open(open)))?;
        self.answer(0, "connection.open").map(drop)
    }

    /// The largest frame, in octets, that may be sent or comes.
    pub fn frame_max(&self) -> u32 {
        self.frame_max
    }

    /// The socket, for who writes.
    pub fn stream(&self) -> Arc<TcpStream> {
        self.stream.clone()
    }

    /// Sends a method on [`CHANNEL`] and waits for its answer; `what` is asked, for the error when none comes.
    pub fn call(&mut self, request: AMQPClass, what: &'static str) -> Result<AMQPClass, PerfError> {
        self.say(CHANNEL, &request)?;
        self.answer(CHANNEL, what)
    }

    fn say(&mut self, channel: u16, request: &AMQPClass) -> Result<(), PerfError> {
        let mut out = Vec::new();
        method::encode(&mut out, channel, request);
        write_all(&self.stream, &out, &AtomicBool::new(false)).map(drop)
    }

    /// The next method on `channel`; deliveries and what else comes in between are passed over.
    fn answer(&mut self, channel: u16, what: &'static str) -> Result<AMQPClass, PerfError> {
        let asked = Instant::now();
        loop {
            while let Some(frame) = self.frame()? {
                let on_the_side = [(60, 60), (60, 80), (60, 120)].contains(&method::ids(frame.payload));
                if frame.kind != frame::METHOD || on_the_side {
                    continue;
                }
                let from = frame.channel;
                if let Some(method) = notable(frame, &mut 0)?
                    && from == channel
                {
                    return Ok(method);
                }
            }
            if !self.read()? && asked.elapsed() > ANSWER_LIMIT {
                return Err(PerfError::Silent(what));
            }
        }
    }

    /// Reads once. False when nothing has come for a moment.
    pub fn read(&mut self) -> Result<bool, PerfError> {
        self.buffer.copy_within(self.start..self.end, 0);
        self.end -= self.start;
        self.start = 0;
        match (&*self.stream).read(&mut self.buffer[self.end..]) {
            Ok(0) => Err(PerfError::Dropped),
            Ok(count) => {
                self.end += count;
                Ok(true)
            }
            Err(error) if is_tick(&error) => Ok(false),
            Err(error) if error.kind() == ErrorKind::ConnectionReset => Err(PerfError::Dropped),
            Err(error) => Err(error.into()),
        }
    }

    /// The next whole frame of what was read.
    #[inline]
    pub fn frame(&mut self) -> Result<Option<Frame<'_>>, PerfError> {
        let found = frame::split(&self.buffer[self.start..self.end], self.frame_max)?;
        if let Some(frame) = &found {
            self.start += frame.octets();
        }
        Ok(found)
    }

    /// Ends the connection in order. Everything sent before has been taken in by the broker when this returns.
    pub fn close(mut self) -> Result<(), PerfError> {
        let close = channel::Close { reply_code: 200, reply_text: ShortString::default(), class_id: 0, method_id: 0 };
        self.call(AMQPClass::Channel(channel::AMQPMethod::Close(close)), "channel.close")?;
        let close = connection::Close { reply_code: 200, reply_text: short("done"), class_id: 0, method_id: 0 };
        self.say(0, &AMQPClass::Connection(connection::AMQPMethod::Close(close)))?;
        self.answer(0, "connection.close").map(drop)
    }
}

/// What the broker says besides deliveries and confirms: an answer is returned, a close is an error, a remark
/// (blocked, which is counted; unblocked; heartbeats) is None.
#[cold]
pub fn notable(frame: Frame<'_>, blocked: &mut u64) -> Result<Option<AMQPClass>, PerfError> {
    if frame.kind == frame::HEARTBEAT {
        return Ok(None);
    }
    match method::decode(frame.payload)? {
        AMQPClass::Connection(connection::AMQPMethod::Close(close)) => {
            let text = close.reply_text.as_str().to_owned();
            Err(PerfError::Closed { scope: Scope::Connection, code: close.reply_code, text })
        }
        AMQPClass::Channel(channel::AMQPMethod::Close(close)) => {
            let text = close.reply_text.as_str().to_owned();
            Err(PerfError::Closed { scope: Scope::Channel, code: close.reply_code, text })
        }
        AMQPClass::Connection(connection::AMQPMethod::Blocked(_)) => {
            *blocked += 1;
            Ok(None)
        }
        AMQPClass::Connection(connection::AMQPMethod::Unblocked(_)) => Ok(None),
        AMQPClass::Basic(basic::AMQPMethod::Cancel(_)) => Err(PerfError::Cancelled),
        other => Ok(Some(other)),
    }
}

/// An answer that answers nothing.
pub fn unexpected(method: &AMQPClass) -> PerfError {
    PerfError::Unexpected(format!("{method:?}"))
}

/// Writes everything; false when `give_up` was set before all of it was taken.
pub fn write_all(mut stream: &TcpStream, mut bytes: &[u8], give_up: &AtomicBool) -> Result<bool, PerfError> {
    while !bytes.is_empty() {
        match stream.write(bytes) {
            Ok(count) => bytes = &bytes[count..],
            Err(error) if is_tick(&error) => {
                if give_up.load(Ordering::Relaxed) {
                    return Ok(false);
                }
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(true)
}

fn is_tick(error: &std::io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted)
}

/// Tries every address that the name has.
fn connect(url: &Url) -> Result<TcpStream, PerfError> {
    let failed = |source| PerfError::Connect { to: url.clone(), source };
    let mut last = std::io::Error::new(ErrorKind::NotFound, "the name has no address");
    for address in (url.host.as_str(), url.port).to_socket_addrs().map_err(failed)? {
        match TcpStream::connect_timeout(&address, CONNECT_LIMIT) {
            Ok(stream) => return Ok(stream),
            Err(error) => last = error,
        }
    }
    Err(failed(last))
}

fn start_ok(url: &Url) -> AMQPClass {
    let mut capabilities = FieldTable::default();
    for name in [
        "publisher_confirms",
        "basic.nack",
        "consumer_cancel_notify",
        "connection.blocked",
        "authentication_failure_close",
    ] {
        capabilities.insert(short(name), AMQPValue::Boolean(true));
    }
    let mut client_properties = FieldTable::default();
    client_properties.insert(short("product"), AMQPValue::LongString(LongString::from("leveret perf")));
    client_properties.insert(short("version"), AMQPValue::LongString(LongString::from(env!("CARGO_PKG_VERSION"))));
    client_properties.insert(short("capabilities"), AMQPValue::FieldTable(capabilities));
    let response = format!("\0{}\0{}", url.user, url.password);
    AMQPClass::Connection(connection::AMQPMethod::StartOk(connection::StartOk {
        client_properties,
        mechanism: short("PLAIN"),
        response: LongString::from(response),
        locale: short("en_US"),
    }))
}
