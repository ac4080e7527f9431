//! One item of a definitions file, field by field.

use leveret_protocol::amq::{AMQPValue, FieldArray, FieldTable};
use serde_json::{Map, Value};
use thiserror::Error;

use crate::access::password::HashError;
use crate::admin::AdminError;
use crate::methods;

/// Why an item was not applied.
#[derive(Debug, Error)]
pub enum ItemError {
    #[error("it has no '{0}'")]
    Missing(&'static str),
    #[error("its '{field}' is not {expected}")]
    Type { field: &'static str, expected: &'static str },
    #[error("its '{0}' is longer than 255 bytes")]
    TooLong(&'static str),
    #[error("it has neither 'password_hash' nor 'password'")]
    NoPassword,
    #[error("its destination_type is neither 'queue' nor 'exchange'")]
    DestinationType,
    #[error("{0} are not supported")]
    NotSupported(&'static str),
    #[error("parameters of the component '{0}' mean nothing here")]
    Component(String),
    #[error("global parameters mean nothing here")]
    GlobalParameter,
    #[error(transparent)]
    Admin(#[from] AdminError),
    #[error(transparent)]
    Hash(#[from] HashError),
    #[error("{}", .0.reply_text())]
    Refused(leveret_protocol::AmqpError),
}

/// An item; fields that are null count as absent.
pub struct Item<'a>(pub &'a Value);

impl<'a> Item<'a> {
    pub fn get(&self, field: &str) -> Option<&'a Value> {
        self.0.get(field).filter(|value| !value.is_null())
    }

    pub fn text(&self, field: &'static str) -> Result<Option<&'a str>, ItemError> {
        let Some(value) = self.get(field) else { return Ok(None) };
        value.as_str().map(Some).ok_or(ItemError::Type { field, expected: "a text" })
    }

    /// A text that must be there.
    pub fn must(&self, field: &'static str) -> Result<&'a str, ItemError> {
        self.text(field)?.ok_or(ItemError::Missing(field))
    }

    /// A name that must be there, and fit into a short string.
    pub fn name(&self, field: &'static str) -> Result<&'a str, ItemError> {
        let name = self.must(field)?;
        if name.len() > 255 { Err(ItemError::TooLong(field)) } else { Ok(name) }
    }

    pub fn flag(&self, field: &'static str, default: bool) -> Result<bool, ItemError> {
        let Some(value) = self.get(field) else { return Ok(default) };
        value.as_bool().ok_or(ItemError::Type { field, expected: "true or false" })
    }

    /// A list of texts, or a text separated by commas.
    pub fn texts(&self, field: &'static str) -> Result<Vec<String>, ItemError> {
        let wrong = || ItemError::Type { field, expected: "a list of texts" };
        match self.get(field) {
            None => Ok(Vec::new()),
            Some(Value::String(text)) => {
                Ok(text.split(',').map(str::trim).filter(|tag| !tag.is_empty()).map(str::to_owned).collect())
            }
            Some(Value::Array(items)) => {
                items.iter().map(|item| item.as_str().map(str::to_owned).ok_or_else(wrong)).collect()
            }
            Some(_) => Err(wrong()),
        }
    }

    pub fn arguments(&self) -> Result<FieldTable, ItemError> {
        let field = "arguments";
        match self.get(field) {
            None => Ok(FieldTable::default()),
            Some(Value::Object(entries)) => table(entries),
            // What RabbitMQ has written for an empty object at times.
            Some(Value::Array(items)) if items.is_empty() => Ok(FieldTable::default()),
            Some(_) => Err(ItemError::Type { field, expected: "an object" }),
        }
    }

    /// Something is in a list or an object of that name.
    pub fn holds(&self, field: &str) -> bool {
        match self.get(field) {
            Some(Value::Array(items)) => !items.is_empty(),
            Some(Value::Object(entries)) => !entries.is_empty(),
            _ => false,
        }
    }
}

fn table(entries: &Map<String, Value>) -> Result<FieldTable, ItemError> {
    let mut table = FieldTable::default();
    for (name, value) in entries {
        if name.len() > 255 {
            return Err(ItemError::TooLong("arguments"));
        }
        table.insert(methods::short(name), argument(value)?);
    }
    Ok(table)
}

/// A value as RabbitMQ makes it of JSON: integers are signed with 64 bits, other numbers doubles.
fn argument(value: &Value) -> Result<AMQPValue, ItemError> {
    let range = ItemError::Type { field: "arguments", expected: "within the range of numbers" };
    Ok(match value {
        Value::Null => AMQPValue::Void,
        Value::Bool(flag) => AMQPValue::Boolean(*flag),
        Value::Number(number) => match (number.as_i64(), number.as_f64()) {
            (Some(integer), _) => AMQPValue::LongLongInt(integer),
            (None, Some(float)) if !number.is_u64() => AMQPValue::Double(float),
            _ => return Err(range),
        },
        Value::String(text) => AMQPValue::LongString(text.as_str().into()),
        Value::Array(items) => {
            let items = items.iter().map(argument).collect::<Result<Vec<_>, _>>()?;
            AMQPValue::FieldArray(FieldArray::from(items))
        }
        Value::Object(entries) => AMQPValue::FieldTable(table(entries)?),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn arguments_become_a_table_with_the_types_that_rabbitmq_gives_them() {
        let json = json!({"arguments": {
            "int": 5, "float": 1.5, "text": "x", "flag": true, "none": null, "list": [1, "a"], "table": {"k": 1},
        }});
        let table = Item(&json).arguments().expect("a table");
        let get = |name: &str| table.inner().get(name).cloned().unwrap_or(AMQPValue::Void);
        assert_eq!(get("int"), AMQPValue::LongLongInt(5));
        assert_eq!(get("float"), AMQPValue::Double(1.5));
        assert_eq!(get("text"), AMQPValue::LongString("x".into()));
        assert_eq!(get("flag"), AMQPValue::Boolean(true));
        assert!(matches!(get("list"), AMQPValue::FieldArray(items) if items.as_slice().len() == 2));
        assert!(matches!(get("table"), AMQPValue::FieldTable(_)));
    }

    #[test]
    fn tags_are_a_list_or_a_text_with_commas() {
        let json = json!({"list": ["a", "b"], "text": "a, b,", "none": null, "number": 1});
        let item = Item(&json);
        assert_eq!(item.texts("list").expect("texts"), ["a", "b"]);
        assert_eq!(item.texts("text").expect("texts"), ["a", "b"]);
        assert!(item.texts("none").expect("texts").is_empty());
        assert!(item.texts("number").is_err());
    }

    #[test]
    fn what_is_missing_or_of_the_wrong_type_is_named() {
        let json = json!({"durable": "yes", "long": "x".repeat(256)});
        let item = Item(&json);
        assert_eq!(item.must("name").map_err(|error| error.to_string()), Err("it has no 'name'".to_owned()));
        let error = item.flag("durable", true).map_err(|error| error.to_string());
        assert_eq!(error, Err("its 'durable' is not true or false".to_owned()));
        assert!(item.name("long").is_err());
    }
}
