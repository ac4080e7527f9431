//! Changing what the broker has to change in a content header, and nothing else.

use crate::{
    content::{EXPIRATION, FIXED, Fields, HEADERS, REPLY_TO, UNUSED, header},
    error::AmqpError,
    frame::size_of,
    reader::Reader,
    table::Table,
    value::{encode_table, short},
};
use amq_protocol::types::{AMQPValue, FieldTable};

/// What to change in a content header.
#[derive(Clone, Copy, Debug, Default)]
pub struct Edits<'a> {
    /// Headers to take out, every entry with such a key.
    pub remove: &'a [&'a str],
    /// Headers to write, each in place of all entries with its key. They come last, in this order.
    pub put: &'a [(&'a str, AMQPValue)],
    /// Headers to write as `put` does, and before those, given as they are on the wire: tag and value. For tables whose
    /// entries have an order.
    pub put_encoded: &'a [(&'a str, Vec<u8>)],
    /// Take out the expiration, as dead-lettering does.
    pub drop_expiration: bool,
    /// Write this `reply-to`, in place of the old one or none; at most 255 octets, what exceeds them is cut.
    pub reply_to: Option<&'a [u8]>,
}

/// A new header frame payload with `edits` made and everything else, the order of entries included, as it was.
/// An absent headers table stays absent unless something is put into it; one that loses its last entry stays,
/// empty.
///
/// # Errors
/// Those of [`crate::content::Properties::parse`], for a payload that was never checked.
pub fn edit(payload: &[u8], edits: &Edits<'_>) -> Result<Vec<u8>, AmqpError> {
    let header = header(payload);
    let old = header.parse()?;
    let mut before = Fields::new(header.properties, header.flags);
    before.string(15);
    before.string(14);
    let (start, rest) = header.properties.split_at(header.properties.len() - before.reader.0.len());

    let has_headers = old.headers.is_some() || !edits.put.is_empty() || !edits.put_encoded.is_empty();
    let mut flags = header.flags & !HEADERS & !UNUSED;
    if has_headers {
        flags |= HEADERS;
    }
    let mut tail = Vec::with_capacity(rest.len());
    push_tail(&mut tail, rest, header.flags, edits);
    if edits.drop_expiration {
        flags &= !EXPIRATION;
    }
    if edits.reply_to.is_some() {
        flags |= REPLY_TO;
    }

    let mut out = Vec::with_capacity(payload.len() + 64 * edits.put.len());
    out.extend_from_slice(payload.get(..FIXED - 2).unwrap_or_default());
    out.extend_from_slice(&flags.to_be_bytes());
    out.extend_from_slice(start);
    if has_headers {
        push_headers(&mut out, old.headers.unwrap_or_default(), edits);
    }
    out.extend_from_slice(&tail);
    Ok(out)
}

/// What follows the headers table in the properties, of which `rest` begins with that table if there is one.
fn push_tail(out: &mut Vec<u8>, rest: &[u8], flags: u16, edits: &Edits<'_>) {
    let mut fields = Fields::new(rest, flags);
    fields.field(13, Reader::long);
    let kept = fields.reader.0;
    fields.field(12, Reader::u8);
    fields.field(11, Reader::u8);
    fields.string(10);
    push_front(out, kept, fields.reader.0);
    let kept = fields.reader.0;
    fields.string(9);
    match edits.reply_to {
        Some(name) => {
            let name = name.get(..255).unwrap_or(name);
            out.push(name.len() as u8);
            out.extend_from_slice(name);
        }
        None => push_front(out, kept, fields.reader.0),
    }
    if edits.drop_expiration {
        fields.string(8);
    }
    out.extend_from_slice(fields.reader.0);
}

/// Appends what `bytes` has in front of `rest`, its end.
fn push_front(out: &mut Vec<u8>, bytes: &[u8], rest: &[u8]) {
    let before = bytes.len() - rest.len();
    out.extend_from_slice(bytes.get(..before).unwrap_or_default());
}

