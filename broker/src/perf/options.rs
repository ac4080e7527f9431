//! The options of `leveret perf`, and the plan of a run that they make.

use std::time::Duration;

use clap::{Args, ValueEnum};
use leveret_protocol::amq::{AMQPValue, FieldTable, LongString, short};

use super::check::{MARK, Place};
use super::error::OptionsError;
use super::url::Url;

/// Messages that may be under way in an unpaced run with consumers, as long as their bodies fit [`BACKLOG_BYTES`].
const BACKLOG: u64 = 20_000;
const BACKLOG_BYTES: u64 = 64 << 20;
/// The prefetch of consumers that ack, unless one is given.
const PREFETCH: u16 = 200;

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Scenario {
    /// As fast as it goes: messages a second through queues with consumers
    Throughput,
    /// At a fixed rate: time from when a message should have been sent to when it comes
    Latency,
    /// Time from publish to confirm, with a number of them outstanding
    Confirms,
    /// One fanout exchange; every queue gets every message
    Fanout,
}

impl Scenario {
    pub fn name(self) -> &'static str {
        match self {
            Scenario::Throughput => "throughput",
            Scenario::Latency => "latency",
            Scenario::Confirms => "confirms",
            Scenario::Fanout => "fanout",
        }
    }
}

#[derive(Args, Debug)]
pub struct Options {
    /// What is measured
    #[arg(value_enum, default_value_t = Scenario::Throughput)]
    scenario: Scenario,
    /// The broker: amqp://user:password@host:port/vhost
    #[arg(long, default_value = "amqp://guest:guest@127.0.0.1:5672")]
    url: Url,
    /// Connections that publish
    #[arg(short = 'P', long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..))]
    producers: u16,
    /// Connections that consume [default: one for each queue]
    #[arg(short = 'C', long, value_name = "N")]
    consumers: Option<u16>,
    /// Queues, shared out among producers and consumers [default: 1; fanout: 10]
    #[arg(short = 'Q', long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    queues: Option<u16>,
    /// Bytes of a body, at least 16, where its mark is
    #[arg(long, value_name = "BYTES", default_value_t = MARK as u32,
          value_parser = clap::value_parser!(u32).range(MARK as i64..=128 << 20))]
    size: u32,
    /// Unacked messages that a consumer with --ack may have, 0 for any number [default: 200 with acks]
    #[arg(long, value_name = "N")]
    prefetch: Option<u16>,
    /// auto (the broker expects no acks), every (an ack for each message), or N (one ack for N messages)
    #[arg(long, value_name = "auto|every|N", default_value = "auto", value_parser = ack)]
    ack: Ack,
    /// Persistent messages (delivery mode 2)
    #[arg(long)]
    persistent: bool,
    /// Durable queues (and exchange)
    #[arg(long)]
    durable: bool,
    /// Argument of the queues, such as x-queue-type=quorum; may be repeated
    #[arg(long, value_name = "KEY=VALUE", value_parser = queue_argument)]
    queue_arg: Vec<(String, AMQPValue)>,
    /// Publisher confirms, with so many outstanding for each producer; 0 for none [default: 0; confirms: 1]
    #[arg(long, value_name = "WINDOW", value_parser = clap::value_parser!(u32).range(..=1 << 20))]
    confirm: Option<u32>,
    /// Messages a second of all producers together; 0 for as fast as it goes [default: 0; latency: 1000]
    #[arg(long, value_name = "MSGS_PER_S", value_parser = clap::value_parser!(u32))]
    rate: Option<u32>,
    /// Seconds that are measured, more than 0
    #[arg(long, value_name = "SECS", default_value = "5", value_parser = seconds)]
    duration: Duration,
    /// Seconds before these, which are not
    #[arg(long, value_name = "SECS", default_value = "1", value_parser = seconds)]
    warmup: Duration,
    /// So many messages of all producers together, all of which are measured, in place of a time
    #[arg(long, value_name = "N", conflicts_with_all = ["duration", "warmup"], value_parser = clap::value_parser!(u64).range(1..))]
    messages: Option<u64>,
    /// Messages under way at which unpaced producers wait for consumers, 0 for any number [default: 20000, or 64 MiB of bodies]
    #[arg(long, value_name = "N")]
    backlog: Option<u64>,
    /// Process of the broker on this machine, whose CPU time and memory are to be reported
    #[arg(long, value_name = "PID")]
    broker_pid: Option<u32>,
    /// Report as a JSON object
    #[arg(long)]
    json: bool,
}

