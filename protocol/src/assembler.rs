//! Joins `basic.publish`, content header and body into messages (laid out as [`crate::message`] says).
//!
//! [`whole`] is for what lies complete in the read buffer, which under load is nearly everything: no copy, no
//! state. All else, errors included, goes frame by frame through the channel's [`Assembler`]:
//!
//! ```text
//!          start            header, size > 0          body … last body
//! Idle ------------> WantHeader ------------> WantBody ---------------> Idle, Complete
//!                        `---- header, size 0 ----------------------------^
//! ```

use crate::{
    content::{ContentHeader, UNUSED, header},
    deliver::Cut,
    error::AmqpError,
    frame::{BODY, FRAME_END, HEADER, METHOD, OVERHEAD, PREFIX, max_payload},
    hot::{Publish, parse_publish},
    message::{self, ADDRESS_GAP, Message},
};

/// No message is larger, whatever the configured limit: 512 MiB.
pub const MAX_BODY: u64 = 536_870_912;

/// A message that lies complete in the read buffer.
#[derive(Clone, Copy, Debug)]
pub struct Whole<'a> {
    /// The message, a slice of the buffer.
    pub message: &'a [u8],
    /// The channel it was published on.
    pub channel: u16,
    /// The method.
    pub publish: Publish<'a>,
    /// The content header.
    pub header: ContentHeader<'a>,
    /// How many octets of the buffer it takes, frame envelopes included.
    pub consumed: usize,
}

impl<'a> Whole<'a> {
    /// The content: header frame and body frames.
    pub fn content(&self) -> &'a [u8] {
        self.message.get(self.publish.address.len() + ADDRESS_GAP..).unwrap_or_default()
    }
}

/// The message that `buffer` begins with, when it is there from the first octet of its `basic.publish` to the
/// last of its body, in frames of one channel that follow each other directly and have no irregularity. `None`
/// says nothing more than that the frames have to be taken one by one. The properties are not checked, nor is
/// the body's size compared with any limit of the broker.
#[inline]
pub fn whole(buffer: &[u8], frame_max: u32) -> Option<Whole<'_>> {
    let max = if frame_max == 0 { u32::MAX } else { frame_max };
    let (channel, payload, rest) = next(buffer, METHOD, max)?;
    let publish = parse_publish(payload)?;
    let (header_channel, payload, mut rest) = next(rest, HEADER, max)?;
    let header = header(payload);
    let regular = header.class == 60 && header.weight == 0 && header.flags & UNUSED == 0 && payload.len() >= 14;
    if channel == [0, 0] || header_channel != channel || !regular {
        return None;
    }
    let mut left = header.body_size;
    while left > 0 {
        let (body_channel, payload, after) = next(rest, BODY, max)?;
        if body_channel != channel || payload.is_empty() {
            return None;
        }
        left = left.checked_sub(payload.len() as u64)?;
        rest = after;
    }
    let consumed = buffer.len() - rest.len();
    // Prefix, ids and ticket come before the address.
    let message = buffer.get(PREFIX + 6..consumed)?;
    Some(Whole { message, channel: u16::from_be_bytes(channel), publish, header, consumed })
}

/// Channel and payload of the frame that `buffer` begins with, and what follows it; `None` when it is not whole
/// or not as wanted.
#[inline(always)]
fn next(buffer: &[u8], kind: u8, max: u32) -> Option<([u8; 2], &[u8], &[u8])> {
    let (&[k, c0, c1, s0, s1, s2, s3], rest) = buffer.split_first_chunk::<PREFIX>()?;
    let size = u32::from_be_bytes([s0, s1, s2, s3]);
    if k != kind || size > max {
        return None;
    }
    let (payload, rest) = rest.split_at_checked(size as usize)?;
    let (&end, rest) = rest.split_first()?;
    (end == FRAME_END).then_some(([c0, c1], payload, rest))
}

/// Where a channel stands between a `basic.publish` and the end of its content.
///
/// Channels that are being closed run it too and throw the messages away. After an error it is idle again.
#[derive(Debug, Default)]
pub struct Assembler {
    state: State,
    message: Vec<u8>,
    /// Where the content begins in the message.
    content_at: usize,
    bits: u8,
}