fn push_headers(out: &mut Vec<u8>, old: Table<'_>, edits: &Edits<'_>) {
    let start = out.len();
    out.extend_from_slice(&[0; 4]);
    let mut entries = old.iter();
    let mut here = entries.rest();
    while let Some((key, _)) = entries.next() {
        let entry = here.len() - entries.rest().len();
        let gone = edits.remove.iter().any(|name| name.as_bytes() == key)
            || edits.put.iter().any(|(name, _)| name.as_bytes() == key)
            || edits.put_encoded.iter().any(|(name, _)| name.as_bytes() == key);
        if !gone {
            out.extend_from_slice(here.get(..entry).unwrap_or_default());
        }
        here = entries.rest();
    }
    for (name, value) in edits.put_encoded {
        let name = name.get(..255).unwrap_or(name);
        out.push(name.len() as u8);
        out.extend_from_slice(name.as_bytes());
        out.extend_from_slice(value);
    }
    for (name, value) in edits.put {
        let mut table = FieldTable::default();
        table.insert(short(name), value.clone());
        out.extend_from_slice(encode_table(&table).get(4..).unwrap_or_default());
    }
    let length = size_of(out.len() - start - 4);
    if let Some(place) = out.get_mut(start..start + 4) {
        place.copy_from_slice(&length.to_be_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn payload(flags: u16, properties: &[u8]) -> Vec<u8> {
        [&[0, 60, 0, 0, 0, 0, 0, 0, 0, 0, 0, 3][..], &flags.to_be_bytes(), properties].concat()
    }

    fn table(entries: &[u8]) -> Vec<u8> {
        [&size_of(entries.len()).to_be_bytes()[..], entries].concat()
    }

    #[test]
    fn removing_bcc_leaves_all_else_byte_for_byte() {
        let entries = |bcc: &[u8]| table(&[b"\x01zL\0\0\0\0\0\0\0\x01", bcc, b"\x01ab\x01\x01ab\x02"].concat());
        let with = |bcc: &[u8]| payload(0xB900, &[b"\x02tt", &entries(bcc)[..], b"\x01\x01\x0260"].concat());
        let edits = Edits { remove: &["BCC"], ..Edits::default() };
        assert_eq!(edit(&with(b"\x03BCCA\0\0\0\x06S\0\0\0\x01k"), &edits), Ok(with(b"")));
    }

    #[test]
    fn a_headers_table_that_held_only_bcc_stays_empty_and_an_absent_one_stays_absent() {
        let edits = Edits { remove: &["BCC"], ..Edits::default() };
        let emptied = edit(&payload(0x3000, &[&table(b"\x03BCCV")[..], b"\x02"].concat()), &edits);
        assert_eq!(emptied, Ok(payload(0x3000, b"\0\0\0\0\x02")));
        let absent = payload(0x1000, b"\x02");
        assert_eq!(edit(&absent, &edits), Ok(absent.clone()));
    }

    #[test]
    fn put_replaces_every_entry_of_that_key_and_adds_the_table_if_need_be() {
        let put = [("n", AMQPValue::LongLongInt(1))];
        let edits = Edits { put: &put, ..Edits::default() };
        let n = b"\x01nl\0\0\0\0\0\0\0\x01";
        let old = payload(0x2000, &table(b"\x01nV\x01kt\x01\x01nV"));
        assert_eq!(edit(&old, &edits), Ok(payload(0x2000, &table(&[&b"\x01kt\x01"[..], n].concat()))));
        let bare = payload(0x9000, b"\x01t\x02");
        assert_eq!(edit(&bare, &edits), Ok(payload(0xB000, &[b"\x01t", &table(n)[..], b"\x02"].concat())));
    }

    #[test]
    fn the_expiration_can_be_dropped() {
        let edits = Edits { drop_expiration: true, ..Edits::default() };
        let old = payload(0x1380, b"\x02\x01r\x0260\x01m");
        assert_eq!(edit(&old, &edits), Ok(payload(0x1280, b"\x02\x01r\x01m")));
        let without = payload(0x1200, b"\x02\x01r");
        assert_eq!(edit(&without, &edits), Ok(without.clone()));
    }

    #[test]
    fn the_reply_to_can_be_replaced_or_added_where_it_belongs() {
        let edits = Edits { reply_to: Some(b"new"), ..Edits::default() };
        let old = payload(0x1780, b"\x02\x01c\x01r\x0260\x01m");
        assert_eq!(edit(&old, &edits), Ok(payload(0x1780, b"\x02\x01c\x03new\x0260\x01m")));
        let without = payload(0x1180, b"\x02\x0260\x01m");
        assert_eq!(edit(&without, &edits), Ok(payload(0x1380, b"\x02\x03new\x0260\x01m")));
    }
}
