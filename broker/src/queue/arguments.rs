//! Queue arguments: parsed and checked once, when the queue is declared.

use std::sync::Arc;

use leveret_protocol::AmqpError;
use leveret_protocol::amq::{AMQPValue, FieldTable};
use leveret_protocol::value::{as_integer, type_word};

/// Ten years in milliseconds: the longest time that RabbitMQ accepts.
const LONGEST: i64 = 315_360_000_000;
/// Deliveries that come back unsettled before a quorum queue gives a message up, unless the declaration says otherwise.
const DELIVERY_LIMIT: u32 = 20;

/// What a queue does when it is full.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Overflow {
    /// The oldest messages make room.
    #[default]
    DropHead,
    /// New messages are refused.
    RejectPublish,
    /// New messages are refused and dead-lettered.
    RejectPublishDlx,
}

impl Overflow {
    /// As arguments and policies write it.
    pub fn parse(text: &str) -> Option<Overflow> {
        match text {
            "drop-head" => Some(Overflow::DropHead),
            "reject-publish" => Some(Overflow::RejectPublish),
            "reject-publish-dlx" => Some(Overflow::RejectPublishDlx),
            _ => None,
        }
    }
}

/// Where messages go that a queue gives up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeadLetterTo {
    pub exchange: Box<[u8]>,
    /// None: the message's own routing keys.
    pub key: Option<Box<[u8]>>,
}

/// What a queue's arguments ask for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// `x-queue-type: quorum`: on one node, a durable queue that keeps every message and counts deliveries.
    pub quorum: bool,
    /// Time to live of messages, milliseconds.
    pub message_ttl: Option<u64>,
    /// The queue ends after so many milliseconds without use.
    pub expires: Option<u64>,
    /// Ready messages at most.
    pub max_length: Option<u64>,
    /// Bytes of bodies of ready messages at most.
    pub max_bytes: Option<u64>,
    pub overflow: Overflow,
    pub dead_letter: Option<Arc<DeadLetterTo>>,
    /// Levels above 0.
    pub max_priority: Option<u8>,
    pub single_active: bool,
    /// Returns after which a message is given up; None: no limit.
    pub delivery_limit: Option<u32>,
    /// Milliseconds that a delivery may wait for its acknowledgement, 0: for ever; None: as long as the server says.
    pub consumer_timeout: Option<u64>,
}

/// Arguments that only other types of queue have.
const NOT_CLASSIC: &[&str] = &[
    "x-max-age",
    "x-stream-max-segment-size-bytes",
    "x-stream-filter-size-bytes",
    "x-initial-cluster-size",
    "x-quorum-initial-group-size",
    "x-delivery-limit",
    "x-dead-letter-strategy",
];
const NOT_QUORUM: &[&str] = &[
    "x-max-age",
    "x-stream-max-segment-size-bytes",
    "x-stream-filter-size-bytes",
    "x-initial-cluster-size",
    "x-max-priority",
    "x-queue-mode",
    "x-queue-version",
];

/// The argument of that name.
pub fn get<'a>(arguments: &'a FieldTable, name: &str) -> Option<&'a AMQPValue> {
    arguments.inner().get(name)
}

/// The flags of a declaration that a type of queue may forbid.
#[derive(Clone, Copy)]
pub struct Flags {
    pub durable: bool,
    pub exclusive: bool,
    pub auto_delete: bool,
}

const QUEUE_TYPE: &str = "x-queue-type";

/// Gives a declaration the type `kind`, unless it names one.
pub fn insert_type(arguments: &mut FieldTable, kind: &str) {
    let said = match get(arguments, QUEUE_TYPE) {
        Some(AMQPValue::LongString(own)) => !matches!(own.as_bytes(), b"" | b"undefined"),
        other => other.is_some(),
    };
    if !said {
        arguments.insert(crate::methods::short(QUEUE_TYPE), AMQPValue::LongString(kind.into()));
    }
}

/// Gives a declaration the `default` type of its virtual host, unless it names one, or `classic` where that type does
/// not fit the flags.
pub fn insert_default_type(arguments: &mut FieldTable, default: &str, flags: Flags) {
    let fits = flags.durable && !flags.exclusive && !flags.auto_delete;
    insert_type(arguments, if fits { default } else { "classic" });
}

