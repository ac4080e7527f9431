use crate::generate::{octets, published, table, text};
use amq_protocol::{frame::WriteContext, protocol::basic::gen_properties};
use leveret_protocol::{
    amq::{AMQPValue, basic::AMQPProperties},
    content::{self, Edits, Properties, delivery_mode},
    deliver,
    frame::{self, BODY, HEADER},
    value::encode_table,
};
use proptest::{collection::vec, option, prelude::*};

type Strings = (Option<String>, Option<String>, Option<String>, Option<String>, Option<String>);

fn strings() -> impl Strategy<Value = Strings> {
    let string = || option::of(text().prop_map(|text| text.as_str().to_owned()));
    (string(), string(), string(), string(), string())
}

prop_compose! {
    fn properties()(
        a in strings(), b in strings(), headers in option::of(table()), mode: Option<u8>, priority: Option<u8>, timestamp: Option<u64>,
    ) -> AMQPProperties {
        macro_rules! set {
            ($to:ident, $value:expr, $with:ident) => { if let Some(value) = $value { $to = $to.$with(value.into()); } };
        }
        let mut out = AMQPProperties::default();
        set!(out, a.0, with_content_type);
        set!(out, a.1, with_content_encoding);
        set!(out, headers, with_headers);
        set!(out, mode, with_delivery_mode);
        set!(out, priority, with_priority);
        set!(out, a.2, with_correlation_id);
        set!(out, a.3, with_reply_to);
        set!(out, a.4, with_expiration);
        set!(out, b.0, with_message_id);
        set!(out, timestamp, with_timestamp);
        set!(out, b.1, with_type);
        set!(out, b.2, with_user_id);
        set!(out, b.3, with_app_id);
        set!(out, b.4, with_cluster_id);
        out
    }
}

/// Flags and properties as amq-protocol writes them.
fn written(properties: &AMQPProperties) -> Vec<u8> {
    gen_properties(properties)(WriteContext::from(Vec::new())).expect("in memory").write
}

fn parts(written: &[u8]) -> (u16, &[u8]) {
    (u16::from_be_bytes([written[0], written[1]]), &written[2..])
}

/// A header frame's payload with these properties.
fn payload(written: &[u8]) -> Vec<u8> {
    [&[0, 60, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0][..], written].concat()
}

/// The same properties in amq-protocol's type.
fn rebuilt(found: &Properties<'_>) -> AMQPProperties {
    let text = |bytes: &[u8]| leveret_protocol::amq::short(String::from_utf8_lossy(bytes));
    macro_rules! set {
        ($to:ident, $value:expr, $with:ident) => {
            if let Some(value) = $value {
                $to = $to.$with(value);
            }
        };
    }
    let mut out = AMQPProperties::default();
    set!(out, found.content_type.map(text), with_content_type);
    set!(out, found.content_encoding.map(text), with_content_encoding);
    set!(out, found.headers.map(|table| table.to_amq()), with_headers);
    set!(out, found.delivery_mode, with_delivery_mode);
    set!(out, found.priority, with_priority);
    set!(out, found.correlation_id.map(text), with_correlation_id);
    set!(out, found.reply_to.map(text), with_reply_to);
    set!(out, found.expiration.map(text), with_expiration);
    set!(out, found.message_id.map(text), with_message_id);
    set!(out, found.timestamp, with_timestamp);
    set!(out, found.kind.map(text), with_type);
    set!(out, found.user_id.map(text), with_user_id);
    set!(out, found.app_id.map(text), with_app_id);
    set!(out, found.cluster_id.map(text), with_cluster_id);
    out
}

