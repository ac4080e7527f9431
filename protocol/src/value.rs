//! Field tables as values of their own: what methods carry as arguments, and what is kept of them on disk.

use crate::{
    error::{octets, text_of},
    reader::Reader,
    table::{Table, TableError, Value},
};
use amq_protocol::{
    frame::WriteContext,
    types::{
        AMQPValue, ByteArray, DecimalValue, FieldArray, FieldTable, LongString, ShortString,
        generation::gen_field_table,
    },
};
use std::fmt::Write;

/// A short string of a text that may be too long for one: cut to 255 octets, between two characters.
pub fn short(text: impl AsRef<str>) -> ShortString {
    let text = text.as_ref();
    let end = text.floor_char_boundary(255);
    ShortString::try_new(&text[..end]).unwrap_or_default()
}

/// The type's name in reply texts.
pub fn type_word(value: &AMQPValue) -> &'static str {
    match value {
        AMQPValue::Boolean(_) => "bool",
        AMQPValue::ShortShortInt(_) => "byte",
        AMQPValue::ShortShortUInt(_) => "unsignedbyte",
        AMQPValue::ShortInt(_) => "short",
        AMQPValue::ShortUInt(_) => "unsignedshort",
        AMQPValue::LongInt(_) => "signedint",
        AMQPValue::LongUInt(_) => "unsignedint",
        AMQPValue::LongLongInt(_) => "long",
        AMQPValue::Float(_) => "float",
        AMQPValue::Double(_) => "double",
        AMQPValue::DecimalValue(_) => "decimal",
        AMQPValue::ShortString(_) | AMQPValue::LongString(_) => "longstr",
        AMQPValue::FieldArray(_) => "array",
        AMQPValue::Timestamp(_) => "timestamp",
        AMQPValue::FieldTable(_) => "table",
        AMQPValue::ByteArray(_) => "binary",
        AMQPValue::Void => "void",
    }
}

/// The number, when the value has one of the integer types; timestamps and decimals are none.
pub fn as_integer(value: &AMQPValue) -> Option<i64> {
    match *value {
        AMQPValue::ShortShortInt(number) => Some(number.into()),
        AMQPValue::ShortShortUInt(number) => Some(number.into()),
        AMQPValue::ShortInt(number) => Some(number.into()),
        AMQPValue::ShortUInt(number) => Some(number.into()),
        AMQPValue::LongInt(number) => Some(number.into()),
        AMQPValue::LongUInt(number) => Some(number.into()),
        AMQPValue::LongLongInt(number) => Some(number),
        _ => None,
    }
}

/// A value as reply texts show it: `10`, `true`, `100.0`, a string's text, `undefined` for void; tables and
/// arrays in brackets.
pub fn show(value: &AMQPValue) -> String {
    let mut text = String::new();
    push_value(&mut text, value);
    text
}

// Recursion is bounded: values come from tables of at most 128 levels. Writing to a String cannot fail.
fn push_value(text: &mut String, value: &AMQPValue) {
    match value {
        AMQPValue::Boolean(bool) => text.push_str(if *bool { "true" } else { "false" }),
        AMQPValue::Float(number) => text.push_str(&show_float(f64::from(*number))),
        AMQPValue::Double(number) => text.push_str(&show_float(*number)),
        AMQPValue::DecimalValue(decimal) => {
            let _ = write!(text, "{{{},{}}}", decimal.scale, decimal.value);
        }
        AMQPValue::ShortString(string) => text.push_str(string.as_str()),
        AMQPValue::LongString(string) => text.push_str(&text_of(string.as_bytes())),
        AMQPValue::ByteArray(bytes) => text.push_str(&text_of(bytes.as_slice())),
        AMQPValue::Timestamp(seconds) => {
            let _ = write!(text, "{seconds}");
        }
        AMQPValue::FieldArray(items) => push_list(text, items.as_slice(), push_typed),
        AMQPValue::FieldTable(table) => push_list(text, table, |text, (key, value)| {
            let _ = write!(text, "{{{},{},", octets(key.as_str().as_bytes()), type_word(value));
            push_inner(text, value);
            text.push('}');
        }),
        AMQPValue::Void => text.push_str("undefined"),
        integer => {
            let _ = write!(text, "{}", as_integer(integer).unwrap_or_default());
        }
    }
}

