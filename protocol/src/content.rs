//! Content headers: class, body size and the properties, which stay the bytes a publisher sent.
//!
//! Properties are parsed to check them and to read single ones; what goes to a consumer are the original bytes.
//! Where the broker must change something ([`edit`]), everything else stays as it was, byte for byte.

use crate::{
    error::AmqpError,
    reader::Reader,
    table::{Table, TableError},
};

pub use crate::edit::{Edits, edit};

/// The flag of the headers table.
pub(crate) const HEADERS: u16 = 1 << 13;
/// The flag of `reply-to`.
pub(crate) const REPLY_TO: u16 = 1 << 9;
/// The flag of the expiration.
pub(crate) const EXPIRATION: u16 = 1 << 8;
/// The two flags that mean nothing: RabbitMQ ignores them on input and never sends them.
pub(crate) const UNUSED: u16 = 0b11;

/// The octets of a content header before its properties.
pub(crate) const FIXED: usize = 14;

/// The payload of a content header frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ContentHeader<'a> {
    /// The class the content belongs to; only 60 exists.
    pub class: u16,
    /// Must be 0.
    pub weight: u16,
    /// Octets of the body, all its frames together.
    pub body_size: u64,
    /// Which properties follow.
    pub flags: u16,
    /// The properties, unchecked.
    pub properties: &'a [u8],
}

impl<'a> ContentHeader<'a> {
    /// The properties, checked.
    ///
    /// # Errors
    /// Those of [`Properties::parse`].
    pub fn parse(&self) -> Result<Properties<'a>, AmqpError> {
        Properties::parse(self.flags, self.properties)
    }

    /// Whether the message asks to be kept on disk.
    pub fn is_persistent(&self) -> bool {
        delivery_mode(self.flags, self.properties) == Some(2)
    }
}

/// Reads a content header frame's payload, of which [`crate::frame::split`] has checked that it has 12 octets
/// or more. One that ends before its flags do is given flags and properties that [`Properties::parse`] refuses.
#[inline]
pub fn header(payload: &[u8]) -> ContentHeader<'_> {
    let (fixed, properties) = payload.split_at_checked(FIXED).unwrap_or((payload, &[]));
    let mut reader = Reader(fixed);
    ContentHeader {
        class: reader.u16().unwrap_or_default(),
        weight: reader.u16().unwrap_or_default(),
        body_size: reader.u64().unwrap_or_default(),
        flags: reader.u16().unwrap_or(u16::MAX),
        properties,
    }
}

/// Properties as slices of the header. Absent and empty are different things.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names are AMQP's own")]
pub struct Properties<'a> {
    pub content_type: Option<&'a [u8]>,
    pub content_encoding: Option<&'a [u8]>,
    pub headers: Option<Table<'a>>,
    /// 2 is persistent, anything else transient.
    pub delivery_mode: Option<u8>,
    pub priority: Option<u8>,
    pub correlation_id: Option<&'a [u8]>,
    pub reply_to: Option<&'a [u8]>,
    pub expiration: Option<&'a [u8]>,
    pub message_id: Option<&'a [u8]>,
    /// Seconds since 1970.
    pub timestamp: Option<u64>,
    /// The property called `type`.
    pub kind: Option<&'a [u8]>,
    pub user_id: Option<&'a [u8]>,
    pub app_id: Option<&'a [u8]>,
    pub cluster_id: Option<&'a [u8]>,
}

impl Properties<'_> {
    /// Reads and checks properties. Strings may be any octets; the flag bits 1 and 0 are ignored.
    ///
    /// # Errors
    /// 501 when the octets are too few or too many; 502 when the headers table is malformed or has too many
    /// levels.
    #[inline]
    pub fn parse(flags: u16, bytes: &[u8]) -> Result<Properties<'_>, AmqpError> {
        let mut rest = Fields::new(bytes, flags);
        // In wire order, from bit 15 down.
        let properties = Properties {
            content_type: rest.string(15),
            content_encoding: rest.string(14),
            headers: rest.table(13),
            delivery_mode: rest.field(12, Reader::u8),
            priority: rest.field(11, Reader::u8),
            correlation_id: rest.string(10),
            reply_to: rest.string(9),
            expiration: rest.string(8),
            message_id: rest.string(7),
            timestamp: rest.field(6, Reader::u64),
            kind: rest.string(5),
            user_id: rest.string(4),
            app_id: rest.string(3),
            cluster_id: rest.string(2),
        };
        match rest.damage {
            None if rest.reader.is_empty() => Ok(properties),
            None => Err(damaged(Damage::LeftOver)),
            Some(damage) => Err(damaged(damage)),
        }
    }
}

/// What is wrong with properties.
pub(crate) enum Damage {
    Truncated,
    LeftOver,
    Table(TableError),
}

#[cold]
fn damaged(damage: Damage) -> AmqpError {
    match damage {
        Damage::Truncated => AmqpError::frame_error("content properties end too early"),
        Damage::LeftOver => AmqpError::frame_error("octets left over after content properties"),
        Damage::Table(error) => AmqpError::syntax_error(format!("malformed headers: {error}")),
    }
}

