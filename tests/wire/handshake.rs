//! From the protocol header to open-ok.

use amq_protocol::protocol::connection;
use amq_protocol::types::{AMQPValue, FieldTable};
use leveret_suite::peer::{HEARTBEAT, Heard, PROTOCOL_HEADER, kind, open, tune_ok};
use leveret_suite::{Login, Octets, Peer, Server, differs_from_reference, say, unique};
use std::time::{Duration, Instant};

const REFUSED: &str = "ACCESS_REFUSED - Login was refused using authentication mechanism PLAIN. \
                       For details see the broker logfile.";

/// Sends 8 octets as the first thing, and reads all that comes back until the socket is closed.
fn answer_to_header(header: &[u8]) -> Vec<u8> {
    let mut peer = Peer::connect(Server::start().address());
    peer.send_octets(header);
    peer.read_to_end()
}

/// A peer that has just sent its protocol header, and the broker's connection.start.
fn started() -> (Peer, connection::Start) {
    let mut peer = Peer::connect(Server::start().address());
    peer.send_octets(PROTOCOL_HEADER);
    let start = peer.expect(0);
    (peer, start)
}

/// A peer that has answered with tune-ok.
fn tuned() -> Peer {
    let mut peer = Peer::connect(Server::start().address());
    let login = Login::default();
    peer.handshake_until_tune(&login);
    peer.send(0, tune_ok(&login));
    peer
}

#[test]
fn octets_that_are_no_frames_after_tune_ok_hold_up_nobody_else() {
    let mut peer = tuned();
    for _ in 0..3 {
        peer.send_octets([0; 8]);
    }
    peer.expect_connection_close_frame(
        501,
        "FRAME_ERROR - type 0, all octets = <<>>: {invalid_frame_end_marker,0}",
        (0, 0),
    );
    peer.send_octets([0; 8]);
    let mut other = Server::start().peer();
    other.in_step(1);
}

#[test]
fn the_header_of_0_9_1_is_answered_with_connection_start() {
    let (_, start) = started();
    assert_eq!((start.version_major, start.version_minor), (0, 9));
}

#[test]
fn the_header_of_0_9_is_treated_as_0_9_1() {
    let mut peer = Peer::connect(Server::start().address());
    peer.send_octets(b"AMQP\x01\x01\x00\x09");
    peer.expect::<connection::Start>(0);
}

#[test]
fn another_version_gets_eight_octets_and_the_end() {
    let versions: [&[u8; 8]; 3] = [b"AMQP\x00\x00\x64\x03", b"AMQP\x01\x01\x00\x0a", b"AMQP\x00\x00\x09\x02"];
    for header in versions {
        assert_eq!(answer_to_header(header), PROTOCOL_HEADER, "{}", header.escape_ascii());
    }
}

#[test]
fn amqp_0_8_gets_eight_octets_and_the_end() {
    if differs_from_reference("amqp_0_8_gets_eight_octets_and_the_end") {
        return;
    }
    assert_eq!(answer_to_header(b"AMQP\x01\x01\x08\x00"), PROTOCOL_HEADER);
}

#[test]
fn amqp_1_0_gets_eight_octets_and_the_end() {
    assert_eq!(answer_to_header(b"AMQP\x03\x01\x00\x00"), PROTOCOL_HEADER);
    assert_eq!(answer_to_header(b"AMQP\x00\x01\x00\x00"), PROTOCOL_HEADER);
}

#[test]
fn anything_but_amqp_gets_eight_octets_and_the_end() {
    assert_eq!(answer_to_header(b"GET / HT"), PROTOCOL_HEADER);
    assert_eq!(answer_to_header(b"\x16\x03\x01\x02\x00\x01\x00\x01"), PROTOCOL_HEADER);
}

#[test]
fn a_header_may_come_octet_by_octet() {
    let mut peer = Peer::connect(Server::start().address());
    for octet in PROTOCOL_HEADER {
        peer.send_octets([*octet]);
    }
    peer.expect::<connection::Start>(0);
}

#[test]
fn closing_without_a_word_does_no_harm() {
    let mut probe = Peer::connect(Server::start().address());
    probe.say_no_more();
    probe.expect_end();
    Server::start().peer().close();
}

#[test]
fn start_offers_plain_first_and_amqplain() {
    if differs_from_reference("start_offers_plain_first_and_amqplain") {
        return;
    }
    let (_, start) = started();
    assert_eq!(start.mechanisms.as_bytes(), b"PLAIN AMQPLAIN");
}