fn push_typed(text: &mut String, value: &AMQPValue) {
    let _ = write!(text, "{{{},", type_word(value));
    push_inner(text, value);
    text.push('}');
}

/// A value inside another: a string shows that it is one.
fn push_inner(text: &mut String, value: &AMQPValue) {
    match value {
        AMQPValue::ShortString(string) => text.push_str(&octets(string.as_str().as_bytes())),
        AMQPValue::LongString(string) => text.push_str(&octets(string.as_bytes())),
        AMQPValue::ByteArray(bytes) => text.push_str(&octets(bytes.as_slice())),
        other => push_value(text, other),
    }
}

fn push_list<T>(text: &mut String, items: impl IntoIterator<Item = T>, push: impl Fn(&mut String, T)) {
    text.push('[');
    for (index, item) in items.into_iter().enumerate() {
        if index > 0 {
            text.push(',');
        }
        push(text, item);
    }
    text.push(']');
}

/// The shortest digits that give back the number, with a point and a digit after it, and with an exponent where
/// that is shorter, as Erlang does it: `100.0`, `1.0e3`, `0.001`.
fn show_float(number: f64) -> String {
    let scientific = format!("{number:e}");
    let Some((digits, exponent)) = scientific.split_once('e') else {
        return scientific;
    };
    let (sign, digits) = digits.strip_prefix('-').map_or(("", digits), |digits| ("-", digits));
    let digits = digits.replace('.', "");
    let count = digits.len() as i32;
    // The digits before the point; as many zeros after it as this is below 0.
    let place = exponent.parse::<i32>().unwrap_or_default() + 1;
    let with_exponent = exponent.len() as i32 + if count == 1 { 3 } else { 2 };
    let zeros = |count: i32| "0".repeat(usize::try_from(count).unwrap_or_default());
    match usize::try_from(place) {
        Ok(0) => format!("{sign}0.{digits}"),
        Ok(before) if place < count => format!("{sign}{}.{}", &digits[..before], &digits[before..]),
        Ok(_) if place - count + 2 <= with_exponent => {
            format!("{sign}{digits}{}.0", zeros(place - count))
        }
        Err(_) if 2 - place <= with_exponent => format!("{sign}0.{}{digits}", zeros(-place)),
        _ => {
            let (first, rest) = digits.split_at(1);
            format!("{sign}{first}.{}e{exponent}", if rest.is_empty() { "0" } else { rest })
        }
    }
}

impl Value<'_> {
    /// The same value, independent of the bytes it was read from.
    pub fn to_amq(&self) -> AMQPValue {
        match *self {
            Value::Bool(bool) => AMQPValue::Boolean(bool),
            Value::I8(number) => AMQPValue::ShortShortInt(number),
            Value::U8(number) => AMQPValue::ShortShortUInt(number),
            Value::I16(number) => AMQPValue::ShortInt(number),
            Value::U16(number) => AMQPValue::ShortUInt(number),
            Value::I32(number) => AMQPValue::LongInt(number),
            Value::U32(number) => AMQPValue::LongUInt(number),
            Value::I64(number) => AMQPValue::LongLongInt(number),
            Value::F32(number) => AMQPValue::Float(number),
            Value::F64(number) => AMQPValue::Double(number),
            Value::Decimal { scale, value } => AMQPValue::DecimalValue(DecimalValue { scale, value }),
            Value::LongStr(bytes) => AMQPValue::LongString(LongString::from(bytes)),
            Value::Bytes(bytes) => AMQPValue::ByteArray(ByteArray::from(bytes)),
            Value::Array(items) => {
                let items: Vec<_> = items.iter().map(|item| item.to_amq()).collect();
                AMQPValue::FieldArray(FieldArray::from(items))
            }
            Value::Timestamp(seconds) => AMQPValue::Timestamp(seconds),
            Value::Table(table) => AMQPValue::FieldTable(table.to_amq()),
            Value::Void => AMQPValue::Void,
        }
    }
}

