//! The header `x-delay`: how long a message is held back, and what becomes of the header when it goes on.

use leveret_protocol::amq::AMQPValue;
use leveret_protocol::content::{self, Edits};
use leveret_protocol::table::{Table, Value};
use leveret_protocol::{AmqpError, Message};

const NAME: &str = "x-delay";

/// The longest delay in milliseconds, nearly 50 days: RabbitMQ's plugin has it from Erlang's timers. With a longer one
/// a message is not held back at all.
pub const LONGEST: u64 = u32::MAX as u64;

/// The milliseconds for which a message with these headers is held back. None: not at all.
pub fn delay_of(headers: Option<Table<'_>>) -> Option<u64> {
    let delay = match headers?.get(NAME)? {
        Value::I8(number) => number.into(),
        Value::U8(number) => number.into(),
        Value::I16(number) => number.into(),
        Value::U16(number) => number.into(),
        Value::I32(number) => number.into(),
        Value::U32(number) => number.into(),
        Value::I64(number) => number,
        Value::F32(number) => number as i64,
        Value::F64(number) => number as i64,
        Value::LongStr(text) | Value::Bytes(text) => std::str::from_utf8(text).ok()?.parse().ok()?,
        _ => return None,
    };
    u64::try_from(delay).ok().filter(|delay| (1..=LONGEST).contains(delay))
}

/// The content header of a message that goes on: the delay with its sign inverted, so that no other exchange holds it
/// back again.
///
/// # Errors
/// The content header is damaged.
pub fn onward(message: &Message<'_>, delay: u64) -> Result<Vec<u8>, AmqpError> {
    let inverted = -i64::try_from(delay.min(LONGEST)).unwrap_or(0);
    // The width that clients expect, where it is wide enough.
    let value = i32::try_from(inverted).map_or(AMQPValue::LongLongInt(inverted), AMQPValue::LongInt);
    let put = [(NAME, value)];
    content::edit(message.header, &Edits { put: &put, ..Edits::default() })
}

#[cfg(test)]
mod tests {
    use leveret_protocol::message;

    use super::*;

    fn delay(value: &[u8]) -> Option<u64> {
        let table = [b"\x07x-delay", value].concat();
        delay_of(Some(Table::parse(&table).unwrap()))
    }

    #[test]
    fn an_integer_of_any_width_above_zero_delays() {
        assert_eq!(delay(b"b\x05"), Some(5));
        assert_eq!(delay(b"B\xff"), Some(255));
        assert_eq!(delay(b"s\x01\x00"), Some(256));
        assert_eq!(delay(b"u\xff\xff"), Some(65535));
        assert_eq!(delay(b"I\0\0\x0b\xb8"), Some(3000));
        assert_eq!(delay(b"i\xff\xff\xff\xff"), Some(LONGEST));
        assert_eq!(delay(b"l\0\0\0\0\0\0\x0b\xb8"), Some(3000));
    }

    #[test]
    fn strings_and_floats_are_converted() {
        assert_eq!(delay(b"S\0\0\0\x043000"), Some(3000));
        assert_eq!(delay(b"S\0\0\0\x04soon"), None);
        assert_eq!(delay(&[b"d", &1500.9f64.to_be_bytes()[..]].concat()), Some(1500));
        assert_eq!(delay(&[b"f", &0.5f32.to_be_bytes()[..]].concat()), None);
        assert_eq!(delay(&[b"d", &f64::NAN.to_be_bytes()[..]].concat()), None);
    }

    #[test]
    fn anything_else_does_not_delay() {
        assert_eq!(delay_of(None), None);
        assert_eq!(delay_of(Some(Table::default())), None);
        assert_eq!(delay(b"I\0\0\0\0"), None, "nothing to wait for");
        assert_eq!(delay(b"I\xff\xff\xff\xff"), None, "was held back already");
        assert_eq!(delay(b"l\0\0\0\x01\0\0\0\0"), None, "longer than the longest");
        assert_eq!(delay(b"t\x01"), None);
        assert_eq!(delay(b"T\0\0\0\0\0\0\0\x01"), None);
        assert_eq!(delay(b"V"), None);
    }

    #[test]
    fn a_message_goes_on_with_the_sign_inverted_and_all_its_keys() {
        let table = b"\x03BCCA\0\0\0\x06S\0\0\0\x01k\x07x-delayi\xff\xff\xff\xff";
        let header = [&b"\0\x3C\0\0\0\0\0\0\0\0\0\0\x20\0\0\0\0"[..], &[table.len() as u8], table].concat();
        let bytes = message::build(&message::address(b"x", b"k"), &header, b"", 4096);
        let message = Message::parse(&bytes).unwrap();
        let read = |header: &[u8]| {
            let properties = content::header(header).parse().unwrap().headers.unwrap();
            (properties.get("x-delay").unwrap() == Value::I64(-(LONGEST as i64)), properties.get("BCC").is_some())
        };
        assert_eq!(read(&onward(&message, LONGEST).unwrap()), (true, true));
        let short = onward(&message, 3000).unwrap();
        let headers = content::header(&short).parse().unwrap().headers.unwrap();
        assert_eq!(headers.get("x-delay"), Some(Value::I32(-3000)));
    }
}
