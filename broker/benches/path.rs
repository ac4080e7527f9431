//! What a message costs on its whole way through the broker: codec, routing, queue, encoding, in one process, with a
//! client that waits for each round to come back before it sends the next. So a run does the same every time.
//!
//! `cargo bench -p leveret --bench path` prints nanoseconds per message, kernel and client included.
//! `benches/instructions` runs one case at a time under callgrind, which counts the broker's instructions only.

#[path = "path/client.rs"]
mod client;

use std::env;
use std::hint::black_box;
use std::io;
use std::time::Instant;

use client::Client;

/// Messages of a round: few enough to be one segment on the loopback.
const BATCH: u64 = 100;

/// What is there, and what a round does.
#[derive(Clone, Copy)]
struct Case {
    name: &'static str,
    /// Queues declared besides those that are used.
    idle_queues: usize,
    /// Queues that messages go to in turn.
    queues: usize,
    /// Bindings of an exchange, of which each message matches one; 0: the default exchange.
    bindings: usize,
    /// That exchange is a direct one, else a topic exchange.
    direct: bool,
    /// Routing keys in turn, if there are bindings.
    keys: usize,
    /// Messages ready all the time.
    ready: u64,
    /// Messages unacked all the time.
    unacked: u64,
    /// Of these, the newest are acked, and not the oldest.
    newest: bool,
    /// No acks.
    auto: bool,
    /// Bytes.
    body: usize,
    /// Publisher confirms.
    confirms: bool,
    /// Each message comes back before the next one is sent.
    alone: bool,
    /// No messages: a round declares and binds a hundred queues more, each under a key of its own, as the idle ones are.
    declares: bool,
}

const PLAIN: Case = Case {
    name: "auto-ack 16 B",
    idle_queues: 0,
    queues: 1,
    bindings: 0,
    direct: false,
    keys: 1,
    ready: 0,
    unacked: 0,
    newest: false,
    auto: true,
    body: 16,
    confirms: false,
    alone: false,
    declares: false,
};
const ACKED: Case = Case { name: "ack every one", auto: false, ..PLAIN };

/// More routing keys in turn than a connection remembers the routes of.
const FORGOTTEN: usize = 30_000;

const DECLARING: Case = Case { declares: true, bindings: 10, ..PLAIN };

const CASES: [Case; 24] = [
    PLAIN,
    Case { name: "auto-ack 1 KiB", body: 1024, ..PLAIN },
    ACKED,
    Case { name: "confirms", confirms: true, ..PLAIN },
    Case { name: "one at a time", alone: true, ..PLAIN },
    Case { name: "queues 10000", idle_queues: 9_999, ..PLAIN },
    Case { name: "queues in turn 100", queues: 100, ..PLAIN },
    Case { name: "queues in turn 1000", queues: 1_000, ..PLAIN },
    Case { name: "queues in turn 10000", queues: 10_000, ..PLAIN },
    Case { name: "bindings 10", bindings: 10, keys: 10, ..PLAIN },
    Case { name: "bindings 1000", bindings: 1_000, keys: 10, ..PLAIN },
    Case { name: "bindings 100000", bindings: 100_000, keys: 10, ..PLAIN },
    Case { name: "bindings 10 keys 30000", bindings: 10, keys: FORGOTTEN, ..PLAIN },
    Case { name: "bindings 100000 keys 30000", bindings: 100_000, keys: FORGOTTEN, ..PLAIN },
    Case { name: "direct bindings 10", bindings: 10, direct: true, keys: 10, ..PLAIN },
    Case { name: "direct bindings 100000", bindings: 100_000, direct: true, keys: 10, ..PLAIN },
    Case { name: "ready 0", ..ACKED },
    Case { name: "ready 1000000", ready: 1_000_000, ..ACKED },
    Case { name: "unacked 1", unacked: 1, ..ACKED },
    Case { name: "unacked 1000", unacked: 1_000, ..ACKED },
    Case { name: "unacked 1 newest", unacked: 1, newest: true, ..ACKED },
    Case { name: "unacked 1000 newest", unacked: 1_000, newest: true, ..ACKED },
    Case { name: "declare and bind at 100", idle_queues: 100, ..DECLARING },
    Case { name: "declare and bind at 100000", idle_queues: 100_000, ..DECLARING },
];

fn main() {
    let arguments: Vec<String> = env::args().skip(1).filter(|argument| argument != "--bench").collect();
    let measured = env::args().any(|argument| argument == "--bench");
    match &arguments[..] {
        [list] if list == "--list" => CASES.iter().for_each(|case| println!("{}", case.name)),
        // For callgrind: a case, and how many rounds.
        [name, rounds] => {
            let case = CASES.iter().find(|case| case.name == name).expect("a case that --list names");
            let rounds = rounds.parse().expect("a number of rounds");
            with_broker(|mut client| {
                let mut round = prepare(case, &mut client);
                // Twice round the queues and keys: caches are then as they will stay.
                let warm_up = 2 * (case.queues.max(case.keys) as u64).div_ceil(BATCH) + 2;
                (0..warm_up).for_each(|_| round(&mut client));
                pause("prepared");
                counted(&mut round, &mut client, rounds);
                pause("counted");
            });
        }
        [] => {
            for case in &CASES {
                with_broker(|mut client| time(case, &mut client, measured));
            }
        }
        _ => panic!("[CASE ROUNDS]"),
    }
}

