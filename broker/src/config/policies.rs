//! Policies in the configuration file: tables `[[policy]]` and `[[operator_policy]]`.

use serde_json::Value;

use super::{Config, ConfigError};
use crate::policy::{Kind, Policy, PolicyError};

/// A policy that is set at every start.
#[derive(Clone, Debug, PartialEq)]
pub struct ConfiguredPolicy {
    pub kind: Kind,
    /// None: the default virtual host.
    pub vhost: Option<String>,
    pub name: String,
    /// As [`Policy::parse`] reads it.
    pub policy: Value,
}

/// What is wrong with one of the tables.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PolicyTableError {
    #[error("{table} {number}: `{key}` must be a text")]
    Text { table: &'static str, number: usize, key: &'static str },
    #[error(
        "{table} '{name}': unknown key `{key}`, expected one of name, vhost, pattern, apply-to, priority, definition"
    )]
    UnknownKey { table: &'static str, name: String, key: String },
    #[error("{table} '{name}': {}", .reason.to_string().replace('\n', "; "))]
    Policy { table: &'static str, name: String, reason: PolicyError },
}

impl Config {
    /// The policies of both kinds.
    ///
    /// # Errors
    /// [`ConfigError::Policy`] for the first one that is wrong.
    pub fn policies(&self) -> Result<Vec<ConfiguredPolicy>, ConfigError> {
        let users = self.policy.iter().enumerate().map(|(at, table)| read(Kind::User, at + 1, table));
        let operators = self.operator_policy.iter().enumerate().map(|(at, table)| read(Kind::Operator, at + 1, table));
        users.chain(operators).collect::<Result<_, _>>().map_err(|reason| ConfigError::Policy { reason })
    }
}

fn read(kind: Kind, number: usize, entries: &toml::Table) -> Result<ConfiguredPolicy, PolicyTableError> {
    let table = match kind {
        Kind::User => "policy",
        Kind::Operator => "operator_policy",
    };
    let text = |key| match entries.get(key) {
        None => Ok(None),
        Some(toml::Value::String(text)) => Ok(Some(text.clone())),
        Some(_) => Err(PolicyTableError::Text { table, number, key }),
    };
    let name = text("name")?.ok_or(PolicyTableError::Text { table, number, key: "name" })?;
    let vhost = text("vhost")?;
    let mut policy = serde_json::Map::new();
    for (key, value) in entries {
        let key = match key.as_str() {
            "name" | "vhost" => continue,
            "apply_to" => "apply-to",
            known @ ("pattern" | "apply-to" | "priority" | "definition") => known,
            _ => return Err(PolicyTableError::UnknownKey { table, name, key: key.clone() }),
        };
        policy.insert(key.to_owned(), json(value));
    }
    let policy = Value::Object(policy);
    match Policy::parse(kind, &name, &policy) {
        Ok(_) => Ok(ConfiguredPolicy { kind, vhost, name, policy }),
        Err(reason) => Err(PolicyTableError::Policy { table, name, reason }),
    }
}

fn json(value: &toml::Value) -> Value {
    match value {
        toml::Value::String(text) => text.as_str().into(),
        toml::Value::Integer(number) => (*number).into(),
        toml::Value::Float(number) => (*number).into(),
        toml::Value::Boolean(flag) => (*flag).into(),
        toml::Value::Datetime(moment) => moment.to_string().into(),
        toml::Value::Array(items) => items.iter().map(json).collect(),
        toml::Value::Table(entries) => entries.iter().map(|(key, value)| (key.clone(), json(value))).collect(),
    }
}

/// The tables as a file has them.
pub(super) fn shown(config: &Config) -> String {
    let mut all = toml::Table::new();
    for (name, tables) in [("policy", &config.policy), ("operator_policy", &config.operator_policy)] {
        if !tables.is_empty() {
            let tables = tables.iter().cloned().map(toml::Value::Table).collect();
            all.insert(name.to_owned(), toml::Value::Array(tables));
        }
    }
    all.to_string()
}
