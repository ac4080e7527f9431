//! A blocking AMQP client that speaks and hears single frames.
//!
//! It keeps no state but the octets it has read: what may be said when is for the test to know. Whatever is expected
//! and doesn't come ends the test with what came instead and the last frames of the conversation.

use crate::method::{Method, Octets, decode};
use amq_protocol::protocol::{AMQPClass, channel, connection};
use std::collections::VecDeque;
use std::fmt;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

/// How long a peer waits for what it expects. Long, for a busy machine: it is only ever used up by a failure.
const PATIENCE: Duration = Duration::from_secs(20);
/// How many frames of the conversation a failing test shows.
const REMEMBERED: usize = 30;

/// The protocol header of AMQP 0-9-1.
pub const PROTOCOL_HEADER: &[u8; 8] = b"AMQP\x00\x00\x09\x01";
/// The octet that ends every frame.
pub const FRAME_END: u8 = 0xCE;
/// A heartbeat, whole.
pub const HEARTBEAT: &[u8; 8] = b"\x08\x00\x00\x00\x00\x00\x00\xCE";

/// Frame types.
pub mod kind {
    /// A method.
    pub const METHOD: u8 = 1;
    /// A content header.
    pub const HEADER: u8 = 2;
    /// A piece of a content body.
    pub const BODY: u8 = 3;
    /// A heartbeat.
    pub const HEARTBEAT: u8 = 8;
}

/// One frame, as it stands on the wire.
#[derive(Clone, PartialEq, Eq)]
pub struct Frame {
    /// Its type; see [`kind`].
    pub kind: u8,
    /// Its channel number.
    pub channel: u16,
    /// What lies between the frame's header and its end octet.
    pub payload: Vec<u8>,
}

impl Frame {
    /// A frame of this type on this channel.
    pub fn new(kind: u8, channel: u16, payload: impl AsRef<[u8]>) -> Frame {
        Frame { kind, channel, payload: payload.as_ref().to_vec() }
    }

    /// The frame's octets, with its right length and end octet.
    pub fn octets(&self) -> Vec<u8> {
        Octets::new().u8(self.kind).u16(self.channel).longstr(&self.payload).u8(FRAME_END).0
    }

    /// The method it carries, if it carries one that can be decoded.
    pub fn method(&self) -> Option<AMQPClass> {
        if self.kind == kind::METHOD { decode(&self.payload) } else { None }
    }
}

impl fmt::Debug for Frame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let channel = self.channel;
        match (self.kind, self.method()) {
            (kind::METHOD, Some(method)) => write!(f, "method on {channel}: {method:?}"),
            (kind::METHOD, None) => {
                write!(f, "method on {channel}, undecoded: {:?}", self.payload.escape_ascii().to_string())
            }
            (kind::HEADER, _) => write!(f, "content header on {channel}: {:?}", self.payload),
            (kind::BODY, _) => {
                let start = &self.payload[..self.payload.len().min(40)];
                write!(f, "body of {} on {channel}: \"{}\"", self.payload.len(), start.escape_ascii())
            }
            (kind::HEARTBEAT, _) => write!(f, "heartbeat on {channel}"),
            (other, _) => write!(f, "frame of type {other} on {channel}: {:?}", self.payload),
        }
    }
}

/// What can be heard.
#[derive(Debug)]
pub enum Heard {
    /// A whole frame.
    Frame(Frame),
    /// The end: the broker has closed the socket.
    End,
    /// Nothing, for as long as one was ready to wait.
    Silence,
}

/// How to log in; the default is what the tests mostly want.
#[derive(Clone, Debug)]
pub struct Login<'a> {
    /// The user.
    pub user: &'a str,
    /// The password.
    pub password: &'a str,
    /// The virtual host.
    pub vhost: &'a str,
    /// `channel-max` of tune-ok.
    pub channel_max: u16,
    /// `frame-max` of tune-ok.
    pub frame_max: u32,
    /// `heartbeat` of tune-ok, seconds; 0 for none in either direction.
    pub heartbeat: u16,
    /// The client capabilities announced as true.
    pub capabilities: &'a [&'a str],
}