#[test]
fn the_locale_is_en_us() {
    let (_, start) = started();
    assert_eq!(start.locales.as_bytes(), b"en_US");
}

#[test]
fn server_properties_name_a_rabbitmq_of_the_4_2_line() {
    if differs_from_reference("server_properties_name_a_rabbitmq_of_the_4_2_line") {
        return;
    }
    let (_, start) = started();
    assert_eq!(text(&start.server_properties, "product"), "RabbitMQ");
    assert!(text(&start.server_properties, "version").starts_with("4.2."));
}

#[test]
fn server_properties_hold_the_six_texts() {
    let (_, start) = started();
    for name in ["product", "version", "platform", "copyright", "information", "cluster_name"] {
        assert!(!text(&start.server_properties, name).is_empty(), "{name}");
    }
}

#[test]
fn the_capabilities_that_work_are_announced_as_true() {
    let (_, start) = started();
    let Some(AMQPValue::FieldTable(capabilities)) = start.server_properties.inner().get("capabilities") else {
        panic!("no table of capabilities in {:?}", start.server_properties);
    };
    for name in [
        "publisher_confirms",
        "exchange_exchange_bindings",
        "basic.nack",
        "consumer_cancel_notify",
        "connection.blocked",
        "authentication_failure_close",
        "per_consumer_qos",
        "direct_reply_to",
    ] {
        assert_eq!(capabilities.inner().get(name), Some(&AMQPValue::Boolean(true)), "{name}");
    }
}

fn text(table: &FieldTable, name: &str) -> String {
    match table.inner().get(name) {
        Some(AMQPValue::LongString(text)) => text.to_string(),
        other => panic!("{name} is {other:?}, not a longstr"),
    }
}

#[test]
fn tune_offers_2047_channels_128_kib_frames_and_60_seconds() {
    let mut peer = Peer::connect(Server::start().address());
    let tune = peer.handshake_until_tune(&Login::default());
    assert_eq!((tune.channel_max, tune.frame_max, tune.heartbeat), (2047, 131_072, 60));
}

#[test]
fn plain_is_nul_user_nul_password() {
    Server::start().peer().close();
}

#[test]
fn amqplain_is_a_table_without_its_length() {
    let entries = Octets::new().entry_str("LOGIN", "guest").entry_str("PASSWORD", "guest");
    let (mut peer, _) = started();
    peer.send_payload(0, Login::default().start_ok_with("AMQPLAIN", entries));
    peer.expect::<connection::Tune>(0);
}

#[test]
fn start_ok_may_have_an_empty_table_and_any_locale() {
    let (mut peer, _) = started();
    let start_ok = Octets::method(10, 11).longstr("").shortstr("PLAIN").longstr("\0guest\0guest").shortstr("tlh_KL");
    peer.send_payload(0, start_ok);
    peer.expect::<connection::Tune>(0);
}

#[test]
fn a_refused_login_is_told_403_to_clients_that_know_it() {
    let long = "p".repeat(300);
    for (user, password) in [("guest", "wrong"), ("nobody", "guest"), ("", "guest"), ("guest", ""), ("guest", &long)] {
        let (mut peer, _) = started();
        peer.send_payload(0, Login { user, password, ..Login::default() }.start_ok());
        peer.expect_connection_close_frame(403, REFUSED, (0, 0));
        peer.send(0, connection::CloseOk {});
        peer.expect_end();
    }
}

#[test]
fn a_refused_amqplain_login_names_amqplain() {
    let entries = Octets::new().entry_str("LOGIN", "guest").entry_str("PASSWORD", "wrong");
    let (mut peer, _) = started();
    peer.send_payload(0, Login::default().start_ok_with("AMQPLAIN", entries));
    peer.expect_connection_close_frame(403, &REFUSED.replace("PLAIN", "AMQPLAIN"), (0, 0));
}

#[test]
fn a_refused_client_that_never_says_close_ok_is_dropped() {
    let (mut peer, _) = started();
    peer.send_payload(0, Login { password: "wrong", ..Login::default() }.start_ok());
    peer.expect_connection_close_frame(403, REFUSED, (0, 0));
    let took = peer.expect_end();
    assert!(took < Duration::from_secs(6), "3 s at the latest, not {took:?}");
}

#[test]
fn a_refused_login_without_the_capability_is_dropped_without_a_word() {
    let (mut peer, _) = started();
    peer.send_payload(0, Login { password: "wrong", capabilities: &[], ..Login::default() }.start_ok());
    peer.expect_end();
}

