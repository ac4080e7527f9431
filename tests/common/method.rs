//! Methods as values that can be sent and expected, and a builder of octets for all that a codec refuses to make.

use amq_protocol::frame::WriteContext;
use amq_protocol::protocol::{
    AMQPClass, basic, channel, confirm, connection, exchange, gen_class, parse_class, queue, tx,
};
use std::fmt::Debug;

/// One AMQP method: what it is called, and how it becomes and comes out of a method frame's payload.
pub trait Method: Sized + Debug {
    /// As the specification writes it, such as `queue.DeclareOk`.
    const NAME: &'static str;

    /// The method in amq-protocol's sum of all methods.
    fn into_class(self) -> AMQPClass;

    /// The method back out of the sum.
    ///
    /// # Errors
    /// The sum as it was, when it holds another method.
    fn from_class(class: AMQPClass) -> Result<Self, AMQPClass>;

    /// The payload of the method's frame.
    fn payload(self) -> Vec<u8> {
        let class = self.into_class();
        gen_class(&class)(WriteContext::from(Vec::new())).expect("a method that fits a vector").into_inner().0
    }
}

/// The method in a frame's payload; None when it can't be decoded.
pub fn decode(payload: &[u8]) -> Option<AMQPClass> {
    match parse_class(payload) {
        Ok(([], class)) => Some(class),
        _ => None,
    }
}

macro_rules! methods {
    ($($class:ident $Class:ident: $($Method:ident)+;)+) => {$($(
        impl Method for $class::$Method {
            const NAME: &'static str = concat!(stringify!($class), ".", stringify!($Method));

            fn into_class(self) -> AMQPClass {
                AMQPClass::$Class($class::AMQPMethod::$Method(self))
            }

            fn from_class(class: AMQPClass) -> Result<Self, AMQPClass> {
                match class {
                    AMQPClass::$Class($class::AMQPMethod::$Method(method)) => Ok(method),
                    other => Err(other),
                }
            }
        }
    )+)+};
}

methods! {
    connection Connection: Start StartOk Secure SecureOk Tune TuneOk Open OpenOk Close CloseOk Blocked Unblocked
        UpdateSecret UpdateSecretOk;
    channel Channel: Open OpenOk Flow FlowOk Close CloseOk;
    exchange Exchange: Declare DeclareOk Delete DeleteOk Bind BindOk Unbind UnbindOk;
    queue Queue: Declare DeclareOk Bind BindOk Purge PurgeOk Delete DeleteOk Unbind UnbindOk;
    basic Basic: Qos QosOk Consume ConsumeOk Cancel CancelOk Publish Return Deliver Get GetOk GetEmpty Ack Reject
        RecoverAsync Recover RecoverOk Nack;
    confirm Confirm: Select SelectOk;
    tx Tx: Select SelectOk Commit CommitOk Rollback RollbackOk;
}

/// Octets put together field by field, as AMQP lays them out: big-endian, strings and tables with their length first.
#[derive(Clone, Debug, Default)]
pub struct Octets(pub Vec<u8>);

impl Octets {
    /// None yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// The two ids that a method frame's payload begins with.
    pub fn method(class: u16, method: u16) -> Self {
        Self::new().u16(class).u16(method)
    }

    /// A content header's payload of class basic, weight 0, up to and including the property flags.
    pub fn header(body_size: u64, flags: u16) -> Self {
        Self::new().u16(60).u16(0).u64(body_size).u16(flags)
    }

    /// One octet.
    pub fn u8(mut self, value: u8) -> Self {
        self.0.push(value);
        self
    }

    /// Two octets.
    pub fn u16(mut self, value: u16) -> Self {
        self.0.extend(value.to_be_bytes());
        self
    }

    /// Four octets.
    pub fn u32(mut self, value: u32) -> Self {
        self.0.extend(value.to_be_bytes());
        self
    }

    /// Eight octets.
    pub fn u64(mut self, value: u64) -> Self {
        self.0.extend(value.to_be_bytes());
        self
    }

    /// A short string of any bytes.
    ///
    /// # Panics
    /// Above 255 bytes, for which there is no length octet.
    pub fn shortstr(self, value: impl AsRef<[u8]>) -> Self {
        let value = value.as_ref();
        let length = u8::try_from(value.len()).expect("a short string of at most 255 bytes");
        self.u8(length).bytes(value)
    }

    /// A long string of any bytes; also a table or an array whose entries are already octets.
    pub fn longstr(self, value: impl AsRef<[u8]>) -> Self {
        let value = value.as_ref();
        let length = u32::try_from(value.len()).expect("a long string that fits a frame");
        self.u32(length).bytes(value)
    }

    /// One table entry: its key, its tag and its value's octets.
    pub fn entry(self, key: impl AsRef<[u8]>, tag: u8, value: impl AsRef<[u8]>) -> Self {
        self.shortstr(key).u8(tag).bytes(value)
    }

    /// One table entry with a long string.
    pub fn entry_str(self, key: &str, value: &str) -> Self {
        self.entry(key, b'S', Octets::new().longstr(value).0)
    }

    /// The octets as they are.
    pub fn bytes(mut self, value: impl AsRef<[u8]>) -> Self {
        self.0.extend_from_slice(value.as_ref());
        self
    }
}

impl AsRef<[u8]> for Octets {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}
