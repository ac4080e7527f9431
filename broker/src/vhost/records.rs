//! What administrators set, as storage keeps it: users, virtual hosts, permissions and policies, as JSON in the shape
//! that RabbitMQ's definitions have.

use serde_json::{Value, json};

use super::definition::{BadDefinition, Key, key};
use crate::access::password::PasswordHash;
use crate::access::{Permissions, TopicPermissions, User};
use crate::policy::{Kind, Policy};

/// What is known of a virtual host beyond its name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Metadata {
    pub description: Box<str>,
    pub tags: Vec<Box<str>>,
    /// The type of queues that are declared without one; None: classic.
    pub default_queue_type: Option<Box<str>>,
}

/// One record.
pub enum Record {
    User(User),
    VHost(Metadata),
    /// Of the user of that name, in the virtual host.
    Permissions(Box<str>, Permissions),
    TopicPermissions(Box<str>, TopicPermissions),
    Policy(Kind, Policy),
}

pub const USER: u8 = b'u';
pub const VHOST: u8 = b'v';
pub const PERMISSIONS: u8 = b'p';
pub const TOPIC_PERMISSIONS: u8 = b't';
pub const POLICY: u8 = b'y';
pub const OPERATOR_POLICY: u8 = b'o';

pub fn user_key(name: &str) -> Key {
    key(USER, &[b"", name.as_bytes()])
}

pub fn vhost_key(name: &str) -> Key {
    key(VHOST, &[name.as_bytes()])
}

pub fn permissions_key(user: &str, vhost: &str) -> Key {
    key(PERMISSIONS, &[vhost.as_bytes(), user.as_bytes()])
}

pub fn topic_permissions_key(user: &str, vhost: &str, exchange: &str) -> Key {
    key(TOPIC_PERMISSIONS, &[vhost.as_bytes(), user.as_bytes(), exchange.as_bytes()])
}

pub fn policy_key(kind: Kind, vhost: &str, name: &str) -> Key {
    let kind = match kind {
        Kind::User => POLICY,
        Kind::Operator => OPERATOR_POLICY,
    };
    key(kind, &[vhost.as_bytes(), name.as_bytes()])
}

impl Record {
    /// The value to be stored under the record's key.
    pub fn value(&self) -> Box<[u8]> {
        let json = match self {
            Record::User(user) => json!({
                "password_hash": user.password.to_base64(),
                "hashing_algorithm": user.password.algorithm.as_str(),
                "tags": user.tags,
            }),
            Record::VHost(metadata) => json!({
                "description": metadata.description,
                "tags": metadata.tags,
                "default_queue_type": metadata.default_queue_type,
            }),
            Record::Permissions(_, given) => {
                json!({"configure": given.configure, "write": given.write, "read": given.read})
            }
            Record::TopicPermissions(_, given) => json!({"write": given.write, "read": given.read}),
            Record::Policy(_, policy) => policy.to_json(),
        };
        json.to_string().into_bytes().into()
    }

    /// Reads a record back: its kind, the names of its key behind the virtual host, and its value.
    pub fn read(kind: u8, names: &[Box<str>], value: &[u8]) -> Result<Record, BadDefinition> {
        let json: Value = serde_json::from_slice(value).map_err(|_| BadDefinition)?;
        let text = |name: &str| json.get(name).and_then(Value::as_str).map(Box::from).ok_or(BadDefinition);
        Ok(match (kind, names) {
            (USER, [name]) => {
                let algorithm: Box<str> = text("hashing_algorithm")?;
                let hash: Box<str> = text("password_hash")?;
                let password = PasswordHash::parse(&algorithm, &hash).map_err(|_| BadDefinition)?;
                Record::User(User { name: name.clone(), password, tags: texts(&json, "tags") })
            }
            (VHOST, []) => Record::VHost(Metadata {
                description: text("description")?,
                tags: texts(&json, "tags"),
                default_queue_type: text("default_queue_type").ok(),
            }),
            (PERMISSIONS, [user]) => {
                let given = Permissions { configure: text("configure")?, write: text("write")?, read: text("read")? };
                Record::Permissions(user.clone(), given)
            }
            (TOPIC_PERMISSIONS, [user, exchange]) => {
                let given = TopicPermissions { exchange: exchange.clone(), write: text("write")?, read: text("read")? };
                Record::TopicPermissions(user.clone(), given)
            }
            (POLICY, [name]) => Record::Policy(Kind::User, policy(Kind::User, name, &json)?),
            (OPERATOR_POLICY, [name]) => Record::Policy(Kind::Operator, policy(Kind::Operator, name, &json)?),
            _ => return Err(BadDefinition),
        })
    }
}

fn policy(kind: Kind, name: &str, json: &Value) -> Result<Policy, BadDefinition> {
    Policy::parse(kind, name, json).map_err(|_| BadDefinition)
}

fn texts(json: &Value, name: &str) -> Vec<Box<str>> {
    let items = json.get(name).and_then(Value::as_array);
    items.into_iter().flatten().filter_map(Value::as_str).map(Box::from).collect()
}