#[test]
fn an_unknown_mechanism_is_not_accepted() {
    for mechanism in ["plain", "", "EXTERNAL"] {
        let (mut peer, _) = started();
        peer.send_payload(0, Login::default().start_ok_with(mechanism, "\0guest\0guest"));
        expect_no_login(&mut peer);
    }
}

#[test]
fn a_malformed_plain_response_is_not_accepted() {
    for response in ["", "guest", "guest\0guest", "x\0guest\0guest", "\0guest", "\0guest\0guest\0"] {
        let (mut peer, _) = started();
        peer.send_payload(0, Login::default().start_ok_with("PLAIN", response));
        expect_no_login(&mut peer);
    }
}

#[test]
fn a_malformed_amqplain_response_is_not_accepted() {
    let whole = Octets::new().entry_str("LOGIN", "guest").entry_str("PASSWORD", "guest");
    let no_password = Octets::new().entry_str("LOGIN", "guest");
    let number = Octets::new().entry_str("LOGIN", "guest").entry("PASSWORD", b'I', [0, 0, 0, 1]);
    for response in [Octets::new().longstr(whole), no_password, number, Octets::new().bytes("guest")] {
        let (mut peer, _) = started();
        peer.send_payload(0, Login::default().start_ok_with("AMQPLAIN", response));
        expect_no_login(&mut peer);
    }
}

/// The socket is dropped; a connection.close before that is tolerated by clients.
fn expect_no_login(peer: &mut Peer) {
    match peer.hear(Duration::from_secs(10)) {
        Heard::End => {}
        Heard::Frame(frame) => {
            let payload = frame.payload;
            assert_eq!(payload[..4], [0, 10, 0, 50], "connection.close or nothing");
            peer.expect_end();
        }
        Heard::Silence => panic!("the socket is still open"),
    }
}

#[test]
fn a_start_ok_above_8_kib_is_not_accepted() {
    let (mut peer, _) = started();
    let start_ok = Login::default().start_ok_with("PLAIN", vec![b'x'; 9000]);
    peer.send_payload(0, start_ok);
    expect_no_login(&mut peer);
}

#[test]
fn a_frame_max_below_the_minimum_is_refused() {
    refuse_tune(Login { frame_max: 100, ..Login::default() });
}

#[test]
fn a_frame_max_above_the_offer_is_refused() {
    refuse_tune(Login { frame_max: 131_073, ..Login::default() });
}

#[test]
fn a_frame_max_of_0_is_refused_when_a_limit_was_offered() {
    refuse_tune(Login { frame_max: 0, ..Login::default() });
}

#[test]
fn a_channel_max_above_the_offer_is_refused() {
    refuse_tune(Login { channel_max: 2048, ..Login::default() });
}

#[test]
fn a_channel_max_of_0_is_refused_when_a_limit_was_offered() {
    refuse_tune(Login { channel_max: 0, ..Login::default() });
}

/// RabbitMQ drops the socket after 3 s; a 530 before that is fine.
fn refuse_tune(login: Login) {
    let mut peer = Peer::connect(Server::start().address());
    peer.handshake_until_tune(&login);
    peer.send(0, tune_ok(&login));
    match peer.hear(Duration::from_secs(10)) {
        Heard::End => {}
        Heard::Frame(frame) => {
            assert_eq!(frame.payload[..6], [0, 10, 0, 50, 2, 18], "530 or nothing");
            peer.send(0, connection::CloseOk {});
            peer.expect_end();
        }
        Heard::Silence => panic!("the socket is still open"),
    }
}

#[test]
fn a_frame_max_of_4096_is_accepted() {
    let login = Login { frame_max: 4096, ..Login::default() };
    let mut peer = Server::start().peer_with(&login);
    peer.open_channel(1);
    peer.close();
}

#[test]
fn bodies_are_split_to_the_frame_max_of_the_client() {
    let mut peer = Server::start().peer_with(&Login { frame_max: 4096, ..Login::default() });
    peer.open_channel(1);
    let queue = peer.queue(1, "small-frames");
    let body = vec![b'b'; 10_000];
    peer.send(1, say::publish("", &queue));
    peer.send_frame(leveret_suite::Frame::new(kind::HEADER, 1, Octets::header(10_000, 0)));
    for piece in body.chunks(4000) {
        peer.send_frame(leveret_suite::Frame::new(kind::BODY, 1, piece));
    }
    peer.in_step(1);
    peer.send(1, say::get(&queue));
    peer.expect::<amq_protocol::protocol::basic::GetOk>(1);
    let (content, pieces) = peer.expect_content_in_pieces(1);
    assert_eq!(content.body, body);
    assert!(pieces.iter().all(|piece| *piece <= 4088), "{pieces:?}");
}

