//! The types a setting can have, and how each is read from a text.
//!
//! A setting comes from the command line, from the environment or from a file. All three go through [`Value`], so that
//! `64MiB` means the same everywhere and is refused with the same words.

use std::fmt;
use std::net::{SocketAddr, ToSocketAddrs};
use std::path::PathBuf;
use std::time::Duration;

use clap::ValueEnum;
use clap::builder::{EnumValueParser, ValueParser};
use serde::{Deserialize, Deserializer, de::Error as _};

/// The port of AMQP without TLS, for an address that names none.
pub const DEFAULT_PORT: u16 = 5672;

/// Why a text is not a value of its setting. Says what would be one; whoever reports it adds the setting and the text.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidValue {
    #[error("not a size (bytes, or a number and a unit: 300MB is 300 * 10^6, 64MiB is 64 * 2^20)")]
    Size,
    #[error("not a whole number from {least} to {most}")]
    Number { least: u64, most: u64 },
    #[error("not a duration (seconds, or a number and a unit: 10s, 500ms)")]
    Duration,
    #[error("not an address to listen on (IP:PORT, [IPv6]:PORT or NAME:PORT; without a port it is {DEFAULT_PORT})")]
    Address,
    #[error("the name does not resolve to an address: {0}")]
    Unresolved(String),
    #[error("not one of {0}")]
    Choice(String),
    #[error("one value is expected, not a list")]
    List,
    #[error("a text, a number or a list is expected, not a {0}")]
    Kind(&'static str),
}

/// One value, as opposed to a list of them.
pub trait Scalar: Clone + Send + Sync + 'static {
    /// Reads the value from a text.
    ///
    /// # Errors
    /// [`InvalidValue`], saying what would have been accepted.
    fn parse(text: &str) -> Result<Self, InvalidValue>;

    /// As the configuration file would have it. `None`: a secret, never shown.
    fn to_toml(&self) -> Option<toml::Value>;

    /// How the command line reads it.
    fn parser() -> ValueParser {
        ValueParser::new(Self::parse)
    }
}

/// What a setting holds: one [`Scalar`] or a list of them.
pub trait Value: Sized {
    /// Reads the value from one text; a list is separated by commas, and an empty text is an empty list.
    ///
    /// # Errors
    /// [`InvalidValue`] of the first item that is not acceptable.
    fn parse(text: &str) -> Result<Self, InvalidValue>;

    /// Reads the value from the items of a list in a file.
    ///
    /// # Errors
    /// [`InvalidValue::List`] if the setting holds one value, else that of the first item that is not acceptable.
    fn parse_list(items: &[String]) -> Result<Self, InvalidValue>;

    /// As the configuration file would have it. `None`: a secret, never shown.
    fn to_toml(&self) -> Option<toml::Value>;

    /// How the command line reads one item.
    fn parser() -> ValueParser;
}

impl<T: Scalar> Value for T {
    fn parse(text: &str) -> Result<Self, InvalidValue> {
        T::parse(text)
    }

    fn parse_list(_: &[String]) -> Result<Self, InvalidValue> {
        Err(InvalidValue::List)
    }

    fn to_toml(&self) -> Option<toml::Value> {
        Scalar::to_toml(self)
    }

    fn parser() -> ValueParser {
        T::parser()
    }
}

impl<T: Scalar> Value for Vec<T> {
    fn parse(text: &str) -> Result<Self, InvalidValue> {
        text.split(',').map(str::trim).filter(|item| !item.is_empty()).map(T::parse).collect()
    }

    fn parse_list(items: &[String]) -> Result<Self, InvalidValue> {
        items.iter().map(|item| T::parse(item)).collect()
    }

    fn to_toml(&self) -> Option<toml::Value> {
        self.iter().map(Scalar::to_toml).collect::<Option<Vec<_>>>().map(toml::Value::Array)
    }

    fn parser() -> ValueParser {
        T::parser()
    }
}

/// Reads a setting from a file: a number may be written with or without quotes.
///
/// # Errors
/// [`InvalidValue`] in the words of the deserializer, which adds the place.
pub(super) fn from_file<'de, D, T>(deserializer: D) -> Result<Option<T>, D::Error>
where
    D: Deserializer<'de>,
    T: Value,
{
    let value = match toml::Value::deserialize(deserializer)? {
        toml::Value::Array(items) => {
            items.iter().map(text_of).collect::<Result<Vec<_>, _>>().and_then(|items| T::parse_list(&items))
        }
        single => text_of(&single).and_then(|text| T::parse(&text)),
    };
    value.map(Some).map_err(D::Error::custom)
}

fn text_of(value: &toml::Value) -> Result<String, InvalidValue> {
    match value {
        toml::Value::String(text) => Ok(text.clone()),
        toml::Value::Integer(number) => Ok(number.to_string()),
        other => Err(InvalidValue::Kind(other.type_str())),
    }
}

/// A password. Its `Debug` does not show it, so that a logged configuration gives nothing away.
#[derive(Clone, PartialEq, Eq)]
pub struct Password(String);

impl std::ops::Deref for Password {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("(not shown)")
    }
}

impl From<&str> for Password {
    fn from(text: &str) -> Self {
        Self(text.to_owned())
    }
}

impl From<String> for Password {
    fn from(text: String) -> Self {
        Self(text)
    }
}

impl Scalar for Password {
    fn parse(text: &str) -> Result<Self, InvalidValue> {
        Ok(text.into())
    }

