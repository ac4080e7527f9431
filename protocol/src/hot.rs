//! The methods that come and go by the million, read and written in place: `basic.publish`, `basic.ack`,
//! `basic.nack`, `basic.reject`.

use crate::{
    error::{AmqpError, octets},
    frame::{self, FRAME_END},
    reader::Reader,
};

/// The ids of `basic.publish` as a method frame's payload begins with them.
pub(crate) const PUBLISH: [u8; 4] = [0, 60, 0, 40];

/// A `basic.publish`, its strings any octets at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Publish<'a> {
    /// The exchange's name.
    pub exchange: &'a [u8],
    /// The routing key.
    pub routing_key: &'a [u8],
    /// Return the message when it cannot be routed.
    pub mandatory: bool,
    /// Never supported: answered with 540.
    pub immediate: bool,
    /// Both short strings as they came, with their length octets.
    pub address: &'a [u8],
}

impl Publish<'_> {
    /// The octet in which the two flags travel.
    pub fn bits(&self) -> u8 {
        u8::from(self.mandatory) | u8::from(self.immediate) << 1
    }
}

/// Reads a `basic.publish` from a method frame's payload, ids included.
///
/// # Errors
/// 501 `cannot decode` when the payload is anything but one `basic.publish`.
#[inline]
pub fn publish(payload: &[u8]) -> Result<Publish<'_>, AmqpError> {
    parse_publish(payload).ok_or_else(|| cannot_decode(payload, 60, 40))
}

#[inline(always)]
pub(crate) fn parse_publish(payload: &[u8]) -> Option<Publish<'_>> {
    let mut reader = Reader(payload);
    // The two octets after the ids are the ticket, which means nothing.
    let [i0, i1, i2, i3, _, _] = reader.array::<6>()?;
    if [i0, i1, i2, i3] != PUBLISH {
        return None;
    }
    let start = reader.0;
    let exchange = reader.short()?;
    let routing_key = reader.short()?;
    let (address, bits) = start.split_at_checked(2 + exchange.len() + routing_key.len())?;
    let &[bits] = bits else { return None };
    Some(Publish { exchange, routing_key, mandatory: bits & 1 != 0, immediate: bits & 2 != 0, address })
}

/// How a consumer settles deliveries. A tag of 0 with `multiple` means all that are outstanding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Settle {
    /// `basic.ack` (60,80).
    Ack {
        /// The delivery tag.
        tag: u64,
        /// Every outstanding tag up to this one.
        multiple: bool,
    },
    /// `basic.nack` (60,120).
    Nack {
        /// The delivery tag.
        tag: u64,
        /// Every outstanding tag up to this one.
        multiple: bool,
        /// Back to the queue rather than dead-lettered or dropped.
        requeue: bool,
    },
    /// `basic.reject` (60,90).
    Reject {
        /// The delivery tag.
        tag: u64,
        /// Back to the queue rather than dead-lettered or dropped.
        requeue: bool,
    },
}

/// Reads an ack, nack or reject from a method frame's payload; `None` when it is another method.
///
/// # Errors
/// 501 `cannot decode` when it is one of the three but its arguments are not a tag and one octet of flags.
#[inline]
pub fn settle(payload: &[u8]) -> Result<Option<Settle>, AmqpError> {
    let Some((&[0, 60, 0, method @ (80 | 90 | 120)], arguments)) = payload.split_first_chunk::<4>() else {
        return Ok(None);
    };
    let Some((tag, &[bits])) = arguments.split_first_chunk::<8>() else {
        return Err(cannot_decode(payload, 60, u16::from(method)));
    };
    let tag = u64::from_be_bytes(*tag);
    let (first, second) = (bits & 1 != 0, bits & 2 != 0);
    Ok(Some(match method {
        80 => Settle::Ack { tag, multiple: first },
        90 => Settle::Reject { tag, requeue: first },
        _ => Settle::Nack { tag, multiple: first, requeue: second },
    }))
}

/// Appends a `basic.ack` that confirms a publish.
pub fn encode_ack(out: &mut Vec<u8>, channel: u16, tag: u64, multiple: bool) {
    confirm(out, channel, 80, tag, multiple);
}

/// Appends a `basic.nack` that tells a publisher its message was not accepted.
pub fn encode_nack(out: &mut Vec<u8>, channel: u16, tag: u64, multiple: bool) {
    confirm(out, channel, 120, tag, multiple);
}

#[inline(always)]
fn confirm(out: &mut Vec<u8>, channel: u16, method: u8, tag: u64, multiple: bool) {
    let mut frame = [0; 21];
    frame[..7].copy_from_slice(&frame::prefix(frame::METHOD, channel, 13));
    frame[7..11].copy_from_slice(&[0, 60, 0, method]);
    frame[11..19].copy_from_slice(&tag.to_be_bytes());
    frame[19] = u8::from(multiple);
    frame[20] = FRAME_END;
    out.extend_from_slice(&frame);
}

/// 501 for arguments that are not those of the method: `cannot decode <<…>>`, without the ids.
#[cold]
pub(crate) fn cannot_decode(payload: &[u8], class: u16, method: u16) -> AmqpError {
    let arguments = payload.get(4..).unwrap_or_default();
    AmqpError::frame_error(format!("cannot decode {}", octets(arguments))).at(class, method)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn publish_keeps_any_octets_of_exchange_and_routing_key() {
        let payload = b"\0\x3C\0\x28\0\0\x02\xFF\xFE\x01\x80\x01";
        let publish = publish(payload).expect("well-formed");
        assert_eq!((publish.exchange, publish.routing_key), (&b"\xFF\xFE"[..], &b"\x80"[..]));
        assert_eq!(publish.address, b"\x02\xFF\xFE\x01\x80");
        assert_eq!((publish.mandatory, publish.immediate, publish.bits()), (true, false, 1));
    }

    #[test]
    fn publish_with_octets_missing_or_left_over_cannot_be_decoded() {
        let whole = b"\0\x3C\0\x28\0\0\x01x\x01k\0";
        let left_over = [&whole[..], b"!"].concat();
        for bad in (4..whole.len()).map(|end| &whole[..end]).chain([&left_over[..]]) {
            let error = publish(bad).expect_err("must be refused");
            assert_eq!(error.reply_text(), format!("FRAME_ERROR - cannot decode {}", octets(&bad[4..])));
            assert_eq!((error.class, error.method), (60, 40));
        }
    }

    #[test]
    fn settle_reads_the_three_and_leaves_other_methods_alone() {
        let tag = 0x0102_0304_0506_0708;
        let bytes = |method, bits| [&[0, 60, 0, method][..], &u64::to_be_bytes(tag), &[bits]].concat();
        assert_eq!(settle(&bytes(80, 1)), Ok(Some(Settle::Ack { tag, multiple: true })));
        assert_eq!(settle(&bytes(90, 1)), Ok(Some(Settle::Reject { tag, requeue: true })));
        assert_eq!(settle(&bytes(120, 2)), Ok(Some(Settle::Nack { tag, multiple: false, requeue: true })));
        assert_eq!(settle(&bytes(70, 0)), Ok(None));
        assert_eq!(settle(&[0, 60]), Ok(None));
        let short = settle(&bytes(80, 0)[..12]).expect_err("must be refused");
        assert_eq!((short.code, short.class, short.method), (501, 60, 80));
    }
}