/// How a consumer acknowledges.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ack {
    /// Not at all.
    Auto,
    /// Once for so many messages.
    Every(u32),
}

fn ack(text: &str) -> Result<Ack, &'static str> {
    match text {
        "auto" => Ok(Ack::Auto),
        "every" => Ok(Ack::Every(1)),
        _ => match text.parse() {
            Ok(count) if count > 0 => Ok(Ack::Every(count)),
            _ => Err("auto, every, or a number of messages"),
        },
    }
}

fn seconds(text: &str) -> Result<Duration, &'static str> {
    let seconds: f64 = text.parse().map_err(|_| "not a number of seconds")?;
    match Duration::try_from_secs_f64(seconds) {
        Ok(time) if time <= Duration::from_secs(86_400) => Ok(time),
        _ => Err("not between 0 and 86400 seconds"),
    }
}

fn queue_argument(text: &str) -> Result<(String, AMQPValue), &'static str> {
    let (key, value) = text.split_once('=').filter(|(key, _)| !key.is_empty()).ok_or("must be KEY=VALUE")?;
    let value = match (value, value.parse()) {
        ("true", _) => AMQPValue::Boolean(true),
        ("false", _) => AMQPValue::Boolean(false),
        (_, Ok(number)) => AMQPValue::LongLongInt(number),
        _ => AMQPValue::LongString(LongString::from(value)),
    };
    Ok((key.to_owned(), value))
}

/// When a run ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Length {
    Time { warmup: Duration, measured: Duration },
    Messages(u64),
}

/// What a run does.
#[derive(Debug)]
pub struct Plan {
    pub scenario: Scenario,
    pub url: Url,
    pub producers: usize,
    pub consumers: usize,
    pub queues: usize,
    /// Bytes of a body.
    pub size: usize,
    /// 0: unlimited.
    pub prefetch: u16,
    pub ack: Ack,
    pub persistent: bool,
    pub durable: bool,
    pub arguments: FieldTable,
    /// Publishes outstanding at most; 0: no confirms.
    pub window: u64,
    /// Messages a second of all producers; 0: unpaced.
    pub rate: u64,
    pub length: Length,
    /// Messages under way at which unpaced producers wait.
    pub backlog: u64,
    pub broker_pid: Option<u32>,
    pub json: bool,
}

impl Plan {
    /// # Errors
    /// What does not go together.
    pub fn new(options: Options) -> Result<Plan, OptionsError> {
        let scenario = options.scenario;
        let fanout = scenario == Scenario::Fanout;
        let queues = options.queues.unwrap_or(if fanout { 10 } else { 1 });
        let consumers = options.consumers.unwrap_or(queues);
        let acks = options.ack != Ack::Auto;
        let prefetch = options.prefetch.unwrap_or(if acks { PREFETCH } else { 0 });
        if let Ack::Every(every) = options.ack
            && prefetch != 0
            && every > u32::from(prefetch)
        {
            return Err(OptionsError::AckBeyondPrefetch { every, prefetch });
        }
        if scenario == Scenario::Latency && consumers == 0 {
            return Err(OptionsError::NoConsumers);
        }
        if let Some(prefetch) = options.prefetch
            && prefetch > 0
            && !acks
        {
            return Err(OptionsError::PrefetchWithoutAcks(prefetch));
        }
        let window = options.confirm.unwrap_or(u32::from(scenario == Scenario::Confirms));
        if scenario == Scenario::Confirms && window == 0 {
            return Err(OptionsError::NoConfirms);
        }
        let rate = options.rate.unwrap_or(if scenario == Scenario::Latency { 1_000 } else { 0 });
        if scenario == Scenario::Latency && rate == 0 {
            return Err(OptionsError::NoRate);
        }
        // 0 says what happens anyway.
        if let Some(backlog) = options.backlog.filter(|backlog| *backlog > 0) {
            if rate > 0 {
                return Err(OptionsError::BacklogWithRate(backlog));
            }
            if consumers == 0 {
                return Err(OptionsError::BacklogWithoutConsumers(backlog));
            }
        }
        let usual_backlog = (BACKLOG_BYTES / u64::from(options.size)).clamp(1, BACKLOG);
        let backlog = match options.backlog.unwrap_or(usual_backlog) {
            0 => u64::MAX,
            messages => messages,
        };
        let length = match options.messages {
            Some(messages) if messages < options.producers.into() => return Err(OptionsError::FewMessages),
            Some(messages) => Length::Messages(messages),
            None if options.duration.is_zero() => return Err(OptionsError::NoTime),
            None => Length::Time { warmup: options.warmup, measured: options.duration },
        };
        let mut arguments = FieldTable::default();
        for (key, value) in options.queue_arg {
            arguments.insert(short(key), value);
        }
        Ok(Plan {
            scenario,
            url: options.url,
            producers: options.producers.into(),
            consumers: consumers.into(),
            queues: queues.into(),
            size: options.size as usize,
            prefetch,
            ack: options.ack,
            persistent: options.persistent,
            durable: options.durable,
            arguments,
            window: window.into(),
            rate: rate.into(),
            length,
            backlog,
            broker_pid: options.broker_pid,
            json: options.json,
        })
    }

