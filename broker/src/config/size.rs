//! Sizes in bytes, and the units they are written in.

use std::fmt;

use super::value::{InvalidValue, Scalar};

/// A number of bytes, written `300MB`, `64MiB`, `1GB` or plainly in bytes.
///
/// As in RabbitMQ, `kB`, `MB`, `GB` and `TB` are powers of ten, `KiB`, `MiB`, `GiB` and `TiB` powers of two, and a
/// single letter (`64M`) stands for the power of two. Letters may be of either case.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ByteSize(u64);

/// The largest unit that divides a size comes first, so that a size is shown as short as it can be without loss.
const UNITS: [(&str, u64); 9] = [
    ("TiB", 1 << 40),
    ("TB", 1_000_000_000_000),
    ("GiB", 1 << 30),
    ("GB", 1_000_000_000),
    ("MiB", 1 << 20),
    ("MB", 1_000_000),
    ("KiB", 1 << 10),
    ("kB", 1_000),
    ("B", 1),
];

impl ByteSize {
    /// So many bytes.
    pub const fn new(bytes: u64) -> Self {
        Self(bytes)
    }

    /// So many times 2^20 bytes.
    pub const fn mib(count: u64) -> Self {
        Self(count << 20)
    }

    /// The number of bytes.
    pub const fn bytes(self) -> u64 {
        self.0
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let whole = UNITS.iter().find(|(_, factor)| self.0 != 0 && self.0.is_multiple_of(*factor));
        match whole {
            Some((unit, factor)) if *factor > 1 => write!(formatter, "{}{unit}", self.0 / factor),
            _ => write!(formatter, "{}", self.0),
        }
    }
}

impl Scalar for ByteSize {
    fn parse(text: &str) -> Result<Self, InvalidValue> {
        let text = text.trim();
        let digits = text.find(|letter: char| !letter.is_ascii_digit()).unwrap_or(text.len());
        let (number, unit) = text.split_at(digits);
        let number: u64 = number.parse().map_err(|_| InvalidValue::Size)?;
        let unit = unit.trim();
        let factor = match unit.to_ascii_lowercase().as_str() {
            "" => 1,
            "k" => 1 << 10,
            "m" => 1 << 20,
            "g" => 1 << 30,
            "t" => 1 << 40,
            _ => UNITS
                .iter()
                .find(|(name, _)| name.eq_ignore_ascii_case(unit))
                .map(|(_, factor)| *factor)
                .ok_or(InvalidValue::Size)?,
        };
        number.checked_mul(factor).map(Self).ok_or(InvalidValue::Size)
    }

    fn to_toml(&self) -> Option<toml::Value> {
        Some(toml::Value::String(self.to_string()))
    }
}