/// Reads and checks a new queue's arguments. `described` is the queue as reply texts show it.
///
/// # Errors
/// 406 with RabbitMQ's texts; 540 for queue types that are not here.
pub fn parse(arguments: &FieldTable, flags: Flags, described: &str) -> Result<Settings, AmqpError> {
    let args = Args { arguments, described };
    if let Some(value) = get(arguments, "x-dead-letter-exchange")
        && !matches!(value, AMQPValue::LongString(_))
    {
        let kind = type_word(value);
        let text = format!("invalid type '{kind}' for arg 'x-dead-letter-exchange' in {described}");
        return Err(AmqpError::precondition_failed(text));
    }
    let quorum = args.queue_type()?;
    let (foreign, kind) = if quorum { (NOT_QUORUM, "quorum") } else { (NOT_CLASSIC, "classic") };
    if let Some(name) = foreign.iter().find(|name| get(arguments, name).is_some()) {
        let text = format!("invalid arg '{name}' for {described} of queue type rabbit_{kind}_queue");
        return Err(AmqpError::precondition_failed(text));
    }
    // In RabbitMQ's order: of several that are wrong it names the first.
    let expires = args.number("x-expires", 1, LONGEST)?;
    let message_ttl = args.number("x-message-ttl", 0, LONGEST)?;
    let exchange = args.text("x-dead-letter-exchange")?;
    let key = args.text("x-dead-letter-routing-key")?;
    if key.is_some() && exchange.is_none() {
        return Err(args.invalid("x-dead-letter-routing-key", "routing_key_but_no_dlx_defined"));
    }
    args.check_strategy()?;
    let max_length = args.number("x-max-length", 0, i64::MAX)?;
    let max_bytes = args.number("x-max-length-bytes", 0, i64::MAX)?;
    let max_priority = args.max_priority()?;
    let overflow = args.overflow()?;
    args.check_version()?;
    let single_active = args.flag("x-single-active-consumer")?;
    args.check_placement()?;
    let delivery_limit = args.delivery_limit(quorum)?;
    let consumer_timeout = args.consumer_timeout(quorum)?;
    if quorum {
        check_quorum_flags(flags, described)?;
    }
    Ok(Settings {
        quorum,
        message_ttl,
        expires,
        max_length,
        max_bytes,
        overflow,
        dead_letter: exchange.map(|exchange| Arc::new(DeadLetterTo { exchange, key })),
        max_priority,
        single_active,
        delivery_limit,
        consumer_timeout,
    })
}

fn check_quorum_flags(flags: Flags, described: &str) -> Result<(), AmqpError> {
    let property = match flags {
        Flags { auto_delete: true, .. } => "auto-delete",
        Flags { exclusive: true, .. } => "exclusive-owner",
        Flags { durable: false, .. } => "non-durable",
        _ => return Ok(()),
    };
    let text = format!("invalid property '{property}' for {described}");
    Err(AmqpError::precondition_failed(text))
}

struct Args<'a> {
    arguments: &'a FieldTable,
    described: &'a str,
}