    /// Every queue gets every message.
    pub fn is_fanout(&self) -> bool {
        self.scenario == Scenario::Fanout
    }

    /// The queues that a producer publishes to, in turn; in a fan-out the exchange does that.
    pub fn queues_of_producer(&self, producer: usize) -> Vec<usize> {
        shared_out(self.queues, self.producers, producer)
    }

    /// The queues that a consumer consumes from.
    pub fn queues_of_consumer(&self, consumer: usize) -> Vec<usize> {
        shared_out(self.queues, self.consumers, consumer)
    }

    /// Whether, and as which of them, a queue is one of a producer's.
    pub fn place(&self, queue: usize, producer: usize) -> Option<Place> {
        if self.is_fanout() {
            return Some(Place { at: 0, of: 1 });
        }
        let queues = self.queues_of_producer(producer);
        let at = queues.iter().position(|of| *of == queue)? as u64;
        Some(Place { at, of: queues.len() as u64 })
    }

    /// How many messages a producer is to publish at most.
    pub fn quota(&self, producer: usize) -> u64 {
        match self.length {
            Length::Time { .. } => u64::MAX,
            Length::Messages(all) => {
                let (each, rest) = (all / self.producers as u64, all % self.producers as u64);
                each + u64::from((producer as u64) < rest)
            }
        }
    }

    /// How often each message comes.
    pub fn copies(&self) -> u64 {
        if self.consumers == 0 {
            0
        } else if self.is_fanout() {
            self.queues as u64
        } else {
            1
        }
    }
}