impl Table<'_> {
    /// The same entries as a map. Of entries with the same key the first counts, and a key that is not UTF-8
    /// is taken as Latin-1.
    pub fn to_amq(&self) -> FieldTable {
        let mut table = FieldTable::default();
        for (key, value) in self.iter() {
            let key = short(text_of(key));
            if !table.contains_key(key.as_str()) {
                table.insert(key, value.to_amq());
            }
        }
        table
    }
}

/// The table in wire format, with the four octets of its length.
pub fn encode_table(table: &FieldTable) -> Vec<u8> {
    // Writing to memory fails only for a table above 4 GiB, and arguments came in one frame.
    gen_field_table(table)(WriteContext::from(Vec::new())).map_or_else(|_| vec![0; 4], |written| written.write)
}

/// Reads what [`encode_table`] wrote.
///
/// # Errors
/// When the bytes are not exactly one well-formed table with its length.
pub fn decode_table(bytes: &[u8]) -> Result<FieldTable, TableError> {
    let mut reader = Reader(bytes);
    let inner = reader.long().filter(|_| reader.is_empty()).ok_or(TableError::Truncated)?;
    Ok(Table::parse(inner)?.to_amq())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_shown_as_reply_texts_show_them() {
        assert_eq!(show(&AMQPValue::LongInt(-10)), "-10");
        assert_eq!(show(&AMQPValue::Boolean(true)), "true");
        assert_eq!(show(&AMQPValue::Double(100.0)), "100.0");
        assert_eq!(show(&AMQPValue::Float(0.5)), "0.5");
        assert_eq!(show(&AMQPValue::LongString("text".into())), "text");
        assert_eq!(show(&AMQPValue::Void), "undefined");
        let array = AMQPValue::FieldArray(vec![AMQPValue::LongInt(1), AMQPValue::Void].into());
        assert_eq!(show(&array), "[{signedint,1},{void,undefined}]");
    }

    #[test]
    fn floats_are_shown_as_erlang_shows_them() {
        let shown = |number| show(&AMQPValue::Double(number));
        let plain = ["0.0", "1.0", "-1.5", "100.0", "12345.0", "1234.5", "0.1", "0.001", "0.0125"];
        for text in plain {
            assert_eq!(shown(text.parse().expect("a number")), text);
        }
        assert_eq!([shown(1000.0), shown(-1e30), shown(1.25e30)], ["1.0e3", "-1.0e30", "1.25e30"]);
        assert_eq!([shown(1e-7), shown(1.25e-20)], ["1.0e-7", "1.25e-20"]);
        assert_eq!([shown(f64::NAN), shown(f64::INFINITY)], ["NaN", "inf"]);
    }

    #[test]
    fn every_integer_type_is_an_integer_and_nothing_else_is() {
        let integers = [
            AMQPValue::ShortShortInt(7),
            AMQPValue::ShortShortUInt(7),
            AMQPValue::ShortInt(7),
            AMQPValue::ShortUInt(7),
            AMQPValue::LongInt(7),
            AMQPValue::LongUInt(7),
            AMQPValue::LongLongInt(7),
        ];
        assert!(integers.iter().all(|value| as_integer(value) == Some(7)));
        let others = [AMQPValue::Timestamp(7), AMQPValue::Double(7.0), AMQPValue::LongString("7".into())];
        assert!(others.iter().all(|value| as_integer(value).is_none()));
    }

    #[test]
    fn the_first_of_duplicate_keys_counts() {
        let table = Table::parse(b"\x01kb\x01\x01kb\x02").expect("well-formed").to_amq();
        assert_eq!(table.inner().get("k"), Some(&AMQPValue::ShortShortInt(1)));
    }

    #[test]
    fn short_cuts_between_characters() {
        assert_eq!(short("x".repeat(300)).as_str().len(), 255);
        assert_eq!(short("é".repeat(128)).as_str().len(), 254);
    }
}
