//! How long one message takes to route, and how long a binding takes while snapshots are alive, against the number
//! of bindings. `cargo bench -p leveret --bench routing`

use std::hint::black_box;
use std::time::{Duration, Instant};

use amq_protocol::types::{AMQPValue, FieldTable};
use leveret::exchange::{ExchangeType, Headers, Router};
use leveret_protocol::content::Properties;
use leveret_protocol::value::encode_table;

const SIZES: [usize; 3] = [10, 1_000, 100_000];

fn main() {
    println!("                          bindings   route ns   found     bind ns   unbind ns");
    for size in SIZES {
        report("direct", size, ExchangeType::Direct, direct_key, direct_key);
    }
    for size in SIZES {
        let key = |at| format!("stock.{}.exchange.{}", at % 300, at);
        report("topic, literal", size, ExchangeType::Topic, key, key);
    }
    for size in SIZES {
        report(
            "topic, one star",
            size,
            ExchangeType::Topic,
            |at| format!("stock.*.exchange.{at}"),
            |at| format!("stock.usd.exchange.{at}"),
        );
    }
    for size in SIZES {
        report(
            "topic, two hashes",
            size,
            ExchangeType::Topic,
            |at| format!("#.w{at}.#"),
            |at| format!("stock.usd.w{at}.exchange"),
        );
    }
    for size in SIZES {
        headers(size);
    }
}

fn direct_key(at: usize) -> String {
    format!("queue-{at}")
}

fn report(
    name: &str,
    size: usize,
    kind: ExchangeType,
    pattern: impl Fn(usize) -> String,
    key: impl Fn(usize) -> String,
) {
    let none = FieldTable::default();
    let mut router: Router<usize> = Router::new(kind);
    for at in 0..size {
        router.bind(pattern(at).as_bytes(), &none, at);
    }
    let keys: Vec<String> = (0..1_000).map(|n| key(n * 7_919 % size)).collect();
    let mut found = 0;
    let route = per_step(keys.len(), || {
        for key in &keys {
            router.route(&[black_box(key.as_bytes())], &Properties::default(), &mut |_| found += 1);
        }
    });
    let matches = count(&router, keys[0].as_bytes(), None);
    let (bind, unbind) = changes(&mut router, |n| (pattern(size + n), none.clone()));
    print(name, size, route, matches, bind, unbind);
    black_box(found);
}

/// Bindings on two headers each, one of which all share.
fn headers(size: usize) {
    let arguments = |at: usize| {
        let mut table = FieldTable::default();
        table.insert("format".into(), AMQPValue::LongString("pdf".into()));
        table.insert("customer".into(), AMQPValue::LongLongInt(at as i64));
        table
    };
    let mut router: Router<usize> = Router::new(ExchangeType::Headers);
    for at in 0..size {
        router.bind(b"", &arguments(at), at);
    }
    let messages: Vec<Vec<u8>> = (0..1_000).map(|n| encode_table(&arguments(n * 7_919 % size)).split_off(4)).collect();
    let parsed: Vec<Headers<'_>> = messages.iter().filter_map(|bytes| Headers::parse(bytes).ok()).collect();
    let mut found = 0;
    let route = per_step(parsed.len(), || {
        for headers in &parsed {
            router.route(&[b""], &with(Some(black_box(*headers))), &mut |_| found += 1);
        }
    });
    let matches = count(&router, b"", Some(parsed[0]));
    let (bind, unbind) = changes(&mut router, |n| (String::new(), arguments(size + n)));
    print("headers, two of two", size, route, matches, bind, unbind);
    black_box(found);
}

fn count(router: &Router<usize>, key: &[u8], headers: Option<Headers<'_>>) -> usize {
    let mut found = 0;
    router.route(&[key], &with(headers), &mut |_| found += 1);
    found
}

/// Binds and unbinds with a snapshot taken before each step, as the owner of a virtual host publishes them.
fn changes(router: &mut Router<usize>, binding: impl Fn(usize) -> (String, FieldTable)) -> (f64, f64) {
    const STEPS: usize = 1_000;
    let new: Vec<(String, FieldTable)> = (0..STEPS).map(binding).collect();
    let mut snapshot = router.clone();
    let start = Instant::now();
    for (key, arguments) in &new {
        router.bind(key.as_bytes(), arguments, usize::MAX);
        snapshot = router.clone();
    }
    let bind = start.elapsed();
    let start = Instant::now();
    for (key, arguments) in &new {
        router.unbind(key.as_bytes(), arguments, &usize::MAX);
        snapshot = router.clone();
    }
    let unbind = start.elapsed();
    black_box(&snapshot);
    (nanos(bind, STEPS), nanos(unbind, STEPS))
}

/// Nanoseconds of one of `steps`, in the best of the rounds that fit in a quarter of a second.
fn per_step(steps: usize, mut round: impl FnMut()) -> f64 {
    let mut best = Duration::MAX;
    let start = Instant::now();
    while start.elapsed() < Duration::from_millis(250) {
        let one = Instant::now();
        round();
        best = best.min(one.elapsed());
    }
    nanos(best, steps)
}

fn nanos(time: Duration, steps: usize) -> f64 {
    time.as_secs_f64() * 1e9 / steps as f64
}

fn print(name: &str, size: usize, route: f64, found: usize, bind: f64, unbind: f64) {
    println!("{name:24} {size:9}  {route:9.0}  {found:6}   {bind:9.0}   {unbind:9.0}");
}

fn with(headers: Option<Headers<'_>>) -> Properties<'_> {
    Properties { headers, ..Default::default() }
}