#[derive(Debug, Default)]
enum State {
    #[default]
    Idle,
    WantHeader,
    WantBody {
        size: u64,
        /// Octets of the body for which no frame has begun yet.
        left: u64,
        /// Octets that are still to come of a frame that has begun, if there is one.
        open: Option<usize>,
        /// Beyond the limit: the body is counted, not kept.
        too_large: bool,
        /// How the body is cut into frames, known from the first of them on.
        cut: Option<Cut>,
    },
}

/// When a body needs memory, it gets so many times what there is of it with the frame that begins: it is seldom moved as it
/// grows, and who announces much and sends little holds little.
const AHEAD: usize = 8;

/// What a frame led to.
#[derive(Debug, PartialEq, Eq)]
pub enum Progress {
    /// The content is not complete yet.
    More,
    /// The last frame was the one.
    Complete(Complete),
}

/// A message whose last octet has come.
#[derive(Debug, PartialEq, Eq)]
pub struct Complete {
    /// The message with its frames on channel 0 and the body cut into frames as large as allowed, none of them
    /// empty. Its body is missing if it was too large.
    pub message: Vec<u8>,
    /// Octets of the body.
    pub body_size: u64,
    /// The body exceeded the limit and was thrown away as it came.
    pub too_large: bool,
    /// Where the content begins in the message.
    pub content_at: usize,
}

impl Complete {
    /// The parts of the message.
    pub fn parts(&self) -> Option<Message<'_>> {
        Message::parse(&self.message)
    }

    /// Exchange and routing key as short strings.
    pub fn address(&self) -> &[u8] {
        self.message.get(..self.content_at.saturating_sub(ADDRESS_GAP)).unwrap_or_default()
    }

    /// Header frame and body frames.
    pub fn content(&self) -> &[u8] {
        self.message.get(self.content_at..).unwrap_or_default()
    }

    /// The content header.
    pub fn header(&self) -> ContentHeader<'_> {
        header(crate::deliver::header_of(self.content()))
    }
}

impl Assembler {
    /// Whether a method may come, rather than content.
    pub fn is_idle(&self) -> bool {
        matches!(self.state, State::Idle)
    }

    /// Takes a `basic.publish`; `bits` is the octet of its flags. Only when idle: otherwise the method is the
    /// error that [`Assembler::unexpected`] describes, and what had come of a message is dropped.
    pub fn start(&mut self, publish: &Publish<'_>, bits: u8) {
        self.message.clear();
        self.message.extend_from_slice(publish.address);
        self.bits = bits;
        self.content_at = publish.address.len() + ADDRESS_GAP;
        self.state = State::WantHeader;
    }

    /// Octets of memory it holds.
    pub fn held(&self) -> usize {
        self.message.capacity()
    }

    /// Takes a header frame's payload; `limit` is the largest body that is kept, in octets.
    ///
    /// # Errors
    /// 505 when no header is expected, its class is not 60 or its weight not 0; 501 when the body would exceed
    /// [`MAX_BODY`].
    pub fn header(&mut self, payload: &[u8], limit: u64) -> Result<Progress, AmqpError> {
        let fields = header(payload);
        if !matches!(self.state, State::WantHeader) || fields.weight != 0 {
            return Err(self.fail(self.unexpected(HEADER)));
        }
        if fields.class != 60 {
            let text = format!("expected content header for class 60, got one for class {} instead", fields.class);
            return Err(self.fail(AmqpError::unexpected_frame(text).at(60, 40)));
        }
        let size = fields.body_size;
        if size > MAX_BODY {
            let text = format!("content body size {size} exceeds maximum allowed size {MAX_BODY}");
            return Err(self.fail(AmqpError::frame_error(text).at(60, 40)));
        }
        self.keep_header(payload);
        let too_large = size > limit;
        if size == 0 {
            return Ok(self.complete(0, false));
        }
        self.state = State::WantBody { size, left: size, open: None, too_large, cut: None };
        Ok(Progress::More)
    }

    fn keep_header(&mut self, payload: &[u8]) {
        let low_flags = self.content_at + PREFIX + 13;
        message::finish_head(&mut self.message, self.bits, payload);
        if payload.len() >= 14
            && let Some(low) = self.message.get_mut(low_flags)
        {
            *low &= !(UNUSED as u8);
        }
    }