/// Says how far it is, and goes on after a line on standard input: callgrind is switched on and off meanwhile.
fn pause(stage: &str) {
    println!("{stage}");
    io::stdin().read_line(&mut String::new()).expect("a standard input");
}

/// Whatever is counted happens in here.
#[inline(never)]
fn counted(round: &mut impl FnMut(&mut Client), client: &mut Client, rounds: u64) {
    for _ in 0..rounds {
        round(client);
    }
    black_box(client);
}

/// A broker in memory with one worker thread, and a client.
fn with_broker(work: impl FnOnce(Client)) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
    let runtime = runtime.expect("a runtime");
    let broker = runtime.block_on(leveret::Broker::start(leveret::Config::in_memory())).expect("a broker");
    work(Client::connect(broker.addresses()[0]));
    runtime.block_on(broker.shutdown()).expect("a clean end");
}

/// Declares what the case wants and returns its round.
fn prepare(case: &Case, client: &mut Client) -> impl FnMut(&mut Client) + use<> {
    let case = *case;
    let mut idle = 0;
    let mut declare_idle = move |client: &mut Client, exchange: &str, count: usize| {
        for n in idle..idle + count {
            client.declare(&format!("idle-{n}"));
            if case.declares {
                client.bind(&format!("idle-{n}"), exchange, &format!("idle.*.k{n}"));
            }
        }
        idle += count;
        client.synchronize();
    };
    (0..case.queues).for_each(|n| client.declare(&format!("queue-{n}")));
    client.synchronize();
    let (exchange, word) = match (case.bindings, case.direct) {
        (0, _) => ("", ""),
        (_, true) => ("direct", "usd"),
        (_, false) => ("topic", "*"),
    };
    if case.bindings > 0 {
        client.exchange(exchange);
        (0..case.bindings).for_each(|n| client.bind("queue-0", exchange, &format!("stock.{word}.k{n}")));
        client.synchronize();
    }
    declare_idle(client, exchange, case.idle_queues);
    // Ten of the bindings are used; keys beyond that differ in the word that matches any.
    let key = |n: usize| match n {
        0..10 => format!("stock.usd.k{}", n * (case.bindings / 10)),
        _ => format!("stock.usd{n}.k{}", n % 10 * (case.bindings / 10)),
    };
    let keys: Vec<String> = match case.bindings {
        0 => (0..case.queues).map(|n| format!("queue-{n}")).collect(),
        _ => (0..case.keys).map(key).collect(),
    };
    if case.confirms {
        client.select_confirms();
    }
    let mut published = 0;
    let mut publish = move |client: &mut Client, count: u64| {
        for _ in 0..count {
            client.publish(exchange, &keys[published % keys.len()], case.body);
            published += 1;
        }
    };
    // Before there is a consumer, so that they pile up.
    for _ in 0..case.ready / BATCH {
        publish(client, BATCH);
        client.synchronize();
    }
    // With messages behind, only what is acked makes room for more.
    let window = if case.ready > 0 { BATCH } else { 0 };
    client.prefetch(window as u16);
    (0..case.queues).for_each(|n| client.consume(&format!("queue-{n}"), case.auto));
    client.synchronize();
    if case.ready > 0 {
        client.receive(BATCH);
    }
    if case.unacked > 0 {
        publish(client, case.unacked);
        client.send();
        client.receive(case.unacked);
    }
    move |client| {
        if case.declares {
            return declare_idle(client, exchange, BATCH as usize);
        }
        if case.alone {
            for _ in 0..BATCH {
                publish(client, 1);
                client.send();
                client.receive(1);
            }
            return;
        }
        publish(client, BATCH);
        let confirms = if case.confirms { BATCH } else { 0 };
        match (case.auto, case.ready > 0) {
            (true, _) => {
                client.send();
                client.receive(BATCH);
                client.receive_confirms(confirms);
            }
            // What is acked makes room for as many.
            (false, true) => {
                client.ack_oldest(BATCH);
                client.send();
                client.receive(BATCH);
            }
            (false, false) => {
                client.send();
                client.receive(BATCH);
                if case.newest { client.ack_newest(BATCH) } else { client.ack_oldest(BATCH) }
            }
        }
    }
}

/// Prints the best of some stretches of rounds, which is the one that was disturbed least.
fn time(case: &Case, client: &mut Client, measured: bool) {
    let case = if measured { *case } else { Case { ready: case.ready.min(1_000), idle_queues: 10, ..*case } };
    let mut round = prepare(&case, client);
    let (stretches, rounds) = match (measured, case.declares) {
        (true, false) => (10, 100),
        // Few, since what it is compared with grows by each.
        (true, true) => (10, 5),
        (false, _) => (1, 2),
    };
    let mut best = f64::MAX;
    for _ in 0..stretches {
        let start = Instant::now();
        (0..rounds).for_each(|_| round(client));
        best = best.min(start.elapsed().as_secs_f64() * 1e9 / (rounds * BATCH) as f64);
    }
    println!("{:28} {best:8.0} ns a {}", case.name, if case.declares { "queue" } else { "message" });
}
