//! Direct reply-to.

use amq_protocol::protocol::{basic, queue, tx};
use leveret_suite::{Content, Octets, Peer, Server, differs_from_reference, say, unique};

const NAME: &str = "amq.rabbitmq.reply-to";
const PUBLISH: (u16, u16) = (60, 40);
/// The flags of `correlation-id` and `reply-to`.
const CORRELATION_ID: u16 = 1 << 10;
const REPLY_TO: u16 = 1 << 9;

fn peer() -> Peer {
    Server::start().peer()
}

fn consume(tag: &str) -> basic::Consume {
    say::consume_with(NAME, tag, |consume| consume.no_ack = true)
}

/// A peer with a reply consumer `replies` on channel 1.
fn requester() -> Peer {
    let mut peer = peer();
    let ok: basic::ConsumeOk = peer.ask(1, consume("replies"));
    assert_eq!(ok.consumer_tag.as_str(), "replies");
    peer
}

/// A message that asks for a direct reply.
fn request(body: &str) -> Content {
    Content::with(REPLY_TO, Octets::new().shortstr(NAME), body)
}

/// The name under which channel 1 of the requester gets replies: what a request of it arrives with.
fn address(requester: &mut Peer) -> String {
    let service = requester.queue(1, "service");
    requester.publish_content(1, say::publish("", &service), &request("question"));
    let ok: basic::GetOk = requester.ask(1, say::get_no_ack(&service));
    assert_eq!(ok.routing_key.as_str(), service);
    let content = requester.expect_content(1);
    reply_to(&content, REPLY_TO)
}

/// The `reply-to` of a message that has these properties of which it is the last.
fn reply_to(content: &Content, flags: u16) -> String {
    assert_eq!(content.properties[..2], flags.to_be_bytes(), "the properties that are set");
    let mut strings = &content.properties[2..];
    let mut last = "";
    while let Some((length, rest)) = strings.split_first() {
        let (string, rest) = rest.split_at(usize::from(*length));
        last = std::str::from_utf8(string).expect("a name in UTF-8");
        strings = rest;
    }
    last.to_owned()
}

fn missing(name: &str) -> String {
    format!("NOT_FOUND - no queue '{name}' in vhost '/'")
}

// The consumer

#[test]
fn a_reply_consumer_must_not_acknowledge() {
    let text = "PRECONDITION_FAILED - reply consumer cannot acknowledge";
    peer().refused(1, say::consume(NAME, "c"), 406, text);
}

#[test]
fn a_channel_has_one_reply_consumer() {
    let text = "PRECONDITION_FAILED - reply consumer already set";
    requester().refused(1, consume("another"), 406, text);
    requester().refused(1, consume("replies"), 406, text);
    let mut peer = requester();
    peer.open_channel(2);
    peer.ask::<basic::ConsumeOk>(2, consume("replies"));
}

#[test]
fn the_tag_of_an_ordinary_consumer_is_530_and_the_other_way_round_is_fine() {
    let mut peer = requester();
    let queue = peer.queue(1, "ordinary");
    peer.consume(1, &queue, "replies");
    peer.publish(1, "", &queue, "x");
    peer.expect_deliveries(1, &["x"]);
    peer.open_channel(2);
    peer.consume(2, &queue, "taken");
    peer.fails(2, consume("taken"), 530, "NOT_ALLOWED - attempt to reuse consumer tag 'taken'");
}

#[test]
fn a_tag_is_generated_if_it_is_empty() {
    let ok: basic::ConsumeOk = peer().ask(1, consume(""));
    assert!(ok.consumer_tag.as_str().starts_with("amq.ctag-"), "{ok:?}");
}

#[test]
fn exclusive_and_arguments_are_ignored() {
    let mut peer = peer();
    // no-ack and exclusive
    let consume = Octets::method(60, 20).u16(0).shortstr(NAME).shortstr("c").u8(0b110);
    peer.send_payload(1, consume.longstr(Octets::new().entry_str("x-priority", "no number")));
    peer.expect::<basic::ConsumeOk>(1);
}

#[test]
fn no_wait_suppresses_consume_ok() {
    let mut peer = peer();
    peer.send(1, basic::Consume { nowait: true, ..consume("replies") });
    let name = address(&mut peer);
    peer.publish(1, "", &name, "reply");
    peer.expect_deliveries(1, &["reply"]);
}