    /// Takes a body frame's payload; `frame_max` says how large the frames may be into which the body is cut.
    ///
    /// # Errors
    /// 505 when no body is expected; 501 when it is longer than its header announced.
    pub fn body(&mut self, payload: &[u8], frame_max: u32) -> Result<Progress, AmqpError> {
        let State::WantBody { left, open: None, .. } = &self.state else {
            return Err(self.fail(self.unexpected(BODY)));
        };
        if payload.len() as u64 > *left {
            let error = AmqpError::frame_error("content body frame exceeds remaining content size").at(60, 40);
            return Err(self.fail(error));
        }
        self.begin(payload.len(), frame_max);
        self.piece(payload);
        Ok(self.end_body())
    }

    /// Begins a body frame with `size` octets of payload, which are to come in pieces. False, and nothing has begun, where
    /// [`body`](Self::body) would refuse or throw away what comes.
    pub fn begin_body(&mut self, size: usize, frame_max: u32) -> bool {
        match self.state {
            State::WantBody { left, open: None, too_large: false, .. } if size as u64 <= left => {
                self.begin(size, frame_max);
                true
            }
            _ => false,
        }
    }

    fn begin(&mut self, frame: usize, frame_max: u32) {
        if let State::WantBody { size, left, open, too_large, cut } = &mut self.state {
            *left -= frame as u64;
            *open = Some(frame);
            if !*too_large {
                // At most 512 MiB, so it fits.
                let cut = cut.get_or_insert_with(|| Cut::new(*size as usize, 0, max_payload(frame_max)));
                let missing = cut.octets();
                let (here, room) = (self.message.len(), self.message.capacity() - self.message.len());
                if room < missing && room < frame + OVERHEAD {
                    self.message.reserve_exact(missing.min(AHEAD * (here + frame + OVERHEAD) - here));
                }
            }
        }
    }

    /// Octets that are still to come of the frame that has begun; `None` if none has.
    pub fn open(&self) -> Option<usize> {
        match self.state {
            State::WantBody { open, .. } => open,
            _ => None,
        }
    }

    /// Takes the next octets of the frame that has begun, at most as many as are [open](Self::open).
    pub fn piece(&mut self, octets: &[u8]) {
        if let State::WantBody { open: Some(open), cut, .. } = &mut self.state {
            let octets = octets.get(..*open).unwrap_or(octets);
            *open -= octets.len();
            if let Some(cut) = cut {
                cut.push(&mut self.message, octets);
            }
        }
    }

    /// Where the next octets of the frame that has begun may be put instead of being given as a [piece](Self::piece), and
    /// how many at most: they are appended there, then [told](Self::came).
    pub fn room(&mut self) -> Option<(&mut Vec<u8>, usize)> {
        let State::WantBody { open: Some(open), cut: Some(cut), .. } = &mut self.state else { return None };
        let most = cut.open(&mut self.message).min(*open);
        self.message.reserve(most);
        Some((&mut self.message, most))
    }

    /// `count` octets have been appended to the [room](Self::room).
    pub fn came(&mut self, count: usize) {
        if let State::WantBody { open: Some(open), cut: Some(cut), .. } = &mut self.state {
            *open = open.saturating_sub(count);
            cut.came(&mut self.message, count);
        }
    }

    /// The frame that had begun is over.
    pub fn end_body(&mut self) -> Progress {
        let State::WantBody { size, left, open, too_large, .. } = &mut self.state else { return Progress::More };
        *open = None;
        let (size, left, too_large) = (*size, *left, *too_large);
        if left == 0 { self.complete(size, too_large) } else { Progress::More }
    }

    fn complete(&mut self, body_size: u64, too_large: bool) -> Progress {
        self.state = State::Idle;
        let message = std::mem::take(&mut self.message);
        Progress::Complete(Complete { message, body_size, too_large, content_at: self.content_at })
    }

    fn fail(&mut self, error: AmqpError) -> AmqpError {
        self.state = State::Idle;
        self.message = Vec::new();
        error
    }

    /// The 505 for a frame of type `kind` that is not the one this channel has to send next: content when idle,
    /// a method or the wrong content within content. A method is never wrong when idle; asking for that is our
    /// own failure, 541.
    pub fn unexpected(&self, kind: u8) -> AmqpError {
        match self.state {
            State::Idle if kind == METHOD => AmqpError::internal_error(""),
            State::Idle => AmqpError::unexpected_frame("expected method frame, got non method frame instead"),
            State::WantHeader => AmqpError::unexpected_frame(
                "expected content header for class 60, got non content header frame instead",
            )
            .at(60, 40),
            State::WantBody { .. } => {
                AmqpError::unexpected_frame("expected content body, got non content body frame instead").at(60, 40)
            }
        }
    }
}