    fn to_toml(&self) -> Option<toml::Value> {
        None
    }
}

impl Scalar for String {
    fn parse(text: &str) -> Result<Self, InvalidValue> {
        Ok(text.to_owned())
    }

    fn to_toml(&self) -> Option<toml::Value> {
        Some(toml::Value::String(self.clone()))
    }
}

impl Scalar for PathBuf {
    fn parse(text: &str) -> Result<Self, InvalidValue> {
        Ok(text.into())
    }

    fn to_toml(&self) -> Option<toml::Value> {
        Some(toml::Value::String(self.display().to_string()))
    }

    fn parser() -> ValueParser {
        // Not through a text: a path on the command line need not be UTF-8, and a shell can complete it.
        ValueParser::path_buf()
    }
}

macro_rules! numbers {
    ($($number:ty),*) => {$(
        impl Scalar for $number {
            fn parse(text: &str) -> Result<Self, InvalidValue> {
                let range = InvalidValue::Number { least: 0, most: <$number>::MAX.into() };
                text.trim().parse().map_err(|_| range)
            }

            fn to_toml(&self) -> Option<toml::Value> {
                Some(toml::Value::Integer(i64::from(*self)))
            }
        }
    )*};
}

numbers!(u16, u32);

impl Scalar for u64 {
    fn parse(text: &str) -> Result<Self, InvalidValue> {
        // The file has no larger numbers.
        let range = InvalidValue::Number { least: 0, most: i64::MAX as u64 };
        text.trim().parse().ok().filter(|number| i64::try_from(*number).is_ok()).ok_or(range)
    }

    fn to_toml(&self) -> Option<toml::Value> {
        i64::try_from(*self).ok().map(toml::Value::Integer)
    }
}

impl Scalar for Duration {
    fn parse(text: &str) -> Result<Self, InvalidValue> {
        let text = text.trim();
        let (number, from): (&str, fn(u64) -> Self) = if let Some(number) = text.strip_suffix("ms") {
            (number, Self::from_millis)
        } else {
            (text.strip_suffix('s').unwrap_or(text), Self::from_secs)
        };
        number.trim().parse().map(from).map_err(|_| InvalidValue::Duration)
    }

    fn to_toml(&self) -> Option<toml::Value> {
        let text = match self.subsec_millis() {
            0 => format!("{}s", self.as_secs()),
            _ => format!("{}ms", self.as_millis()),
        };
        Some(toml::Value::String(text))
    }
}

impl Scalar for SocketAddr {
    /// A name stands for its first IPv4 address, if it has one: `localhost` must work where IPv6 is switched off but
    /// still in the hosts file.
    fn parse(text: &str) -> Result<Self, InvalidValue> {
        let text = text.trim();
        if let Ok(address) = text.parse() {
            return Ok(address);
        }
        if let Ok(ip) = text.trim_start_matches('[').trim_end_matches(']').parse() {
            return Ok(Self::new(ip, DEFAULT_PORT));
        }
        let (name, port) = text.split_once(':').unwrap_or((text, ""));
        let port = if port.is_empty() && !text.contains(':') {
            DEFAULT_PORT
        } else {
            port.parse().map_err(|_| InvalidValue::Address)?
        };
        if name.is_empty() {
            return Err(InvalidValue::Address);
        }
        let unresolved = |reason: std::io::Error| InvalidValue::Unresolved(reason.to_string());
        let found: Vec<Self> = (name, port).to_socket_addrs().map_err(unresolved)?.collect();
        found.iter().find(|address| address.is_ipv4()).or(found.first()).copied().ok_or(InvalidValue::Address)
    }

    fn to_toml(&self) -> Option<toml::Value> {
        Some(toml::Value::String(self.to_string()))
    }
}

/// Reads one of the names of an enum.
fn choice<T: ValueEnum + 'static>(text: &str) -> Result<T, InvalidValue> {
    T::from_str(text, false).map_err(|_| InvalidValue::Choice(names::<T>().collect::<Vec<_>>().join(", ")))
}

fn names<T: ValueEnum + 'static>() -> impl Iterator<Item = String> {
    T::value_variants().iter().filter_map(|variant| Some(variant.to_possible_value()?.get_name().to_owned()))
}

macro_rules! choices {
    ($($kind:ty),*) => {$(
        impl Scalar for $kind {
            fn parse(text: &str) -> Result<Self, InvalidValue> {
                choice(text)
            }

            fn to_toml(&self) -> Option<toml::Value> {
                self.to_possible_value().map(|name| toml::Value::String(name.get_name().to_owned()))
            }

            fn parser() -> ValueParser {
                EnumValueParser::<Self>::new().into()
            }
        }
    )*};
}

/// Where durable definitions and persistent messages are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum StorageKind {
    /// In the data directory; survives a restart and a kill.
    Sled,
    /// In memory: everything is gone with the broker. For tests, and for brokers that carry nothing worth keeping.
    Memory,
}

/// What a confirm, or the answer to a durable declaration, promises.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Durability {
    /// The data is on the device: it survives a power cut.
    Sync,
    /// The operating system has the data: it survives the broker's death, not a power cut.
    Os,
}

/// How a line of the log looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// Time, level, module and message, for people.
    Text,
    /// One JSON object per line, for machines.
    Json,
}

choices!(StorageKind, Durability, LogFormat);