impl Default for Login<'_> {
    fn default() -> Self {
        Login {
            user: "guest",
            password: "guest",
            vhost: "/",
            channel_max: 2047,
            frame_max: 131_072,
            heartbeat: 0,
            capabilities: &[
                "authentication_failure_close",
                "basic.nack",
                "connection.blocked",
                "consumer_cancel_notify",
                "publisher_confirms",
            ],
        }
    }
}

impl Login<'_> {
    /// connection.start-ok with mechanism PLAIN.
    pub fn start_ok(&self) -> Octets {
        let response = Octets::new().u8(0).bytes(self.user).u8(0).bytes(self.password);
        self.start_ok_with("PLAIN", response)
    }

    /// connection.start-ok with any mechanism and response.
    pub fn start_ok_with(&self, mechanism: &str, response: impl AsRef<[u8]>) -> Octets {
        let mut capabilities = Octets::new();
        for name in self.capabilities {
            capabilities = capabilities.entry(name, b't', [1]);
        }
        let properties = Octets::new().entry_str("product", "leveret's tests").entry(
            "capabilities",
            b'F',
            Octets::new().longstr(capabilities),
        );
        Octets::method(10, 11).longstr(properties).shortstr(mechanism).longstr(response).shortstr("en_US")
    }
}

/// One TCP connection to a broker.
#[derive(Debug)]
pub struct Peer {
    stream: TcpStream,
    unread: Vec<u8>,
    conversation: VecDeque<String>,
}

/// Connecting and speaking.
impl Peer {
    /// A socket on which nothing has been said yet.
    #[track_caller]
    pub fn connect(address: SocketAddr) -> Peer {
        let stream = TcpStream::connect(address).expect("the broker accepts connections");
        stream.set_nodelay(true).expect("TCP_NODELAY");
        stream.set_write_timeout(Some(PATIENCE)).expect("a write timeout");
        Peer { stream, unread: Vec::new(), conversation: VecDeque::new() }
    }

    /// Everything from the protocol header to open-ok.
    #[track_caller]
    pub fn handshake(&mut self, login: &Login) {
        self.handshake_until_tune(login);
        self.send(0, tune_ok(login));
        self.send(0, open(login.vhost));
        self.expect::<connection::OpenOk>(0);
    }

    /// Everything from the protocol header to the broker's tune, which is returned.
    #[track_caller]
    pub fn handshake_until_tune(&mut self, login: &Login) -> connection::Tune {
        self.send_octets(PROTOCOL_HEADER);
        self.expect::<connection::Start>(0);
        self.send_payload(0, login.start_ok());
        self.expect(0)
    }

    /// Sends octets as they are.
    #[track_caller]
    pub fn send_octets(&mut self, octets: impl AsRef<[u8]>) {
        let octets = octets.as_ref();
        self.remember(format!("-> {} octets: \"{}\"", octets.len(), octets[..octets.len().min(60)].escape_ascii()));
        self.write(octets);
    }

    /// Sends one frame.
    #[track_caller]
    pub fn send_frame(&mut self, frame: Frame) {
        self.remember(format!("-> {frame:?}"));
        self.write(&frame.octets());
    }

    /// Sends one method.
    #[track_caller]
    pub fn send(&mut self, channel: u16, method: impl Method) {
        self.send_payload(channel, method.payload());
    }

    /// Sends a method frame with this payload: class id, method id, arguments.
    #[track_caller]
    pub fn send_payload(&mut self, channel: u16, payload: impl AsRef<[u8]>) {
        self.send_frame(Frame::new(kind::METHOD, channel, payload));
    }

    /// Tells the broker that nothing more will be said, and goes on listening.
    pub fn say_no_more(&mut self) {
        self.stream.shutdown(std::net::Shutdown::Write).expect("an open socket");
    }

    /// The socket itself, for what goes beyond frames.
    pub fn stream(&self) -> &TcpStream {
        &self.stream
    }