#[test]
fn after_cancel_a_new_reply_consumer_is_possible() {
    let mut peer = requester();
    let before = address(&mut peer);
    peer.cancel(1, "replies");
    peer.publish_content(1, say::publish("", &before), &Content::new("too late"));
    peer.ask::<basic::ConsumeOk>(1, consume("again"));
    let after = address(&mut peer);
    peer.publish(1, "", &after, "reply");
    assert_eq!(peer.expect_deliveries(1, &["reply"])[0].consumer_tag, "again");
}

// The request

#[test]
fn a_request_without_reply_consumer_is_406() {
    let text = "PRECONDITION_FAILED - fast reply consumer does not exist";
    let mut peer = requester();
    peer.open_channel(2);
    peer.publish_content(2, say::publish("", "nowhere"), &request("x"));
    peer.expect_channel_close(2, 406, text, PUBLISH);
    peer.cancel(1, "replies");
    peer.publish_content(1, say::publish("", "nowhere"), &request("x"));
    peer.expect_channel_close(1, 406, text, PUBLISH);
}

#[test]
fn the_reply_to_is_checked_behind_the_exchange_and_before_the_expiration() {
    let mut peer = peer();
    let exchange = unique("missing");
    peer.publish_content(1, say::publish(&exchange, ""), &request("x"));
    let text = format!("NOT_FOUND - no exchange '{exchange}' in vhost '/'");
    peer.expect_channel_close(1, 404, &text, PUBLISH);
    peer.open_channel(1);
    let content = Content::with(REPLY_TO | 1 << 8, Octets::new().shortstr(NAME).shortstr("soon"), "x");
    peer.publish_content(1, say::publish("", "nowhere"), &content);
    peer.expect_channel_close(1, 406, "PRECONDITION_FAILED - fast reply consumer does not exist", PUBLISH);
}

#[test]
fn the_reply_to_of_a_request_is_rewritten_and_nothing_else() {
    let mut peer = requester();
    let queue = peer.queue(1, "service");
    let flags = CORRELATION_ID | REPLY_TO;
    let content = Content::with(flags, Octets::new().shortstr("id").shortstr(NAME), "question");
    peer.publish_content(1, say::publish("", &queue), &content);
    let (_, arrived) = peer.get(1, &queue);
    let name = reply_to(&arrived, flags);
    let parts: Vec<&str> = name.strip_prefix(NAME).expect("the name it begins with").split('.').collect();
    assert!(parts.len() >= 3 && parts[1..].iter().all(|part| !part.is_empty()), "{name}");
    assert!(name.len() <= 255);
    assert_eq!(arrived, Content::with(flags, Octets::new().shortstr("id").shortstr(&name), "question"));
}

#[test]
fn a_generated_name_looks_like_rabbitmqs() {
    let name = address(&mut requester());
    let secret = name.strip_prefix("amq.rabbitmq.reply-to.").and_then(|rest| rest.split_once('.'));
    let (opaque, secret) = secret.expect("amq.rabbitmq.reply-to.<opaque>.<secret>");
    // 16 octets in base64, with its padding: some clients' tests look at that.
    assert!(!opaque.is_empty() && secret.len() == 24 && secret.ends_with("=="), "{name}");
    assert!(name.len() <= 255);
}

#[test]
fn another_reply_to_stays_as_it_is() {
    let mut peer = peer();
    let queue = peer.queue(1, "service");
    let content = Content::with(REPLY_TO, Octets::new().shortstr("amq.rabbitmq.reply-to."), "x");
    peer.publish_content(1, say::publish("", &queue), &content);
    assert_eq!(peer.get(1, &queue).1, content);
}

#[test]
fn the_name_is_the_same_for_all_requests_of_a_consumer_and_no_other() {
    let mut peer = requester();
    let name = address(&mut peer);
    assert_eq!(address(&mut peer), name);
    assert_ne!(address(&mut requester()), name);
}

// The reply

