//! Raw field tables: checked once from end to end, then read in place, entry by entry, as often as needed.
//!
//! A table decoded into a map and encoded again loses its order, its duplicates and the width of its numbers;
//! the bytes a publisher sent do not. The tags are RabbitMQ's (`s` is a 16-bit number, `L` is signed).

use crate::reader::Reader;

/// How many tables and arrays may stand inside one another, the outermost included. RabbitMQ has no limit; code
/// that walks a table needs one, or a single frame could exhaust the stack.
pub const MAX_DEPTH: usize = 128;

/// What is wrong with a field table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TableError {
    /// A value whose tag octet means nothing.
    #[error("unknown field type {0}")]
    UnknownTag(u8),
    /// A key or value that runs past the end of its table.
    #[error("field runs past the end of its table")]
    Truncated,
    /// More than [`MAX_DEPTH`] levels.
    #[error("field table nested too deeply")]
    TooDeep,
}

/// A field table known to be well-formed; its entries are read from the bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Table<'a> {
    bytes: &'a [u8],
}

/// A field array known to be well-formed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Array<'a> {
    bytes: &'a [u8],
}

/// The value of a field, as it was sent.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Value<'a> {
    /// `t`, any octet but 0 is true.
    Bool(bool),
    /// `b`
    I8(i8),
    /// `B`
    U8(u8),
    /// `s`
    I16(i16),
    /// `u`
    U16(u16),
    /// `I`
    I32(i32),
    /// `i`
    U32(u32),
    /// `l`, and `L` too, which RabbitMQ reads as signed.
    I64(i64),
    /// `f`
    F32(f32),
    /// `d`
    F64(f64),
    /// `D`: `value` divided by ten to the power of `scale`.
    Decimal {
        /// Digits after the point.
        scale: u8,
        /// The digits as a number.
        value: u32,
    },
    /// `S`, any octets.
    LongStr(&'a [u8]),
    /// `x`
    Bytes(&'a [u8]),
    /// `A`
    Array(Array<'a>),
    /// `T`, seconds since 1970.
    Timestamp(u64),
    /// `F`
    Table(Table<'a>),
    /// `V`
    Void,
}

impl<'a> Table<'a> {
    /// Checks a table given without the four octets of its length.
    ///
    /// # Errors
    /// When the entries do not end where the table ends, a tag is unknown, or the nesting exceeds
    /// [`MAX_DEPTH`].
    pub fn parse(bytes: &'a [u8]) -> Result<Table<'a>, TableError> {
        check(bytes)?;
        Ok(Table { bytes })
    }

    /// The entries in the order they were sent, duplicates included.
    pub fn iter(&self) -> Entries<'a> {
        Entries { reader: Reader(self.bytes) }
    }

    /// The value of the first entry with that key.
    pub fn get(&self, key: impl AsRef<[u8]>) -> Option<Value<'a>> {
        self.iter().find(|(name, _)| *name == key.as_ref()).map(|(_, value)| value)
    }

    /// The value of the last entry with that key, which is what a headers exchange looks at.
    pub fn get_last(&self, key: impl AsRef<[u8]>) -> Option<Value<'a>> {
        self.iter().filter(|(name, _)| *name == key.as_ref()).last().map(|(_, value)| value)
    }

    /// The table without its length.
    pub fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// Whether it has no entries.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }
}

impl<'a> IntoIterator for Table<'a> {
    type Item = (&'a [u8], Value<'a>);
    type IntoIter = Entries<'a>;

    fn into_iter(self) -> Entries<'a> {
        self.iter()
    }
}

impl<'a> Array<'a> {
    /// The items in order.
    pub fn iter(&self) -> Items<'a> {
        Items { reader: Reader(self.bytes) }
    }

    /// The array without its length.
    pub fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// Whether it has no items.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }
}

impl<'a> IntoIterator for Array<'a> {
    type Item = Value<'a>;
    type IntoIter = Items<'a>;

    fn into_iter(self) -> Items<'a> {
        self.iter()
    }
}

/// The entries of a [`Table`].
#[derive(Clone, Debug)]
pub struct Entries<'a> {
    reader: Reader<'a>,
}

