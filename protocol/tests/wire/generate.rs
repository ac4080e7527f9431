//! Random frames, tables and messages.

use leveret_protocol::{
    amq::{AMQPValue, ByteArray, DecimalValue, FieldArray, FieldTable, LongString, ShortString, short},
    frame, message,
};
use proptest::{collection::vec, prelude::*};

pub fn octets(max: usize) -> impl Strategy<Value = Vec<u8>> + Clone {
    vec(any::<u8>(), 0..=max)
}

/// A short string of UTF-8.
pub fn text() -> impl Strategy<Value = ShortString> + Clone {
    prop_oneof![4 => "\\PC{0,12}", 1 => "[a-zé]{60,255}"].prop_map(short)
}

/// A value of any type, nested up to four levels. NaN is left out for it is not equal to itself.
pub fn value() -> impl Strategy<Value = AMQPValue> + Clone {
    let leaf = prop_oneof![
        any::<bool>().prop_map(AMQPValue::Boolean),
        any::<i8>().prop_map(AMQPValue::ShortShortInt),
        any::<u8>().prop_map(AMQPValue::ShortShortUInt),
        any::<i16>().prop_map(AMQPValue::ShortInt),
        any::<u16>().prop_map(AMQPValue::ShortUInt),
        any::<i32>().prop_map(AMQPValue::LongInt),
        any::<u32>().prop_map(AMQPValue::LongUInt),
        any::<i64>().prop_map(AMQPValue::LongLongInt),
        proptest::num::f32::NORMAL.prop_map(AMQPValue::Float),
        proptest::num::f64::NORMAL.prop_map(AMQPValue::Double),
        any::<(u8, u32)>().prop_map(|(scale, value)| AMQPValue::DecimalValue(DecimalValue { scale, value })),
        octets(20).prop_map(|bytes| AMQPValue::LongString(LongString::from(bytes))),
        octets(20).prop_map(|bytes| AMQPValue::ByteArray(ByteArray::from(bytes))),
        any::<u64>().prop_map(AMQPValue::Timestamp),
        Just(AMQPValue::Void),
    ];
    leaf.prop_recursive(4, 24, 4, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..4).prop_map(|items| AMQPValue::FieldArray(FieldArray::from(items))),
            entries(inner).prop_map(AMQPValue::FieldTable),
        ]
    })
}

pub fn table() -> impl Strategy<Value = FieldTable> + Clone {
    entries(value())
}

fn entries(value: impl Strategy<Value = AMQPValue> + Clone) -> impl Strategy<Value = FieldTable> + Clone {
    vec((text(), value), 0..5).prop_map(|entries| {
        let mut table = FieldTable::default();
        for (key, value) in entries {
            table.insert(key, value);
        }
        table
    })
}

/// One published message: its parts, and the frames in which it comes.
#[derive(Clone, Debug)]
pub struct Published {
    pub channel: u16,
    pub exchange: Vec<u8>,
    pub routing_key: Vec<u8>,
    pub bits: u8,
    pub flags_and_properties: Vec<u8>,
    pub bodies: Vec<Vec<u8>>,
}

impl Published {
    pub fn address(&self) -> Vec<u8> {
        message::address(&self.exchange, &self.routing_key)
    }

    pub fn body(&self) -> Vec<u8> {
        self.bodies.concat()
    }

    pub fn header(&self) -> Vec<u8> {
        let size = self.body().len() as u64;
        [&[0, 60, 0, 0][..], &size.to_be_bytes(), &self.flags_and_properties].concat()
    }

    pub fn frames(&self) -> Vec<u8> {
        let mut out = Vec::new();
        let publish = [&[0, 60, 0, 40, 0, 0][..], &self.address(), &[self.bits]].concat();
        frame::encode(&mut out, frame::METHOD, self.channel, &publish);
        out.extend_from_slice(&self.content());
        out
    }

    pub fn content(&self) -> Vec<u8> {
        let mut out = Vec::new();
        frame::encode(&mut out, frame::HEADER, self.channel, &self.header());
        for body in &self.bodies {
            frame::encode(&mut out, frame::BODY, self.channel, body);
        }
        out
    }
}

prop_compose! {
    /// A message in body frames of 1 to 40 octets, with a delivery mode or nothing at all as properties.
    pub fn published()(
        channel in 1..=u16::MAX,
        exchange in octets(20),
        routing_key in octets(255),
        bits in 0..4u8,
        flags_and_properties in prop_oneof![Just(vec![0, 0]), any::<u8>().prop_map(|mode| vec![0x10, 0, mode])],
        bodies in vec(vec(any::<u8>(), 1..40), 0..5),
    ) -> Published {
        Published { channel, exchange, routing_key, bits, flags_and_properties, bodies }
    }
}