#[test]
fn a_reply_from_any_connection_goes_straight_to_the_channel() {
    let mut peer = requester();
    let name = address(&mut peer);
    let mut replier = self::peer();
    let content = Content::with(CORRELATION_ID | 1 << 12, Octets::new().u8(2).shortstr("id"), "answer");
    replier.publish_content(1, say::publish("", &name), &content);
    let delivery = peer.expect_delivery(1);
    assert_eq!(
        (delivery.consumer_tag.as_str(), delivery.exchange.as_str(), delivery.routing_key.as_str()),
        ("replies", "", name.as_str())
    );
    assert!(!delivery.redelivered);
    assert_eq!(delivery.content, content);
}

#[test]
fn a_reply_takes_the_next_delivery_tag_of_the_channel_and_cannot_be_acked() {
    if differs_from_reference("a_reply_takes_the_next_delivery_tag_of_the_channel_and_cannot_be_acked") {
        return;
    }
    let mut peer = requester();
    // The request that was fetched had tag 1.
    let name = address(&mut peer);
    for tag in [2, 3] {
        peer.publish(1, "", &name, "reply");
        assert_eq!(peer.expect_delivery(1).delivery_tag, tag);
    }
    let queue = peer.queue(1, "ordinary");
    peer.publish(1, "", &queue, "x");
    assert_eq!(peer.get(1, &queue).0.delivery_tag, 4);
    peer.refused(1, say::ack(3), 406, "PRECONDITION_FAILED - unknown delivery tag 3");
}

#[test]
fn replies_come_in_the_order_of_their_publishes_and_large_ones_whole() {
    let mut peer = requester();
    let name = address(&mut peer);
    let mut replier = self::peer();
    let large = "x".repeat(300_000);
    let bodies = ["1", &large, "", "4"];
    replier.publish_all(1, &name, &bodies);
    peer.expect_deliveries(1, &bodies);
}

#[test]
fn a_mandatory_reply_is_routed_whether_the_requester_is_there_or_gone() {
    if differs_from_reference("a_mandatory_reply_is_routed_whether_the_requester_is_there_or_gone") {
        return;
    }
    let mut peer = requester();
    let name = address(&mut peer);
    let mut replier = self::peer();
    replier.publish_content(1, say::publish_mandatory("", &name), &Content::new("there"));
    peer.expect_deliveries(1, &["there"]);
    peer.close();
    replier.publish_content(1, say::publish_mandatory("", &name), &Content::new("gone"));
    // No basic.return.
    replier.in_step(1);
}

#[test]
fn a_reply_is_confirmed_whether_the_requester_is_there_or_gone() {
    let mut peer = requester();
    let name = address(&mut peer);
    let mut replier = self::peer();
    replier.select_confirms(1);
    replier.publish_content(1, say::publish("", &name), &Content::persistent("there"));
    replier.expect_confirms(1, 1);
    peer.expect_deliveries(1, &["there"]);
    peer.close_channel(1);
    replier.publish(1, "", &name, "gone");
    let ack: basic::Ack = replier.expect(1);
    assert_eq!(ack.delivery_tag, 2);
}

#[test]
fn a_publish_to_the_bare_name_is_unroutable() {
    let mut peer = requester();
    peer.publish_content(1, say::publish_mandatory("", NAME), &Content::new("x"));
    assert_eq!(peer.expect_return(1).0.routing_key.as_str(), NAME);
}

#[test]
fn another_exchange_does_not_know_the_name() {
    let mut peer = requester();
    let name = address(&mut peer);
    peer.publish_content(1, say::publish_mandatory("amq.direct", &name), &Content::new("x"));
    peer.expect_return(1);
}

#[test]
fn a_reply_in_a_transaction_goes_out_at_commit() {
    if differs_from_reference("a_reply_in_a_transaction_goes_out_at_commit") {
        return;
    }
    let mut peer = requester();
    let name = address(&mut peer);
    let mut replier = self::peer();
    replier.ask::<tx::SelectOk>(1, tx::Select {});
    replier.publish(1, "", &name, "rolled back");
    replier.ask::<tx::RollbackOk>(1, tx::Rollback {});
    replier.publish(1, "", &name, "committed");
    replier.in_step(1);
    peer.in_step(1);
    replier.ask::<tx::CommitOk>(1, tx::Commit {});
    peer.expect_deliveries(1, &["committed"]);
}

// The names as queues

