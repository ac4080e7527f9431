//! The frame envelope: type, channel, size, payload, end octet (AMQP 0-9-1, section 4.2.3).

use crate::error::{AmqpError, first_octets};

/// Frame type of a method.
pub const METHOD: u8 = 1;
/// Frame type of a content header.
pub const HEADER: u8 = 2;
/// Frame type of a content body.
pub const BODY: u8 = 3;
/// Frame type of a heartbeat.
pub const HEARTBEAT: u8 = 8;
/// The octet that ends every frame.
pub const FRAME_END: u8 = 0xCE;
/// Octets of a frame before its payload: type, channel, size.
pub const PREFIX: usize = 7;
/// Octets of a frame besides its payload.
pub const OVERHEAD: usize = 8;

/// One whole frame; `payload` is a slice of the buffer it was split from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame<'a> {
    /// One of [`METHOD`], [`HEADER`], [`BODY`], [`HEARTBEAT`].
    pub kind: u8,
    /// 0 for methods of the connection class and heartbeats, otherwise a channel's number.
    pub channel: u16,
    /// What stands between the prefix and the end octet.
    pub payload: &'a [u8],
}

impl Frame<'_> {
    /// How many octets of the buffer the frame takes.
    pub fn octets(&self) -> usize {
        self.payload.len() + OVERHEAD
    }
}

/// The largest payload that fits a frame of `frame_max` octets; `frame_max` 0 means no limit. Never 0, so that
/// cutting always makes progress.
pub fn max_payload(frame_max: u32) -> usize {
    match frame_max {
        0 => usize::try_from(u32::MAX).unwrap_or(usize::MAX),
        _ => usize::try_from(frame_max).unwrap_or(usize::MAX).saturating_sub(OVERHEAD).max(1),
    }
}

/// The first whole frame of `buffer`, or `None` when more octets are needed to tell.
///
/// A payload of up to `frame_max` octets is accepted, 8 more than strictly legal, as RabbitMQ does. Method
/// frames have at least the 4 octets of their ids and header frames at least 12.
///
/// # Errors
/// 501 for a frame too large (seen from its first 7 octets already) or a wrong end octet, both fatal; 501 for
/// an unknown type, a method or header frame too short and a heartbeat with a payload; 505 for a heartbeat on a
/// channel and for content on channel 0. All name class 0, method 0.
#[inline]
pub fn split(buffer: &[u8], frame_max: u32) -> Result<Option<Frame<'_>>, AmqpError> {
    let Some((&[kind, c0, c1, s0, s1, s2, s3], rest)) = buffer.split_first_chunk::<PREFIX>() else {
        return Ok(None);
    };
    let size = u32::from_be_bytes([s0, s1, s2, s3]);
    if size > frame_max && frame_max != 0 {
        return Err(too_large(kind, size, frame_max));
    }
    let Some((payload, rest)) = usize::try_from(size).ok().and_then(|size| rest.split_at_checked(size)) else {
        return Ok(None);
    };
    let Some(&end) = rest.first() else {
        return Ok(None);
    };
    if end != FRAME_END {
        return Err(wrong_end(kind, payload, end));
    }
    let frame = Frame { kind, channel: u16::from_be_bytes([c0, c1]), payload };
    if is_well_formed(&frame) && is_in_place(&frame) { Ok(Some(frame)) } else { Err(refuse(&frame)) }
}

/// A known type, with a payload that such a frame can have.
#[inline(always)]
fn is_well_formed(frame: &Frame<'_>) -> bool {
    match frame.kind {
        METHOD => frame.payload.len() >= 4,
        HEADER => frame.payload.len() >= 12,
        BODY => true,
        HEARTBEAT => frame.payload.is_empty(),
        _ => false,
    }
}

/// Content belongs on channels, heartbeats on channel 0, methods on either.
#[inline(always)]
fn is_in_place(frame: &Frame<'_>) -> bool {
    match frame.kind {
        METHOD => true,
        HEARTBEAT => frame.channel == 0,
        _ => frame.channel != 0,
    }
}

#[cold]
fn refuse(frame: &Frame<'_>) -> AmqpError {
    if is_well_formed(frame) { unexpected(frame) } else { unknown(frame) }
}

/// 505 for a well-formed frame where it has no business: `type 2, all octets = <<…>>`.
#[cold]
pub fn unexpected(frame: &Frame<'_>) -> AmqpError {
    AmqpError::unexpected_frame(format!("type {}, {}", frame.kind, first_octets(frame.payload)))
}

#[cold]
fn unknown(frame: &Frame<'_>) -> AmqpError {
    AmqpError::frame_error(format!("type {}, {}: unknown_frame", frame.kind, first_octets(frame.payload)))
}

#[cold]
fn too_large(kind: u8, size: u32, frame_max: u32) -> AmqpError {
    let legal = frame_max.saturating_sub(8);
    AmqpError::frame_error(format!("type {kind}, all octets = <<>>: {{frame_too_large,{size},{legal}}}")).fatal()
}

