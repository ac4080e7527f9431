use leveret_protocol::amq::FieldTable;

use super::*;
use crate::testing;
use crate::vhost::command::{BindingSpec, DestinationKind, ExchangeDeclare, QueueDeclare, TopologyCommand};

/// A virtual host and a connection's cache over it.
struct Bench {
    vhost: Arc<VHost>,
    routes: Routes,
    rights: Rights,
}

impl Bench {
    fn new() -> Bench {
        let vhost = testing::vhost(&testing::store());
        Bench { rights: testing::all_rights(&vhost.name), vhost, routes: Routes::default() }
    }

    fn declare_queue(&self, name: &str) {
        let declare = QueueDeclare {
            name: name.into(),
            passive: false,
            durable: false,
            exclusive: false,
            auto_delete: false,
            arguments: FieldTable::default(),
        };
        let from = testing::requester(&testing::peer(), 1);
        self.vhost.push(TopologyCommand::DeclareQueue { from, declare });
    }

    fn declare_exchange(&self, name: &str, kind: &str, internal: bool) {
        let declare = ExchangeDeclare {
            name: name.into(),
            kind: kind.into(),
            durable: false,
            auto_delete: false,
            internal,
            arguments: FieldTable::default(),
        };
        let from = testing::requester(&testing::peer(), 1);
        self.vhost.push(TopologyCommand::DeclareExchange { from, declare });
    }

    fn bind(&self, exchange: &str, key: &str, queue: &str) {
        let from = testing::requester(&testing::peer(), 1);
        let binding = binding(exchange, key, queue);
        self.vhost.push(TopologyCommand::Bind { from, binding });
    }

    fn unbind(&self, exchange: &str, key: &str, queue: &str) {
        let from = testing::requester(&testing::peer(), 1);
        let binding = binding(exchange, key, queue);
        self.vhost.push(TopologyCommand::Unbind { from, binding });
    }

    fn route(&mut self, exchange: &str, key: &str) -> Vec<String> {
        self.route_with(exchange, key, None).unwrap()
    }

    /// The names of the queues that a message with these headers reaches, sorted; or the reply text of the error.
    fn route_with(&mut self, exchange: &str, key: &str, headers: Option<&[u8]>) -> Result<Vec<String>, String> {
        let mut address = Vec::new();
        for part in [exchange, key] {
            address.push(part.len() as u8);
            address.extend_from_slice(part.as_bytes());
        }
        let publish = Publish {
            exchange: exchange.as_bytes(),
            routing_key: key.as_bytes(),
            mandatory: false,
            immediate: false,
            address: &address,
        };
        let properties =
            Properties { headers: headers.map(|entries| Table::parse(entries).unwrap()), ..Properties::default() };
        let route = self.find(&publish, &properties).map_err(|error| error.reply_text())?;
        let queues = self.routes.queues(route).iter();
        let mut names: Vec<String> = queues.map(|queue| queue.name.to_string()).collect();
        names.sort();
        Ok(names)
    }

    /// As a publish does: an exchange that does not exist is told before anything else.
    fn find(&mut self, publish: &Publish<'_>, properties: &Properties<'_>) -> Result<Route, AmqpError> {
        let known = self.routes.known(&self.vhost, &mut self.rights, publish)?;
        match (known, Copies::of(properties)?) {
            (Some(route), None) => Ok(route),
            (_, copies) => self.routes.look_up(&self.vhost, publish, properties, copies),
        }
    }
}

fn binding(exchange: &str, key: &str, queue: &str) -> BindingSpec {
    BindingSpec {
        source: exchange.into(),
        kind: DestinationKind::Queue,
        destination: queue.into(),
        key: key.as_bytes().into(),
        arguments: FieldTable::default(),
    }
}

/// A table entry: an array of long strings.
fn keys(name: &str, keys: &[&str]) -> Vec<u8> {
    let mut items = Vec::new();
    for key in keys {
        items.push(b'S');
        items.extend((key.len() as u32).to_be_bytes());
        items.extend(key.as_bytes());
    }
    entry(name, b'A', &items)
}

fn entry(name: &str, kind: u8, value: &[u8]) -> Vec<u8> {
    let mut entry = vec![name.len() as u8];
    entry.extend(name.as_bytes());
    entry.push(kind);
    if matches!(kind, b'A' | b'S') {
        entry.extend((value.len() as u32).to_be_bytes());
    }
    entry.extend(value);
    entry
}

const NONE: [&str; 0] = [];

#[test]
fn the_default_exchange_leads_to_the_queue_that_the_key_names() {
    let mut bench = Bench::new();
    bench.declare_queue("q");
    for _ in 0..2 {
        assert_eq!(bench.route("", "q"), ["q"]);
        assert_eq!(bench.route("", "other"), NONE);
    }
}

#[test]
fn a_remembered_route_is_forgotten_when_the_topology_changes() {
    let mut bench = Bench::new();
    bench.declare_exchange("x", "direct", false);
    bench.declare_queue("one");
    bench.declare_queue("two");
    assert_eq!(bench.route("x", "k"), NONE);
    bench.bind("x", "k", "one");
    assert_eq!(bench.route("x", "k"), ["one"]);
    bench.bind("x", "k", "two");
    assert_eq!(bench.route("x", "k"), ["one", "two"]);
    bench.unbind("x", "k", "one");
    assert_eq!(bench.route("x", "k"), ["two"]);
    let from = testing::requester(&testing::peer(), 1);
    bench.vhost.push(TopologyCommand::DeleteExchange { from, name: "x".into(), if_unused: false });
    let gone = "NOT_FOUND - no exchange 'x' in vhost '/'";
    assert_eq!(bench.route_with("x", "k", None), Err(gone.into()));
}