#[test]
fn declaring_the_bare_name_says_one_consumer() {
    for mut peer in [peer(), requester()] {
        for declare in [say::declare(NAME), say::declare_passive(NAME)] {
            let ok: queue::DeclareOk = peer.ask(1, declare);
            assert_eq!((ok.queue.as_str(), ok.message_count, ok.consumer_count), (NAME, 0, 1));
        }
    }
}

#[test]
fn an_empty_queue_name_may_mean_the_bare_name() {
    let mut peer = peer();
    peer.ask::<queue::DeclareOk>(1, say::declare(NAME));
    let consume = say::consume_with("", "replies", |consume| consume.no_ack = true);
    peer.ask::<basic::ConsumeOk>(1, consume);
    let again = say::consume_with("", "again", |consume| consume.no_ack = true);
    peer.refused(1, again, 406, "PRECONDITION_FAILED - reply consumer already set");
}

#[test]
fn declaring_a_full_name_says_whether_the_requester_is_there() {
    let mut requester = requester();
    let name = address(&mut requester);
    let mut replier = peer();
    for declare in [say::declare(&name), say::declare_passive(&name)] {
        let ok: queue::DeclareOk = replier.ask(1, declare);
        assert_eq!((ok.queue.as_str(), ok.message_count, ok.consumer_count), (name.as_str(), 0, 1));
    }
    requester.cancel(1, "replies");
    replier.refused(1, say::declare_passive(&name), 404, &missing(&name));
    replier.open_channel(1);
    replier.refused(1, say::declare(&name), 404, &missing(&name));
}

#[test]
fn a_name_with_other_last_characters_is_404_and_its_message_lost() {
    let mut requester = requester();
    let name = address(&mut requester);
    let guessed = format!("{}xxxxx", &name[..name.len() - 5]);
    let mut replier = peer();
    replier.publish(1, "", &guessed, "never");
    replier.refused(1, say::declare_passive(&guessed), 404, &missing(&guessed));
    requester.in_step(1);
}

#[test]
fn a_name_that_was_never_made_is_404() {
    if differs_from_reference("a_name_that_was_never_made_is_404") {
        return;
    }
    let name = "amq.rabbitmq.reply-to.abc.def";
    peer().refused(1, say::declare_passive(name), 404, &missing(name));
    peer().refused(1, say::declare(name), 404, &missing(name));
}

#[test]
fn deleting_the_bare_name_deletes_nothing_and_purge_and_get_are_404() {
    let mut peer = requester();
    let ok: queue::DeleteOk = peer.ask(1, say::delete(NAME));
    assert_eq!(ok.message_count, 0);
    peer.refused(1, say::purge(NAME), 404, &missing(NAME));
    peer.open_channel(1);
    peer.refused(1, say::get(NAME), 404, &missing(NAME));
}

#[test]
fn binding_a_name_is_404() {
    let mut peer = requester();
    peer.refused(1, say::bind(NAME, "amq.direct", "k"), 404, &missing(NAME));
}

// Limits

#[test]
fn a_requester_that_does_not_read_holds_up_nobody_and_not_much_memory() {
    if Server::is_given() {
        return;
    }
    const REPLIES: u64 = 160;
    let server = Server::start_with(&["--storage", "memory"]);
    let mut deaf = server.peer();
    deaf.ask::<basic::ConsumeOk>(1, consume("replies"));
    let deaf_name = address(&mut deaf);
    let mut quick = server.peer();
    quick.ask::<basic::ConsumeOk>(1, consume("replies"));
    let quick_name = address(&mut quick);
    let mut replier = server.peer();
    replier.select_confirms(1);
    let before = server.resident_kib();
    for _ in 0..REPLIES {
        replier.publish(1, "", &deaf_name, vec![0; 1 << 20]);
    }
    replier.publish(1, "", &quick_name, "served");
    replier.expect_confirms(1, REPLIES + 1);
    quick.expect_deliveries(1, &["served"]);
    let grown = server.resident_kib().saturating_sub(before) / 1024;
    assert!(grown < 80, "{grown} MiB for replies that nobody reads, of {REPLIES}");
    // It has lost replies, nothing else.
    for _ in 0..30 {
        assert_eq!(deaf.expect_delivery(1).content.body.len(), 1 << 20);
    }
}