/// Reads one property after the other, in wire order; those whose flag is not set are passed over.
pub(crate) struct Fields<'a> {
    pub(crate) reader: Reader<'a>,
    flags: u16,
    /// The first thing that was wrong.
    damage: Option<Damage>,
}

impl<'a> Fields<'a> {
    pub(crate) fn new(bytes: &'a [u8], flags: u16) -> Fields<'a> {
        Fields { reader: Reader(bytes), flags, damage: None }
    }

    #[inline(always)]
    pub(crate) fn field<T>(&mut self, bit: u16, read: impl FnOnce(&mut Reader<'a>) -> Option<T>) -> Option<T> {
        if self.flags & (1 << bit) == 0 {
            return None;
        }
        let value = read(&mut self.reader);
        if value.is_none() && self.damage.is_none() {
            self.damage = Some(Damage::Truncated);
        }
        value
    }

    #[inline(always)]
    pub(crate) fn string(&mut self, bit: u16) -> Option<&'a [u8]> {
        self.field(bit, Reader::short)
    }

    fn table(&mut self, bit: u16) -> Option<Table<'a>> {
        let bytes = self.field(bit, Reader::long)?;
        match Table::parse(bytes) {
            Ok(table) => Some(table),
            Err(error) => {
                self.damage.get_or_insert(Damage::Table(error));
                None
            }
        }
    }
}

/// The delivery mode alone, from properties that were checked when they came: nothing is checked again.
pub fn delivery_mode(flags: u16, bytes: &[u8]) -> Option<u8> {
    let mut rest = Fields::new(bytes, flags);
    rest.string(15);
    rest.string(14);
    rest.field(13, Reader::long);
    rest.field(12, Reader::u8)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::size_of;

    fn payload(flags: u16, properties: &[u8]) -> Vec<u8> {
        [&[0, 60, 0, 0, 0, 0, 0, 0, 0, 0, 0, 3][..], &flags.to_be_bytes(), properties].concat()
    }

    fn table(entries: &[u8]) -> Vec<u8> {
        [&size_of(entries.len()).to_be_bytes()[..], entries].concat()
    }

    #[test]
    fn properties_are_read_in_wire_order() {
        let bytes = [
            b"\x01t\x01e".to_vec(),
            table(b"\x01kV"),
            b"\x02\x09\x01c\x01r\x011\x01m\0\0\0\0\0\0\0\x07\x01T\x01u\x01a\x01z".to_vec(),
        ]
        .concat();
        let all = Properties::parse(u16::MAX, &bytes).expect("well-formed");
        assert_eq!((all.content_type, all.content_encoding), (Some(&b"t"[..]), Some(&b"e"[..])));
        assert_eq!(all.headers.expect("present").get("k"), Some(crate::Value::Void));
        assert_eq!((all.delivery_mode, all.priority, all.timestamp), (Some(2), Some(9), Some(7)));
        assert_eq!((all.correlation_id, all.reply_to), (Some(&b"c"[..]), Some(&b"r"[..])));
        assert_eq!((all.expiration, all.message_id), (Some(&b"1"[..]), Some(&b"m"[..])));
        assert_eq!((all.kind, all.user_id), (Some(&b"T"[..]), Some(&b"u"[..])));
        assert_eq!((all.app_id, all.cluster_id), (Some(&b"a"[..]), Some(&b"z"[..])));
        assert_eq!(delivery_mode(u16::MAX, &bytes), Some(2));
    }

    #[test]
    fn absent_and_empty_differ() {
        let none = Properties::parse(0, b"").expect("well-formed");
        assert_eq!((none.content_type, none.headers), (None, None));
        let empty = Properties::parse(0xA000, b"\0\0\0\0\0").expect("well-formed");
        assert_eq!((empty.content_type, empty.headers.map(|table| table.is_empty())), (Some(&b""[..]), Some(true)));
    }

    #[test]
    fn truncated_left_over_and_damaged_properties_are_refused() {
        let refused = |flags, bytes: &[u8]| Properties::parse(flags, bytes).expect_err("must be refused").reply_text();
        assert_eq!(refused(0x8000, b"\x05abc"), "FRAME_ERROR - content properties end too early");
        assert_eq!(refused(0x1000, b"\x01\x02"), "FRAME_ERROR - octets left over after content properties");
        assert_eq!(refused(0x2000, &table(b"\x01k!")), "SYNTAX_ERROR - malformed headers: unknown field type 33");
        assert_eq!(refused(0x2000, b"\0\0\0\x09"), "FRAME_ERROR - content properties end too early");
    }

    #[test]
    fn a_header_without_flags_has_no_valid_properties() {
        for length in 12..14 {
            let payload = payload(0, b"");
            let header = header(&payload[..length]);
            assert_eq!(header.body_size, 3);
            assert!(header.parse().is_err());
        }
    }
}