    #[track_caller]
    fn write(&mut self, octets: &[u8]) {
        if let Err(error) = self.stream.write_all(octets) {
            panic!("the broker doesn't take what is sent: {error}");
        }
    }

    fn remember(&mut self, mut line: String) {
        if let Some((end, _)) = line.char_indices().nth(300) {
            line.truncate(end);
        }
        if self.conversation.len() == REMEMBERED {
            self.conversation.pop_front();
        }
        self.conversation.push_back(line);
    }
}

/// Hearing.
impl Peer {
    /// The next frame, the end, or silence for that long.
    #[track_caller]
    pub fn hear(&mut self, patience: Duration) -> Heard {
        let deadline = Instant::now() + patience;
        let heard = loop {
            if let Some(frame) = self.take_frame() {
                break Heard::Frame(frame);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break Heard::Silence;
            }
            if self.read_more(left) == Some(0) {
                break Heard::End;
            }
        };
        self.remember(format!("<- {heard:?}"));
        heard
    }

    /// The next frame.
    #[track_caller]
    pub fn frame(&mut self) -> Frame {
        match self.hear(PATIENCE) {
            Heard::Frame(frame) => frame,
            Heard::End => panic!("expected a frame, but the broker closed the socket"),
            Heard::Silence => panic!("expected a frame, heard nothing for {PATIENCE:?}"),
        }
    }

    /// The next frame must be this method on this channel.
    #[track_caller]
    pub fn expect<M: Method>(&mut self, channel: u16) -> M {
        let frame = match self.hear(PATIENCE) {
            Heard::Frame(frame) => frame,
            Heard::End => panic!("expected {} on channel {channel}, but the broker closed the socket", M::NAME),
            Heard::Silence => panic!("expected {} on channel {channel}, heard nothing for {PATIENCE:?}", M::NAME),
        };
        match frame.method().map(M::from_class) {
            Some(Ok(method)) if frame.channel == channel => method,
            _ => panic!("expected {} on channel {channel}, came {frame:?}", M::NAME),
        }
    }

    /// The next frame must be of this type on this channel; its payload.
    #[track_caller]
    pub fn expect_frame(&mut self, kind: u8, channel: u16) -> Vec<u8> {
        let frame = self.frame();
        assert!(
            frame.kind == kind && frame.channel == channel,
            "expected a frame of type {kind} on channel {channel}, came {frame:?}"
        );
        frame.payload
    }

    /// The broker must close the socket now, without a word; returns how long that took.
    #[track_caller]
    pub fn expect_end(&mut self) -> Duration {
        let start = Instant::now();
        match self.hear(PATIENCE) {
            Heard::End if self.unread.is_empty() => start.elapsed(),
            Heard::End => panic!("expected the end, came octets before it: {:?}", self.unread),
            Heard::Frame(frame) => panic!("expected the end, came {frame:?}"),
            Heard::Silence => {
                panic!("expected the end, but the socket is still open after {PATIENCE:?}")
            }
        }
    }