/// 501, fatal: a frame ends with another octet than [`FRAME_END`]. The first 17 octets of the payload will do.
#[cold]
pub fn wrong_end(kind: u8, payload: &[u8], end: u8) -> AmqpError {
    AmqpError::frame_error(format!("type {kind}, {}: {{invalid_frame_end_marker,{end}}}", first_octets(payload)))
        .fatal()
}

/// A heartbeat frame, ready to send.
pub fn heartbeat() -> [u8; OVERHEAD] {
    [HEARTBEAT, 0, 0, 0, 0, 0, 0, FRAME_END]
}

/// The first 7 octets of a frame.
#[inline(always)]
pub(crate) fn prefix(kind: u8, channel: u16, size: u32) -> [u8; PREFIX] {
    let [c0, c1] = channel.to_be_bytes();
    let [s0, s1, s2, s3] = size.to_be_bytes();
    [kind, c0, c1, s0, s1, s2, s3]
}

/// The length of something that is known to fit a frame.
#[inline(always)]
pub(crate) fn size_of(length: usize) -> u32 {
    u32::try_from(length).unwrap_or(u32::MAX)
}

/// Appends a whole frame.
pub fn encode(out: &mut Vec<u8>, kind: u8, channel: u16, payload: &[u8]) {
    out.reserve(payload.len() + OVERHEAD);
    out.extend_from_slice(&prefix(kind, channel, size_of(payload.len())));
    out.extend_from_slice(payload);
    out.push(FRAME_END);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, channel: u16, payload: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        encode(&mut out, kind, channel, payload);
        out
    }

    #[track_caller]
    fn refused(buffer: &[u8], frame_max: u32, text: &str, fatal: bool) {
        let error = split(buffer, frame_max).expect_err("must be refused");
        assert_eq!(error.reply_text(), text);
        assert_eq!((error.class, error.method, error.fatal), (0, 0, fatal));
    }

    #[test]
    fn a_frame_is_whole_only_with_its_end_octet() {
        let bytes = frame(METHOD, 7, &[0, 20, 0, 10, 0]);
        for end in 0..bytes.len() {
            assert_eq!(split(&bytes[..end], 4096), Ok(None));
        }
        let whole = split(&bytes, 4096).expect("well-formed").expect("whole");
        assert_eq!((whole.kind, whole.channel, whole.payload), (METHOD, 7, &[0, 20, 0, 10, 0][..]));
        assert_eq!(whole.octets(), bytes.len());
    }

    #[test]
    fn a_frame_too_large_is_refused_on_sight_of_its_header() {
        let head = prefix(BODY, 1, 131_073);
        refused(&head, 131_072, "FRAME_ERROR - type 3, all octets = <<>>: {frame_too_large,131073,131064}", true);
        assert_eq!(split(&prefix(BODY, 1, 131_072), 131_072), Ok(None));
    }

    #[test]
    fn a_wrong_end_octet_is_refused() {
        let mut bytes = frame(METHOD, 0, b"abcd");
        bytes[11] = 0;
        refused(&bytes, 4096, "FRAME_ERROR - type 1, all octets = <<\"abcd\">>: {invalid_frame_end_marker,0}", true);
    }

    #[test]
    fn malformed_frames_are_unknown_frames() {
        refused(&frame(9, 1, &[]), 4096, "FRAME_ERROR - type 9, all octets = <<>>: unknown_frame", false);
        refused(
            &frame(METHOD, 1, &[0, 20, 0]),
            4096,
            "FRAME_ERROR - type 1, all octets = <<0,20,0>>: unknown_frame",
            false,
        );
        refused(
            &frame(HEADER, 0, &[0; 11]),
            4096,
            "FRAME_ERROR - type 2, all octets = <<0,0,0,0,0,0,0,0,0,0,0>>: unknown_frame",
            false,
        );
        refused(&frame(HEARTBEAT, 0, &[1]), 4096, "FRAME_ERROR - type 8, all octets = <<1>>: unknown_frame", false);
        refused(&frame(HEARTBEAT, 1, &[1]), 4096, "FRAME_ERROR - type 8, all octets = <<1>>: unknown_frame", false);
    }

    #[test]
    fn heartbeats_belong_on_channel_0_and_content_does_not() {
        assert!(matches!(split(&heartbeat(), 4096), Ok(Some(_))));
        refused(&frame(HEARTBEAT, 1, &[]), 4096, "UNEXPECTED_FRAME - type 8, all octets = <<>>", false);
        refused(&frame(BODY, 0, b"x"), 4096, "UNEXPECTED_FRAME - type 3, all octets = <<\"x\">>", false);
        let zeros = "0,".repeat(15);
        refused(
            &frame(HEADER, 0, &[0; 17]),
            4096,
            &format!("UNEXPECTED_FRAME - type 2, first 16 octets = <<{zeros}0>>"),
            false,
        );
    }
}
