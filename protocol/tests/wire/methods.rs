use crate::generate::{octets, table, text};
use amq_protocol::protocol::parse_class;
use leveret_protocol::{
    frame,
    method::{self, decode},
    value::encode_table,
};
use proptest::prelude::*;

/// Every method and its arguments in wire order, neighbouring bits as one octet: AMQP 0-9-1 with RabbitMQ's extensions.
const METHODS: &str = "
    10,10 u8 u8 table long long    10,11 table short long short    10,20 long    10,21 long
    10,30 u16 u32 u16    10,31 u16 u32 u16    10,40 short short bits    10,41 short
    10,50 u16 short u16 u16    10,51    10,60 short    10,61    10,70 long short    10,71
    20,10 short    20,11 long    20,20 bits    20,21 bits    20,40 u16 short u16 u16    20,41
    30,10 short bits    30,11 u16
    40,10 u16 short short bits table    40,11    40,20 u16 short bits    40,21
    40,30 u16 short short short bits table    40,31    40,40 u16 short short short bits table    40,51
    50,10 u16 short bits table    50,11 short u32 u32    50,20 u16 short short short bits table    50,21
    50,30 u16 short bits    50,31 u32    50,40 u16 short bits    50,41 u32
    50,50 u16 short short short table    50,51
    60,10 u32 u16 bits    60,11    60,20 u16 short short bits table    60,21 short
    60,30 short bits    60,31 short    60,40 u16 short short bits    60,50 u16 short short short
    60,60 short u64 bits short short    60,70 u16 short bits    60,71 u64 bits short short u32    60,72 short
    60,80 u64 bits    60,90 u64 bits    60,100 bits    60,110 bits    60,111    60,120 u64 bits
    85,10 bits    85,11    90,10    90,11    90,20    90,21    90,30    90,31";

fn methods() -> Vec<((u16, u16), Vec<&'static str>)> {
    let mut methods: Vec<((u16, u16), Vec<&str>)> = Vec::new();
    for word in METHODS.split_whitespace() {
        match (word.split_once(','), methods.last_mut()) {
            (Some((class, method)), _) => {
                methods.push(((class.parse().expect("a number"), method.parse().expect("a number")), Vec::new()));
            }
            (None, Some((_, args))) => args.push(word),
            (None, None) => unreachable!("the list begins with ids"),
        }
    }
    methods
}

fn argument(kind: &str) -> BoxedStrategy<Vec<u8>> {
    let fixed = |count| proptest::collection::vec(any::<u8>(), count).boxed();
    match kind {
        "u8" | "bits" => fixed(1),
        "u16" => fixed(2),
        "u32" => fixed(4),
        "u64" => fixed(8),
        "short" => text().prop_map(|text| [&[text.as_str().len() as u8], text.as_str().as_bytes()].concat()).boxed(),
        "long" => octets(40).prop_map(|bytes| [&(bytes.len() as u32).to_be_bytes()[..], &bytes].concat()).boxed(),
        "table" => table().prop_map(|table| encode_table(&table)).boxed(),
        _ => unreachable!("{kind}"),
    }
}

/// The payload of any method frame at all.
pub fn payload() -> impl Strategy<Value = Vec<u8>> {
    proptest::sample::select(methods()).prop_flat_map(|((class, method), args)| {
        let args: Vec<_> = args.into_iter().map(argument).collect();
        args.prop_map(move |args| [&class.to_be_bytes()[..], &method.to_be_bytes(), &args.concat()].concat())
    })
}

#[test]
fn exactly_the_methods_listed_are_known() {
    let listed: Vec<_> = methods().into_iter().map(|(ids, _)| ids).collect();
    assert_eq!(method::known_ids().collect::<Vec<_>>(), listed);
}

/// Nobody learns from the random cases alone whether each method had one.
#[test]
fn every_method_passes_with_empty_arguments() {
    for ((class, method), args) in methods() {
        let sizes = args.iter().map(|kind| match *kind {
            "u8" | "bits" | "short" => 1,
            "u16" => 2,
            "u32" | "long" | "table" => 4,
            "u64" => 8,
            _ => unreachable!("{kind}"),
        });
        let zeros = vec![0; sizes.sum()];
        let payload = [&class.to_be_bytes()[..], &method.to_be_bytes(), &zeros].concat();
        let (_, expected) = parse_class(&payload[..]).expect("amq-protocol knows it");
        assert_eq!(decode(&payload), Ok(expected.clone()), "{class},{method}");
        let mut frame = Vec::new();
        method::encode(&mut frame, 1, &expected);
        // The one argument with another default: access.request-ok has ticket 1.
        let expected = if (class, method) == (30, 11) { vec![0, 30, 0, 11, 0, 1] } else { payload };
        assert_eq!(&frame[7..frame.len() - 1], expected, "{class},{method}");
    }
}

proptest! {
    #[test]
    fn decoding_equals_amq_protocol(payload in payload()) {
        let (rest, expected) = parse_class(&payload[..]).expect("well-formed");
        prop_assert!(rest.is_empty());
        prop_assert_eq!(decode(&payload), Ok(expected));
    }

    #[test]
    fn encoding_and_decoding_give_back_the_method(payload in payload(), channel in any::<u16>()) {
        let method = decode(&payload).expect("well-formed");
        let mut out = b"before".to_vec();
        method::encode(&mut out, channel, &method);
        let frame = frame::split(&out[6..], 0).expect("well-formed").expect("whole");
        prop_assert_eq!((frame.kind, frame.channel, frame.octets()), (frame::METHOD, channel, out.len() - 6));
        prop_assert_eq!(method::ids(frame.payload), method::ids(&payload));
        prop_assert_eq!(decode(frame.payload), Ok(method));
    }

    #[test]
    fn a_payload_cut_short_or_with_octets_left_over_cannot_be_decoded(payload in payload(), cut in any::<prop::sample::Index>(), extra in octets(3)) {
        let cut = &payload[..4 + cut.index(payload.len() - 3)];
        let long = [&payload[..], &extra].concat();
        for bad in [cut, &long] {
            if bad.len() != payload.len() {
                let error = decode(bad).expect_err("must be refused");
                prop_assert_eq!((error.code, (error.class, error.method)), (501, method::ids(&payload)));
                prop_assert!(error.text.starts_with("cannot decode <<"));
            }
        }
    }
}

#[test]
fn a_table_of_10_000_levels_is_refused_on_a_small_stack_and_one_of_128_is_read() {
    let declare = |levels: usize| {
        let with_length = |inner: &[u8]| [&(inner.len() as u32).to_be_bytes()[..], inner].concat();
        let table = (1..levels).fold(with_length(&[]), |inner, _| with_length(&[b"\x01kF", &inner[..]].concat()));
        [&[0, 50, 0, 10, 0, 0, 1, b'q', 0][..], &table].concat()
    };
    let on_small_stack = |payload: Vec<u8>, octets| {
        let thread = std::thread::Builder::new().stack_size(octets);
        thread.spawn(move || decode(&payload).map(drop)).expect("a thread").join().expect("no overflow")
    };
    let deep = on_small_stack(declare(10_000), 64 << 10).expect_err("must be refused");
    assert_eq!(deep.reply_text(), "SYNTAX_ERROR - field table nested too deeply");
    assert_eq!(on_small_stack(declare(129), 64 << 10).expect_err("must be refused").code, 502);
    assert_eq!(on_small_stack(declare(128), 1 << 20), Ok(()));
}