impl Args<'_> {
    fn invalid(&self, name: &str, detail: impl AsRef<str>) -> AmqpError {
        let text = format!("invalid arg '{name}' for {}: {}", self.described, detail.as_ref());
        AmqpError::precondition_failed(text)
    }

    fn unacceptable(&self, name: &str, value: &AMQPValue) -> AmqpError {
        self.invalid(name, format!("{{unacceptable_type,{}}}", type_word(value)))
    }

    fn integer(&self, name: &str) -> Result<Option<i64>, AmqpError> {
        let Some(value) = get(self.arguments, name) else { return Ok(None) };
        match (value, as_integer(value)) {
            (AMQPValue::DecimalValue(_) | AMQPValue::Timestamp(_), _) | (_, None) => {
                Err(self.invalid(name, format!("\"expected integer, got {}\"", type_word(value))))
            }
            (_, number) => Ok(number),
        }
    }

    fn number(&self, name: &str, least: i64, most: i64) -> Result<Option<u64>, AmqpError> {
        let Some(number) = self.integer(name)? else { return Ok(None) };
        let detail = match number {
            ..0 => format!("{{value_negative,{number}}}"),
            _ if number < least => format!("{{value_zero,{number}}}"),
            _ if number > most => format!("{{value_too_large,{number}}}"),
            _ => return Ok(Some(number as u64)),
        };
        Err(self.invalid(name, detail))
    }

    fn text(&self, name: &str) -> Result<Option<Box<[u8]>>, AmqpError> {
        match get(self.arguments, name) {
            None => Ok(None),
            Some(AMQPValue::LongString(text)) => Ok(Some(text.as_bytes().into())),
            Some(other) => Err(self.unacceptable(name, other)),
        }
    }

    fn flag(&self, name: &str) -> Result<bool, AmqpError> {
        match get(self.arguments, name) {
            None => Ok(false),
            Some(AMQPValue::Boolean(value)) => Ok(*value),
            Some(other) => Err(self.unacceptable(name, other)),
        }
    }

    /// True for a quorum queue.
    fn queue_type(&self) -> Result<bool, AmqpError> {
        const NAME: &str = "x-queue-type";
        match self.text(NAME)?.as_deref() {
            None | Some(b"classic" | b"undefined" | b"") => Ok(false),
            Some(b"quorum") => Ok(true),
            Some(b"stream") => Err(AmqpError::not_implemented("queue type 'stream' is not supported yet")),
            Some(other) => {
                let other = leveret_protocol::error::text_of(other);
                Err(self.invalid(NAME, format!("\"unsupported queue type '{other}'\"")))
            }
        }
    }

    fn overflow(&self) -> Result<Overflow, AmqpError> {
        const NAME: &str = "x-overflow";
        let Some(text) = self.text(NAME)? else { return Ok(Overflow::DropHead) };
        let known = std::str::from_utf8(&text).ok().and_then(Overflow::parse);
        known.ok_or_else(|| self.invalid(NAME, "invalid_overflow"))
    }

    fn max_priority(&self) -> Result<Option<u8>, AmqpError> {
        const NAME: &str = "x-max-priority";
        match self.integer(NAME)? {
            None => Ok(None),
            Some(number @ ..0) => Err(self.invalid(NAME, format!("{{value_negative,{number}}}"))),
            Some(number) => match u8::try_from(number) {
                Ok(number) => Ok(Some(number)),
                Err(_) => Err(self.invalid(NAME, format!("{{max_value_exceeded,{number}}}"))),
            },
        }
    }

    fn delivery_limit(&self, quorum: bool) -> Result<Option<u32>, AmqpError> {
        Ok(match self.integer("x-delivery-limit")? {
            None => quorum.then_some(DELIVERY_LIMIT),
            Some(..0) => None,
            Some(number) => Some(u32::try_from(number).unwrap_or(u32::MAX)),
        })
    }

    /// A classic queue takes a negative number for none.
    fn consumer_timeout(&self, quorum: bool) -> Result<Option<u64>, AmqpError> {
        const NAME: &str = "x-consumer-timeout";
        match self.integer(NAME)? {
            Some(..0) if !quorum => Ok(None),
            _ => self.number(NAME, 0, i64::MAX),
        }
    }

    fn check_strategy(&self) -> Result<(), AmqpError> {
        const NAME: &str = "x-dead-letter-strategy";
        match self.text(NAME)?.as_deref() {
            None | Some(b"at-most-once" | b"at-least-once") => Ok(()),
            Some(_) => Err(self.invalid(NAME, "invalid_dlx_strategy")),
        }
    }

    fn check_version(&self) -> Result<(), AmqpError> {
        const NAME: &str = "x-queue-version";
        match self.integer(NAME)? {
            None | Some(1 | 2) => Ok(()),
            Some(number) if number < 0 => Err(self.invalid(NAME, format!("{{value_negative,{number}}}"))),
            Some(other) => Err(self.invalid(NAME, format!("\"unsupported queue version '{other}'\""))),
        }
    }

    /// On which nodes, which means nothing where there is one.
    fn check_placement(&self) -> Result<(), AmqpError> {
        const LOCATOR: &str = "x-queue-leader-locator";
        self.number("x-quorum-initial-group-size", 1, i64::MAX)?;
        match self.text(LOCATOR)?.as_deref() {
            None | Some(b"client-local" | b"balanced" | b"random" | b"least-leaders") => Ok(()),
            Some(_) => Err(self.invalid(LOCATOR, "invalid_queue_locator_arg")),
        }
    }
}