    /// All octets until the broker closes the socket, framed or not.
    #[track_caller]
    pub fn read_to_end(&mut self) -> Vec<u8> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "the socket is still open after {PATIENCE:?}, having sent {:?}", self.unread);
            if self.read_more(left) == Some(0) {
                return std::mem::take(&mut self.unread);
            }
        }
    }

    /// Nothing may come for that long. Only where silence itself is what is promised.
    #[track_caller]
    pub fn expect_silence(&mut self, duration: Duration) {
        match self.hear(duration) {
            Heard::Silence => {}
            heard => panic!("expected silence for {duration:?}, came {heard:?}"),
        }
    }

    /// The channel must be closed for this reason; close-ok is sent, so that its number is free again.
    #[track_caller]
    pub fn expect_channel_close(&mut self, channel: u16, code: u16, text: &str, method: (u16, u16)) {
        let close: channel::Close = self.expect(channel);
        let said = (close.reply_code, close.reply_text.as_str(), (close.class_id, close.method_id));
        assert_eq!(said, (code, text, method), "channel.close with another reason (left: came, right: expected)");
        self.send(channel, channel::CloseOk {});
    }

    /// The channel must be closed because of a delivery that waited for longer than `timeout` milliseconds.
    #[track_caller]
    pub fn expect_delivery_timeout(&mut self, channel: u16, timeout: u64) {
        let text = format!(
            "PRECONDITION_FAILED - delivery acknowledgement on channel {channel} timed out. Timeout value used: \
             {timeout} ms. This timeout value can be configured, see consumers doc guide to learn more"
        );
        self.expect_channel_close(channel, 406, &text, (0, 0));
    }

    /// Answers the broker's connection.close when that comes, whatever comes before it.
    ///
    /// # Panics
    /// If it does not come.
    #[track_caller]
    pub fn leave(mut self) {
        while !matches!(self.frame().method(), Some(AMQPClass::Connection(connection::AMQPMethod::Close(_)))) {}
        self.send(0, connection::CloseOk {});
    }

    /// The connection must be closed for this reason, and the socket as soon as close-ok has been sent.
    #[track_caller]
    pub fn expect_connection_close(&mut self, code: u16, text: &str, method: (u16, u16)) {
        self.expect_connection_close_frame(code, text, method);
        self.send(0, connection::CloseOk {});
        let took = self.expect_end();
        assert!(took < Duration::from_secs(2), "the socket is closed at close-ok, not {took:?} later");
    }

    /// The next frame must be connection.close for this reason; no answer is given.
    #[track_caller]
    pub fn expect_connection_close_frame(&mut self, code: u16, text: &str, method: (u16, u16)) {
        let close: connection::Close = self.expect(0);
        let said = (close.reply_code, close.reply_text.as_str(), (close.class_id, close.method_id));
        assert_eq!(said, (code, text, method), "connection.close with another reason (left: came, right: expected)");
    }

    /// Octets that the broker has sent but that don't make a whole frame yet are kept for the next call.
    fn take_frame(&mut self) -> Option<Frame> {
        let header: &[u8; 7] = self.unread.first_chunk()?;
        let [kind, c0, c1, s0, s1, s2, s3] = *header;
        let size = u32::from_be_bytes([s0, s1, s2, s3]) as usize;
        let end = *self.unread.get(7 + size)?;
        assert_eq!(end, FRAME_END, "the broker's frame ends with another octet: {:?}", self.unread);
        let payload = self.unread[7..7 + size].to_vec();
        self.unread.drain(..8 + size);
        Some(Frame { kind, channel: u16::from_be_bytes([c0, c1]), payload })
    }

    /// Reads once. Some(0) is the end, None that nothing came in time.
    fn read_more(&mut self, patience: Duration) -> Option<usize> {
        let mut octets = [0; 65_536];
        self.stream.set_read_timeout(Some(patience)).expect("a timeout above zero");
        match self.stream.read(&mut octets) {
            Ok(count) => {
                self.unread.extend_from_slice(&octets[..count]);
                Some(count)
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => None,
            Err(error) if error.kind() == ErrorKind::Interrupted => None,
            // A socket that is closed while octets of ours lie unread in it ends with a reset.
            Err(error) if error.kind() == ErrorKind::ConnectionReset => Some(0),
            Err(error) => panic!("reading from the broker: {error}"),
        }
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let lines: Vec<&str> = self.conversation.iter().map(String::as_str).collect();
            eprintln!("the conversation of one peer, its last {} frames:\n{}", lines.len(), lines.join("\n"));
        }
    }
}

/// tune-ok with what the login asks for.
pub fn tune_ok(login: &Login) -> connection::TuneOk {
    connection::TuneOk { channel_max: login.channel_max, frame_max: login.frame_max, heartbeat: login.heartbeat }
}

/// connection.open of this virtual host.
pub fn open(vhost: &str) -> connection::Open {
    connection::Open { virtual_host: vhost.into() }
}