#[test]
fn a_vhost_that_is_not_there_is_530() {
    let vhost = unique("vhost");
    tuned().fails(0, open(&vhost), 530, &format!("NOT_ALLOWED - vhost {vhost} not found"));
}

#[test]
fn open_ok_has_empty_known_hosts() {
    let mut peer = tuned();
    peer.send(0, open("/"));
    assert_eq!(peer.expect_frame(kind::METHOD, 0), [0, 10, 0, 41, 0]);
}

#[test]
fn capabilities_and_insist_of_open_are_ignored() {
    let mut peer = tuned();
    peer.send_payload(0, Octets::method(10, 40).shortstr("/").shortstr("capabilities").u8(1));
    peer.expect::<connection::OpenOk>(0);
}

#[test]
fn a_wrong_connection_method_after_tune_ok_is_504() {
    let mut peer = tuned();
    peer.fails(0, tune_ok(&Login::default()), 504, "CHANNEL_ERROR - unexpected method in connection state opening");
}

#[test]
fn a_wrong_connection_method_before_tune_ok_is_dropped() {
    let (mut peer, _) = started();
    peer.send(0, open("/"));
    peer.expect_end();
}

#[test]
fn a_frame_on_another_channel_after_tune_ok_is_505() {
    let mut peer = tuned();
    peer.send_payload(1, Octets::method(20, 10).shortstr(""));
    let text = "UNEXPECTED_FRAME - type 1, all octets = <<0,20,0,10,0>>";
    peer.expect_connection_close(505, text, (0, 0));
}

#[test]
fn a_frame_on_another_channel_before_tune_ok_is_dropped() {
    let (mut peer, _) = started();
    peer.send_payload(1, Octets::method(20, 10).shortstr(""));
    peer.expect_end();
}

#[test]
fn a_handshake_that_stalls_is_dropped_after_10_seconds() {
    let start = Instant::now();
    let mut silent = Peer::connect(Server::start().address());
    let (mut polite, _) = started();
    for peer in [&mut silent, &mut polite] {
        peer.read_to_end();
        let took = start.elapsed();
        assert!(took > Duration::from_secs(9) && took < Duration::from_secs(15), "after {took:?}");
    }
}

#[test]
fn a_client_that_sends_heartbeats_stays_and_one_that_stops_is_dropped_within_three_intervals() {
    let mut peer = Server::start().peer_with(&Login { heartbeat: 1, ..Login::default() });
    let start = Instant::now();
    let mut heard = 0;
    while start.elapsed() < Duration::from_millis(3100) {
        peer.send_octets(HEARTBEAT);
        match peer.hear(Duration::from_millis(400)) {
            Heard::Frame(frame) => {
                assert_eq!((frame.kind, frame.channel, frame.payload.len()), (kind::HEARTBEAT, 0, 0));
                heard += 1;
            }
            Heard::Silence => {}
            Heard::End => panic!("dropped after {:?} although it sent heartbeats", start.elapsed()),
        }
    }
    assert!(heard >= 2, "heartbeats of the broker's own in 3 s: {heard}");
    let start = Instant::now();
    while let Heard::Frame(frame) = peer.hear(Duration::from_secs(10)) {
        assert_eq!(frame.kind, kind::HEARTBEAT, "nothing but heartbeats before the end: {frame:?}");
    }
    let took = start.elapsed();
    assert!(took > Duration::from_millis(1500) && took < Duration::from_millis(3800), "dropped after {took:?}");
}

#[test]
fn any_traffic_counts_as_a_heartbeat() {
    let mut peer = Server::start().peer_with(&Login { heartbeat: 1, ..Login::default() });
    peer.open_channel(1);
    let queue = peer.queue(1, "lively");
    let start = Instant::now();
    while start.elapsed() < Duration::from_millis(3500) {
        peer.publish(1, "", &queue, "still here");
        if let Heard::End = peer.hear(Duration::from_millis(300)) {
            panic!("dropped after {:?} although it published", start.elapsed());
        }
    }
}

#[test]
fn a_heartbeat_of_0_means_none_in_either_direction() {
    let mut peer = Server::start().peer_with(&Login { heartbeat: 0, ..Login::default() });
    peer.expect_silence(Duration::from_secs(4));
    peer.open_channel(1);
}