#[test]
fn two_addresses_with_the_same_octets_cut_differently_are_two() {
    let mut bench = Bench::new();
    for name in ["a", "ab"] {
        bench.declare_exchange(name, "direct", false);
    }
    for name in ["c", "bc"] {
        bench.declare_queue(name);
    }
    bench.bind("a", "bc", "bc");
    bench.bind("ab", "c", "c");
    for _ in 0..2 {
        assert_eq!(bench.route("a", "bc"), ["bc"]);
        assert_eq!(bench.route("ab", "c"), ["c"]);
    }
}

#[test]
fn more_addresses_than_are_remembered_are_routed_right() {
    let mut bench = Bench::new();
    bench.declare_exchange("x", "topic", false);
    bench.declare_queue("even");
    bench.bind("x", "even.*", "even");
    for round in 0..2 {
        for number in 0..CAPACITY / OVERHEAD + 100 {
            let even = number % 2 == 0;
            let key = format!("{}.{number}", if even { "even" } else { "odd" });
            let expected: &[&str] = if even { &["even"] } else { &[] };
            assert_eq!(bench.route("x", &key), expected, "{key}, round {round}");
            assert!(bench.routes.bytes <= CAPACITY);
            assert!(bench.routes.found.len() * OVERHEAD <= bench.routes.bytes);
        }
    }
}

#[test]
fn the_routes_of_ten_thousand_queues_are_remembered_together() {
    let mut bench = Bench::new();
    for number in 0..10_000 {
        let name = format!("a queue of some name, number {number}");
        bench.declare_queue(&name);
    }
    for number in 0..10_000 {
        let name = format!("a queue of some name, number {number}");
        assert_eq!(bench.route("", &name), [&*name]);
    }
    assert_eq!(bench.routes.found.len(), 10_000);
}

#[test]
fn an_internal_exchange_takes_no_publishes() {
    let mut bench = Bench::new();
    bench.declare_exchange("x", "fanout", true);
    let refused = "ACCESS_REFUSED - cannot publish to internal exchange 'x' in vhost '/'";
    assert_eq!(bench.route_with("x", "", None), Err(refused.into()));
}

#[test]
fn the_keys_in_cc_and_bcc_are_keys_too_and_each_queue_gets_one_copy() {
    let mut bench = Bench::new();
    for name in ["a", "b", "c"] {
        bench.declare_queue(name);
    }
    let headers = [keys("CC", &["b", "a", "b"]), keys("BCC", &["c", "nobody"])].concat();
    assert_eq!(bench.route_with("", "a", Some(&headers)), Ok(vec!["a".into(), "b".into(), "c".into()]));
    assert_eq!(bench.route("", "a"), ["a"], "it holds for that message only");
    let lower = keys("cc", &["b"]);
    assert_eq!(bench.route_with("", "a", Some(&lower)), Ok(vec!["a".into()]));
}

#[test]
fn what_is_no_long_string_in_cc_is_no_key() {
    let mut bench = Bench::new();
    bench.declare_queue("b");
    let number = [b'I', 0, 0, 0, 7];
    let text = [b'S', 0, 0, 0, 1, b'b'];
    let cc = entry("CC", b'A', &[&number[..], &text[..]].concat());
    assert_eq!(bench.route_with("", "a", Some(&cc)), Ok(vec!["b".into()]));
}

#[test]
fn cc_and_bcc_of_another_type_than_array_are_refused_once_the_exchange_is_known_to_exist() {
    let mut bench = Bench::new();
    for name in ["CC", "BCC"] {
        let headers = entry(name, b'I', &[0, 0, 0, 1]);
        let text =
            format!("PRECONDITION_FAILED - invalid message: {{unacceptable_type_in_header,\"{name}\",signedint}}");
        assert_eq!(bench.route_with("", "a", Some(&headers)), Err(text));
        let first = "NOT_FOUND - no exchange 'x' in vhost '/'";
        assert_eq!(bench.route_with("x", "a", Some(&headers)), Err(first.into()));
    }
}

#[test]
fn what_a_headers_exchange_answers_is_not_remembered() {
    let mut bench = Bench::new();
    bench.declare_exchange("x", "headers", false);
    bench.declare_queue("q");
    let mut only_red = binding("x", "", "q");
    only_red.arguments.insert("colour".into(), leveret_protocol::amq::AMQPValue::LongString("red".into()));
    let from = testing::requester(&testing::peer(), 1);
    let binding = only_red;
    bench.vhost.push(TopologyCommand::Bind { from, binding });
    let (red, blue) = (entry("colour", b'S', b"red"), entry("colour", b'S', b"blue"));
    for _ in 0..2 {
        assert_eq!(bench.route_with("x", "", Some(&red)), Ok(vec!["q".into()]));
        assert_eq!(bench.route_with("x", "", Some(&blue)), Ok(vec![]));
    }
}