/// Those of `queues` that fall to one of `sharers`: all queues have somebody, and everybody has a queue.
fn shared_out(queues: usize, sharers: usize, sharer: usize) -> Vec<usize> {
    if sharers >= queues { vec![sharer % queues] } else { (sharer..queues).step_by(sharers).collect() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Perf {
        #[command(flatten)]
        options: Options,
    }

    fn plan(arguments: &[&str]) -> Result<Plan, OptionsError> {
        let parsed = Perf::try_parse_from([&["perf"], arguments].concat());
        Plan::new(parsed.unwrap_or_else(|error| panic!("{error}")).options)
    }

    #[track_caller]
    fn planned(arguments: &[&str]) -> Plan {
        plan(arguments).unwrap_or_else(|error| panic!("{error}"))
    }

    #[test]
    fn every_scenario_has_what_it_needs_by_default() {
        let throughput = planned(&[]);
        assert_eq!((throughput.rate, throughput.window, throughput.prefetch, throughput.ack), (0, 0, 0, Ack::Auto));
        assert_eq!((throughput.producers, throughput.consumers, throughput.queues), (1, 1, 1));
        assert_eq!(planned(&["latency"]).rate, 1_000);
        assert_eq!(planned(&["confirms"]).window, 1);
        let fanout = planned(&["fanout"]);
        assert_eq!((fanout.queues, fanout.consumers, fanout.copies()), (10, 10, 10));
    }

    #[test]
    fn the_backlog_is_bounded_by_bytes_too_unless_it_is_given() {
        assert_eq!(planned(&[]).backlog, 20_000);
        assert_eq!(planned(&["--size", "1048576"]).backlog, 64);
        assert_eq!(planned(&["--size", "134217728"]).backlog, 1);
        assert_eq!(planned(&["--backlog", "7"]).backlog, 7);
        assert_eq!(planned(&["--backlog", "0"]).backlog, u64::MAX);
    }

    #[test]
    fn what_cannot_work_is_refused() {
        let refused = |arguments: &[&str]| plan(arguments).expect_err("must be refused");
        let beyond = OptionsError::AckBeyondPrefetch { every: 201, prefetch: 200 };
        assert_eq!(refused(&["--ack", "201"]), beyond);
        assert_eq!(planned(&["--ack", "201", "--prefetch", "0"]).ack, Ack::Every(201));
        assert_eq!(refused(&["latency", "-C", "0"]), OptionsError::NoConsumers);
        assert_eq!(refused(&["--messages", "3", "-P", "4"]), OptionsError::FewMessages);
        assert_eq!(refused(&["--duration", "0"]), OptionsError::NoTime);
        assert_eq!(refused(&["latency", "--rate", "0"]), OptionsError::NoRate);
        assert_eq!(refused(&["confirms", "--confirm", "0"]), OptionsError::NoConfirms);
        assert_eq!(refused(&["--prefetch", "5"]), OptionsError::PrefetchWithoutAcks(5));
        assert_eq!(refused(&["--backlog", "5", "--rate", "9"]), OptionsError::BacklogWithRate(5));
        assert_eq!(refused(&["latency", "--backlog", "5"]), OptionsError::BacklogWithRate(5));
        assert_eq!(refused(&["--backlog", "5", "-C", "0"]), OptionsError::BacklogWithoutConsumers(5));
    }

    #[test]
    fn a_limit_of_0_says_what_happens_anyway_and_is_accepted() {
        assert_eq!(planned(&["--prefetch", "0"]).prefetch, 0);
        assert_eq!(planned(&["--backlog", "0", "--rate", "9"]).backlog, u64::MAX);
        assert_eq!(planned(&["--rate", "0", "--confirm", "0"]).rate, 0);
    }

    #[test]
    fn options_out_of_range_are_refused() {
        for wrong in [
            ["--size", "15"],
            ["--producers", "0"],
            ["--queues", "0"],
            ["--ack", "0"],
            ["--duration", "-1"],
            ["--duration", "NaN"],
            ["--queue-arg", "x"],
            ["--url", "broker"],
        ] {
            assert!(Perf::try_parse_from([&["perf"], &wrong[..]].concat()).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn messages_are_shared_out_to_the_last() {
        let plan = planned(&["--messages", "11", "-P", "4"]);
        assert_eq!((0..4).map(|producer| plan.quota(producer)).collect::<Vec<_>>(), [3, 3, 3, 2]);
    }

    #[test]
    fn all_queues_have_a_producer_and_a_consumer() {
        let plan = planned(&["-P", "2", "-C", "3", "-Q", "5"]);
        assert_eq!([plan.queues_of_producer(0), plan.queues_of_producer(1)], [vec![0, 2, 4], vec![1, 3]]);
        assert_eq!([plan.queues_of_consumer(0), plan.queues_of_consumer(2)], [vec![0, 3], vec![2]]);
        assert_eq!(plan.place(4, 0), Some(Place { at: 2, of: 3 }));
        assert_eq!(plan.place(4, 1), None);
        let plan = planned(&["-P", "3", "-Q", "2"]);
        assert_eq!((plan.queues_of_producer(2), plan.place(0, 2)), (vec![0], Some(Place { at: 0, of: 1 })));
    }

    #[test]
    fn arguments_of_queues_have_the_type_that_they_look_like() {
        let plan = planned(&["--queue-arg", "x-queue-type=quorum", "--queue-arg", "x-max-length=5"]);
        let inner = plan.arguments.inner();
        assert_eq!(inner.get("x-queue-type"), Some(&AMQPValue::LongString(LongString::from("quorum"))));
        assert_eq!(inner.get("x-max-length"), Some(&AMQPValue::LongLongInt(5)));
    }
}