impl<'a> Entries<'a> {
    /// The bytes of the entries that are still to come.
    pub(crate) fn rest(&self) -> &'a [u8] {
        self.reader.0
    }
}

impl<'a> Iterator for Entries<'a> {
    type Item = (&'a [u8], Value<'a>);

    fn next(&mut self) -> Option<Self::Item> {
        let key = self.reader.short()?;
        let value = value(&mut self.reader)?;
        Some((key, value))
    }
}

/// The items of an [`Array`].
#[derive(Clone, Debug)]
pub struct Items<'a> {
    reader: Reader<'a>,
}

impl<'a> Iterator for Items<'a> {
    type Item = Value<'a>;

    fn next(&mut self) -> Option<Self::Item> {
        value(&mut self.reader)
    }
}

// Only ever used on bytes that `check` has accepted: `None` means the end.
fn value<'a>(reader: &mut Reader<'a>) -> Option<Value<'a>> {
    Some(match reader.u8()? {
        b't' => Value::Bool(reader.u8()? != 0),
        b'b' => Value::I8(i8::from_be_bytes(reader.array()?)),
        b'B' => Value::U8(reader.u8()?),
        b's' => Value::I16(i16::from_be_bytes(reader.array()?)),
        b'u' => Value::U16(reader.u16()?),
        b'I' => Value::I32(i32::from_be_bytes(reader.array()?)),
        b'i' => Value::U32(reader.u32()?),
        b'l' | b'L' => Value::I64(i64::from_be_bytes(reader.array()?)),
        b'f' => Value::F32(f32::from_be_bytes(reader.array()?)),
        b'd' => Value::F64(f64::from_be_bytes(reader.array()?)),
        b'D' => Value::Decimal { scale: reader.u8()?, value: reader.u32()? },
        b'S' => Value::LongStr(reader.long()?),
        b'x' => Value::Bytes(reader.long()?),
        b'A' => Value::Array(Array { bytes: reader.long()? }),
        b'T' => Value::Timestamp(reader.u64()?),
        b'F' => Value::Table(Table { bytes: reader.long()? }),
        b'V' => Value::Void,
        _ => return None,
    })
}

/// Walks a table with a stack of its own: what is nested costs memory in a list, not in call frames.
fn check(bytes: &[u8]) -> Result<(), TableError> {
    let mut outer: Vec<Level<'_>> = Vec::new();
    let mut level = Level { reader: Reader(bytes), keys: true };
    loop {
        while level.reader.is_empty() {
            match outer.pop() {
                Some(enclosing) => level = enclosing,
                None => return Ok(()),
            }
        }
        if let Some(inner) = level.step()? {
            if outer.len() + 1 == MAX_DEPTH {
                return Err(TableError::TooDeep);
            }
            outer.push(level);
            level = inner;
        }
    }
}

struct Level<'a> {
    reader: Reader<'a>,
    /// A table, whose values have keys, rather than an array.
    keys: bool,
}

impl<'a> Level<'a> {
    /// Passes one field; answers the level to go into when it is a table or an array.
    fn step(&mut self) -> Result<Option<Level<'a>>, TableError> {
        if self.keys {
            self.reader.short().ok_or(TableError::Truncated)?;
        }
        let tag = self.reader.u8().ok_or(TableError::Truncated)?;
        let passed = match tag {
            b'V' => Some(()),
            b't' | b'b' | b'B' => self.reader.take(1).map(drop),
            b's' | b'u' => self.reader.take(2).map(drop),
            b'I' | b'i' | b'f' => self.reader.take(4).map(drop),
            b'D' => self.reader.take(5).map(drop),
            b'l' | b'L' | b'd' | b'T' => self.reader.take(8).map(drop),
            b'S' | b'x' => self.reader.long().map(drop),
            b'A' | b'F' => {
                let bytes = self.reader.long().ok_or(TableError::Truncated)?;
                return Ok(Some(Level { reader: Reader(bytes), keys: tag == b'F' }));
            }
            _ => return Err(TableError::UnknownTag(tag)),
        };
        passed.map(|()| None).ok_or(TableError::Truncated)
    }
}

