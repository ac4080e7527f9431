use crate::generate::{octets, published, text};
use leveret_protocol::{
    amq::{AMQPClass, basic},
    deliver,
    hot::{self, Settle},
    message, method,
};
use proptest::prelude::*;

fn encoded(channel: u16, method: basic::AMQPMethod) -> Vec<u8> {
    let mut out = Vec::new();
    method::encode(&mut out, channel, &AMQPClass::Basic(method));
    out
}

/// The payload of a frame.
fn payload(frame: &[u8]) -> &[u8] {
    &frame[7..frame.len() - 1]
}

proptest! {
    #[test]
    fn publish_reads_what_amq_protocol_writes(exchange in text(), routing_key in text(), mandatory: bool, immediate: bool) {
        let method = basic::Publish { exchange: exchange.clone(), routing_key: routing_key.clone(), mandatory, immediate };
        let frame = encoded(1, basic::AMQPMethod::Publish(method));
        let publish = hot::publish(payload(&frame)).expect("well-formed");
        prop_assert_eq!((publish.exchange, publish.routing_key), (exchange.as_str().as_bytes(), routing_key.as_str().as_bytes()));
        prop_assert_eq!((publish.mandatory, publish.immediate), (mandatory, immediate));
        prop_assert_eq!(publish.address, message::address(publish.exchange, publish.routing_key));
    }

    #[test]
    fn publish_refuses_just_what_the_general_decoder_refuses(arguments in octets(12)) {
        let payload = [&[0, 60, 0, 40][..], &arguments].concat();
        match method::decode(&payload) {
            Ok(AMQPClass::Basic(basic::AMQPMethod::Publish(general))) => {
                let publish = hot::publish(&payload).expect("the general decoder took it");
                prop_assert_eq!(general.exchange.as_str().as_bytes(), publish.exchange);
            }
            Err(error) if error.text.starts_with("Malformed UTF-8") => prop_assert!(hot::publish(&payload).is_ok()),
            other => prop_assert_eq!(hot::publish(&payload).err(), other.err()),
        }
    }

    #[test]
    fn settle_reads_what_amq_protocol_writes(delivery_tag: u64, multiple: bool, requeue: bool) {
        let ack = encoded(1, basic::AMQPMethod::Ack(basic::Ack { delivery_tag, multiple }));
        prop_assert_eq!(hot::settle(payload(&ack)), Ok(Some(Settle::Ack { tag: delivery_tag, multiple })));
        let nack = encoded(1, basic::AMQPMethod::Nack(basic::Nack { delivery_tag, multiple, requeue }));
        prop_assert_eq!(hot::settle(payload(&nack)), Ok(Some(Settle::Nack { tag: delivery_tag, multiple, requeue })));
        let reject = encoded(1, basic::AMQPMethod::Reject(basic::Reject { delivery_tag, requeue }));
        prop_assert_eq!(hot::settle(payload(&reject)), Ok(Some(Settle::Reject { tag: delivery_tag, requeue })));
    }

    #[test]
    fn settle_refuses_just_what_the_general_decoder_refuses(
        method in prop::sample::select(vec![80u8, 90, 120]),
        arguments in octets(12),
    ) {
        let payload = [&[0, 60, 0, method][..], &arguments].concat();
        prop_assert_eq!(hot::settle(&payload).err(), method::decode(&payload).err());
    }

    #[test]
    fn confirms_are_written_as_amq_protocol_writes_them(channel: u16, delivery_tag: u64, multiple: bool) {
        let (mut ack, mut nack) = (Vec::new(), Vec::new());
        hot::encode_ack(&mut ack, channel, delivery_tag, multiple);
        hot::encode_nack(&mut nack, channel, delivery_tag, multiple);
        prop_assert_eq!(ack, encoded(channel, basic::AMQPMethod::Ack(basic::Ack { delivery_tag, multiple })));
        let expected = basic::Nack { delivery_tag, multiple, requeue: false };
        prop_assert_eq!(nack, encoded(channel, basic::AMQPMethod::Nack(expected)));
    }

    #[test]
    fn deliver_get_ok_and_return_are_written_as_amq_protocol_writes_them(
        channel in 1..=u16::MAX,
        consumer_tag in text(),
        delivery_tag: u64,
        redelivered: bool,
        exchange in text(),
        routing_key in text(),
        message_count: u32,
        reply_code: u16,
        reply_text in text(),
        message in published(),
    ) {
        let address = message::address(exchange.as_str().as_bytes(), routing_key.as_str().as_bytes());
        let content = message.content();
        let after = |method| {
            let mut expected = encoded(channel, method);
            deliver::content(&mut expected, channel, &content, 4096);
            expected
        };
        let mut out = Vec::new();
        deliver::deliver(&mut out, channel, consumer_tag.as_str().as_bytes(), delivery_tag, redelivered, &address, &content, 4096);
        let (e, k) = (exchange.clone(), routing_key.clone());
        let method = basic::Deliver { consumer_tag, delivery_tag, redelivered, exchange: e, routing_key: k };
        prop_assert_eq!(out, after(basic::AMQPMethod::Deliver(method)));

        let mut out = Vec::new();
        deliver::get_ok(&mut out, channel, delivery_tag, redelivered, &address, message_count);
        deliver::content(&mut out, channel, &content, 4096);
        let (e, k) = (exchange.clone(), routing_key.clone());
        let method = basic::GetOk { delivery_tag, redelivered, exchange: e, routing_key: k, message_count };
        prop_assert_eq!(out, after(basic::AMQPMethod::GetOk(method)));

        let mut out = Vec::new();
        deliver::returned(&mut out, channel, reply_code, reply_text.as_str(), &address, &content, 4096);
        let method = basic::Return { reply_code, reply_text, exchange, routing_key };
        prop_assert_eq!(out, after(basic::AMQPMethod::Return(method)));
    }
}