proptest! {
    #[test]
    fn properties_are_read_as_amq_protocol_wrote_them(properties in properties(), unused in 0..4u16) {
        let bytes = written(&properties);
        let (flags, bytes) = parts(&bytes);
        let found = Properties::parse(flags | unused, bytes).expect("well-formed");
        prop_assert_eq!(rebuilt(&found), properties);
        prop_assert_eq!(delivery_mode(flags, bytes), found.delivery_mode);
    }

    #[test]
    fn properties_cut_short_or_with_octets_left_over_are_refused(properties in properties(), cut: prop::sample::Index) {
        let bytes = written(&properties);
        let (flags, bytes) = parts(&bytes);
        if !bytes.is_empty() {
            prop_assert!(Properties::parse(flags, &bytes[..cut.index(bytes.len())]).is_err());
        }
        let error = Properties::parse(flags, &[bytes, b"!"].concat()).expect_err("must be refused");
        prop_assert_eq!((error.code, error.class), (501, 0));
    }

    #[test]
    fn editing_nothing_changes_nothing(properties in properties()) {
        let payload = payload(&written(&properties));
        prop_assert_eq!(content::edit(&payload, &Edits::default()), Ok(payload));
    }

    #[test]
    fn edits_change_what_they_name_and_nothing_else(properties in properties(), value in crate::generate::value(), drop_expiration: bool) {
        let key = properties.headers().as_ref().and_then(|table| table.inner().keys().next().cloned());
        let remove: Vec<_> = key.iter().map(|key| key.as_str()).collect();
        let put = [("x-new", value.clone())];
        let edits = Edits { remove: &remove, put: &put, drop_expiration, ..Edits::default() };
        let edited = content::edit(&payload(&written(&properties)), &edits).expect("well-formed");
        let found = content::header(&edited).parse().expect("well-formed");

        let mut kept = properties.headers().clone().unwrap_or_default().inner().clone();
        key.map(|key| kept.remove(&key));
        let mut bytes = encode_table(&kept.clone().into()).split_off(4);
        let mut new = std::collections::BTreeMap::new();
        new.insert("x-new".into(), value);
        bytes.extend(encode_table(&new.into()).split_off(4));
        prop_assert_eq!(found.headers.map(|table| table.bytes().to_vec()), Some(bytes));

        // All the rest is as it was: put back what was changed and compare.
        let headers = properties.headers().clone().unwrap_or_default();
        let mut restored = rebuilt(&found).with_headers(headers.clone());
        if let (true, Some(expiration)) = (drop_expiration, properties.expiration()) {
            prop_assert!(found.expiration.is_none());
            restored = restored.with_expiration(expiration.clone());
        }
        prop_assert_eq!(restored, properties.with_headers(headers));
    }

    #[test]
    fn a_body_comes_together_again_whatever_the_frame_max(message in published(), channel in 1..=u16::MAX, frame_max in 9..100u32) {
        let mut out = Vec::new();
        deliver::content(&mut out, channel, &message.content(), frame_max);
        let mut rest = &out[..];
        let mut body = Vec::new();
        let mut kinds = Vec::new();
        while let Some(frame) = frame::split(rest, 0).expect("well-formed") {
            prop_assert_eq!(frame.channel, channel);
            if frame.kind == BODY {
                prop_assert!(frame.octets() <= frame_max as usize && !frame.payload.is_empty());
                body.extend_from_slice(frame.payload);
            } else {
                prop_assert_eq!(frame.payload, message.header());
            }
            kinds.push(frame.kind);
            rest = &rest[frame.octets()..];
        }
        prop_assert!(rest.is_empty());
        prop_assert_eq!(kinds.iter().position(|kind| *kind == HEADER), Some(0));
        prop_assert_eq!(body, message.body());
    }

    #[test]
    fn headers_keep_their_octets_through_an_edit(keys in vec((octets(6), octets(6)), 0..6)) {
        let mut entries = Vec::new();
        let mut expected = Vec::new();
        for (key, value) in &keys {
            let entry = [&[key.len() as u8][..], key, b"S", &(value.len() as u32).to_be_bytes(), value].concat();
            entries.extend_from_slice(&entry);
            entries.extend_from_slice(b"\x03BCCV");
            expected.extend_from_slice(&entry);
        }
        let with = |entries: &[u8]| payload(&[&[0x20, 0][..], &(entries.len() as u32).to_be_bytes(), entries].concat());
        let edits = Edits { remove: &["BCC"], ..Edits::default() };
        prop_assert_eq!(content::edit(&with(&entries), &edits), Ok(with(&expected)));
    }
}

#[test]
fn the_value_put_is_the_value_read() {
    let put = [("n", AMQPValue::LongLongInt(5))];
    let edited = content::edit(&payload(&[0, 0]), &Edits { put: &put, ..Edits::default() }).expect("well-formed");
    let headers = content::header(&edited).parse().expect("well-formed").headers.expect("present");
    assert_eq!(headers.get("n").and_then(|value| value.as_integer()), Some(5));
}