impl Value<'_> {
    /// The type's name in reply texts.
    pub fn type_word(&self) -> &'static str {
        match self {
            Value::Bool(_) => "bool",
            Value::I8(_) => "byte",
            Value::U8(_) => "unsignedbyte",
            Value::I16(_) => "short",
            Value::U16(_) => "unsignedshort",
            Value::I32(_) => "signedint",
            Value::U32(_) => "unsignedint",
            Value::I64(_) => "long",
            Value::F32(_) => "float",
            Value::F64(_) => "double",
            Value::Decimal { .. } => "decimal",
            Value::LongStr(_) => "longstr",
            Value::Bytes(_) => "binary",
            Value::Array(_) => "array",
            Value::Timestamp(_) => "timestamp",
            Value::Table(_) => "table",
            Value::Void => "void",
        }
    }

    /// The number, when the field has one of the integer types; timestamps and decimals are none.
    pub fn as_integer(&self) -> Option<i64> {
        match *self {
            Value::I8(number) => Some(number.into()),
            Value::U8(number) => Some(number.into()),
            Value::I16(number) => Some(number.into()),
            Value::U16(number) => Some(number.into()),
            Value::I32(number) => Some(number.into()),
            Value::U32(number) => Some(number.into()),
            Value::I64(number) => Some(number),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn long(tag: u8, bytes: &[u8]) -> Vec<u8> {
        [&[tag][..], &u32::try_from(bytes.len()).expect("small").to_be_bytes(), bytes].concat()
    }

    /// Tables inside one another, `levels` in all, without the outermost one's length.
    pub(crate) fn nested(levels: usize) -> Vec<u8> {
        (1..levels).fold(Vec::new(), |inner, _| [b"\x01k".to_vec(), long(b'F', &inner)].concat())
    }

    #[test]
    fn duplicates_stay_and_either_end_can_be_asked() {
        let bytes = b"\x01kb\x01\x01jV\x01kb\x02";
        let table = Table::parse(bytes).expect("well-formed");
        assert_eq!(table.iter().count(), 3);
        assert_eq!(table.get("k"), Some(Value::I8(1)));
        assert_eq!(table.get_last("k"), Some(Value::I8(2)));
        assert_eq!(table.get("x"), None);
    }

    #[test]
    fn keys_may_be_empty_or_any_octets() {
        let table = Table::parse(b"\0t\x05\x02\xFF\xFEL\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF").expect("well-formed");
        assert_eq!(table.get(""), Some(Value::Bool(true)));
        assert_eq!(table.get(b"\xFF\xFE"), Some(Value::I64(-1)));
    }

    #[test]
    fn an_unknown_tag_is_refused_at_any_level() {
        assert_eq!(Table::parse(b"\x01kU\0\x01"), Err(TableError::UnknownTag(b'U')));
        let inner = [b"\x01a".to_vec(), long(b'A', b"z")].concat();
        assert_eq!(Table::parse(&inner), Err(TableError::UnknownTag(b'z')));
    }

    #[test]
    fn a_table_must_end_where_its_last_field_ends() {
        let bytes = [b"\x01k".to_vec(), long(b'S', b"value"), b"\x01ll\0\0\0\0\0\0\0\0".to_vec()].concat();
        let ends = [0, 12, bytes.len()];
        for end in 0..=bytes.len() {
            let expected = if ends.contains(&end) { None } else { Some(TableError::Truncated) };
            assert_eq!(Table::parse(&bytes[..end]).err(), expected, "cut at {end}");
        }
        // An inner table that claims more than its outer one holds.
        assert_eq!(Table::parse(b"\x01kF\0\0\0\x05\x01aV"), Err(TableError::Truncated));
    }

    #[test]
    fn nesting_is_limited_to_128_levels() {
        assert!(Table::parse(&nested(MAX_DEPTH)).is_ok());
        assert_eq!(Table::parse(&nested(MAX_DEPTH + 1)), Err(TableError::TooDeep));
        assert_eq!(Table::parse(&nested(10_000)), Err(TableError::TooDeep));
        let arrays = (0..20_000).fold(Vec::new(), |inner, _| long(b'A', &inner));
        assert_eq!(Table::parse(&[&b"\x01k"[..], &arrays].concat()), Err(TableError::TooDeep));
    }
}
