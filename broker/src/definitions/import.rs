//! Applies definitions, item by item: what cannot be applied is reported, everything else is there afterwards. Nothing
//! is deleted; exchanges and queues that exist stay as they are.

use std::sync::Arc;

use serde_json::Value;

use super::item::{Item, ItemError};
use super::{Definitions, SECTIONS};
use crate::access::password::{Algorithm, PasswordHash};
use crate::access::{Permissions, TopicPermissions};
use crate::admin::{AdminError, Change, Metadata, Secret};
use crate::policy::Kind;
use crate::queue::arguments::{self, Flags};
use crate::server::Shared;
use crate::vhost::VHost;
use crate::vhost::command::{BindingSpec, DestinationKind, ExchangeDeclare, QueueDeclare};

/// An item, or a part of one, that was not applied.
#[derive(Debug)]
pub struct Left {
    /// As a reader of the file would find it.
    pub item: String,
    pub reason: ItemError,
}

/// What came of an import.
#[derive(Debug, Default)]
pub struct Imported {
    /// Items that are in force now.
    pub applied: usize,
    /// What means nothing to this broker.
    pub ignored: Vec<Left>,
    /// What is wrong, or is not supported.
    pub refused: Vec<Left>,
}

struct Import<'a> {
    shared: &'a Shared,
    definitions: &'a Definitions,
    imported: Imported,
}

type Outcome = Result<(), ItemError>;

impl Shared {
    pub fn import(&self, definitions: &Definitions) -> Imported {
        let mut import = Import { shared: self, definitions, imported: Imported::default() };
        for section in SECTIONS {
            for item in definitions.section(section) {
                import.apply(section, item);
            }
        }
        import.imported
    }
}

impl Import<'_> {
    fn apply(&mut self, section: &'static str, json: &Value) {
        let item = Item(json);
        let outcome = match section {
            "users" => self.user(&item),
            "vhosts" => self.vhost(&item),
            "permissions" => self.permissions(&item),
            "topic_permissions" => self.topic_permissions(&item),
            "exchanges" => self.exchange(&item),
            "queues" => self.queue(&item),
            "bindings" => self.binding(&item),
            "policies" => self.policy(&item),
            "parameters" => self.parameter(&item),
            _ => Err(ItemError::GlobalParameter),
        };
        match outcome {
            Ok(()) => self.imported.applied += 1,
            Err(reason @ (ItemError::GlobalParameter | ItemError::Component(_))) => {
                self.imported.ignored.push(Left { item: described(section, &item), reason });
            }
            Err(reason) => self.refuse(section, &item, reason),
        }
    }

    fn refuse(&mut self, section: &'static str, item: &Item<'_>, reason: ItemError) {
        self.imported.refused.push(Left { item: described(section, item), reason });
    }

    fn change(&self, change: Change) -> Outcome {
        // Nobody waits for a single one: what comes later is on disk later.
        self.shared.change(change).map(drop).map_err(ItemError::Admin)
    }

    fn user(&mut self, item: &Item<'_>) -> Outcome {
        let name = item.name("name")?.to_owned();
        let secret = match (item.text("password_hash")?, item.text("password")?) {
            (Some(hash), _) => {
                let algorithm = item.text("hashing_algorithm")?.unwrap_or_else(|| self.default_algorithm().as_str());
                Secret::Hash(PasswordHash::parse(algorithm, hash)?)
            }
            (None, Some(password)) => Secret::Password(password.into()),
            (None, None) => return Err(ItemError::NoPassword),
        };
        self.change(Change::SetUser { name, secret, tags: item.texts("tags")? })?;
        if item.holds("limits") {
            self.refuse("users", item, ItemError::NotSupported("limits of users"));
        }
        Ok(())
    }

    /// Files before 3.6.0 did not say how passwords were hashed.
    fn default_algorithm(&self) -> Algorithm {
        let version = self.definitions.text("rabbit_version").or_else(|| self.definitions.text("rabbitmq_version"));
        let mut numbers = version.unwrap_or_default().split('.').map(|part| part.parse::<u32>().ok());
        match (numbers.next().flatten(), numbers.next().flatten()) {
            (Some(major), Some(minor)) if (major, minor) < (3, 6) => Algorithm::Md5,
            _ => Algorithm::Sha256,
        }
    }

    fn vhost(&mut self, item: &Item<'_>) -> Outcome {
        let name = item.name("name")?.to_owned();
        let nested = item.get("metadata").cloned().unwrap_or_default();
        let nested = Item(&nested);
        let text = |field: &'static str| {
            nested.text(field).and_then(|found| found.map_or_else(|| item.text(field), |found| Ok(Some(found))))
        };
        let tags = if nested.get("tags").is_some() { nested.texts("tags")? } else { item.texts("tags")? };
        let metadata = Metadata {
            description: text("description")?.unwrap_or_default().into(),
            tags: tags.into_iter().map(Into::into).collect(),
            default_queue_type: text("default_queue_type")?.map(Into::into),
        };
        self.change(Change::SetVHost { name, metadata })?;
        if item.holds("limits") {
            self.refuse("vhosts", item, ItemError::NotSupported("limits of virtual hosts"));
        }
        Ok(())
    }

    /// The virtual host of an item; in the definitions of a single one, that one.
    fn vhost_name(&self, item: &Item<'_>) -> Result<String, ItemError> {
        let alone = || self.definitions.text("original_vhost_name").unwrap_or(&self.shared.config.default_vhost);
        Ok(item.text("vhost")?.unwrap_or_else(alone).to_owned())
    }

    fn vhost_of(&self, item: &Item<'_>) -> Result<Arc<VHost>, ItemError> {
        let name = self.vhost_name(item)?;
        self.shared.vhost(&name).ok_or(ItemError::Admin(AdminError::NoSuchVHost(name)))
    }

    fn permissions(&mut self, item: &Item<'_>) -> Outcome {
        let permissions = Permissions {
            configure: item.must("configure")?.into(),
            write: item.must("write")?.into(),
            read: item.must("read")?.into(),
        };
        let (user, vhost) = (item.must("user")?.to_owned(), self.vhost_name(item)?);
        self.change(Change::SetPermissions { user, vhost, permissions })
    }

    fn topic_permissions(&mut self, item: &Item<'_>) -> Outcome {
        let permissions = TopicPermissions {
            exchange: item.name("exchange")?.into(),
            write: item.must("write")?.into(),
            read: item.must("read")?.into(),
        };
        let (user, vhost) = (item.must("user")?.to_owned(), self.vhost_name(item)?);
        self.change(Change::SetTopicPermissions { user, vhost, permissions })
    }

    fn policy(&mut self, item: &Item<'_>) -> Outcome {
        let (name, vhost) = (item.name("name")?.to_owned(), self.vhost_name(item)?);
        self.change(Change::SetPolicy { kind: Kind::User, vhost, name, policy: item.0.clone() })
    }

    /// Operator policies are exported as parameters of a component of their own.
    fn parameter(&mut self, item: &Item<'_>) -> Outcome {
        let kind = match item.must("component")? {
            "operator_policy" => Kind::Operator,
            "policy" => Kind::User,
            other => return Err(ItemError::Component(other.to_owned())),
        };
        let (name, vhost) = (item.name("name")?.to_owned(), self.vhost_name(item)?);
        let policy = item.get("value").ok_or(ItemError::Missing("value"))?.clone();
        self.change(Change::SetPolicy { kind, vhost, name, policy })
    }

    fn exchange(&mut self, item: &Item<'_>) -> Outcome {
        let declare = ExchangeDeclare {
            name: item.name("name")?.into(),
            kind: item.must("type")?.into(),
            durable: item.flag("durable", true)?,
            auto_delete: item.flag("auto_delete", false)?,
            internal: item.flag("internal", false)?,
            arguments: item.arguments()?,
        };
        let vhost = self.vhost_of(item)?;
        if declare.name.is_empty() || declare.name.starts_with("amq.") {
            return Ok(());
        }
        vhost.import(|topology| topology.import_exchange(&declare)).map_err(ItemError::Refused)
    }

    fn queue(&mut self, item: &Item<'_>) -> Outcome {
        let mut declare = QueueDeclare {
            name: item.name("name")?.into(),
            passive: false,
            durable: item.flag("durable", true)?,
            exclusive: false,
            auto_delete: item.flag("auto_delete", false)?,
            arguments: item.arguments()?,
        };
        let vhost = self.vhost_of(item)?;
        let metadata = vhost.metadata();
        let flags = Flags { durable: declare.durable, exclusive: false, auto_delete: declare.auto_delete };
        match (item.text("type")?, metadata.default_queue_type.as_deref()) {
            (Some("classic" | "undefined" | "default"), _) => {}
            (Some(kind), _) => arguments::insert_type(&mut declare.arguments, kind),
            (None, Some(default)) => arguments::insert_default_type(&mut declare.arguments, default, flags),
            (None, None) => {}
        }
        vhost.import(|topology| topology.import_queue(declare)).map_err(ItemError::Refused)
    }

    fn binding(&mut self, item: &Item<'_>) -> Outcome {
        let kind = match item.must("destination_type")? {
            "queue" => DestinationKind::Queue,
            "exchange" => DestinationKind::Exchange,
            _ => return Err(ItemError::DestinationType),
        };
        let binding = BindingSpec {
            source: item.name("source")?.into(),
            kind,
            destination: item.name("destination")?.into(),
            key: item.name("routing_key")?.as_bytes().into(),
            arguments: item.arguments()?,
        };
        let vhost = self.vhost_of(item)?;
        if binding.source.is_empty() {
            // Every queue has that one.
            return Ok(());
        }
        vhost.import(|topology| topology.import_binding(binding)).map_err(ItemError::Refused)
    }
}

/// What a reader of the file would call the item.
fn described(section: &'static str, item: &Item<'_>) -> String {
    let one = match section {
        "policies" => "policy",
        "topic_permissions" => "topic permissions",
        "permissions" => "permissions",
        "global_parameters" => "global parameter",
        "vhosts" => "virtual host",
        other => other.strip_suffix('s').unwrap_or(other),
    };
    let text = |field: &str| item.get(field).and_then(Value::as_str);
    let what = match section {
        "bindings" => format!("from '{}' to '{}'", text("source").unwrap_or(""), text("destination").unwrap_or("")),
        "permissions" | "topic_permissions" => format!("of user '{}'", text("user").unwrap_or("")),
        _ => format!("'{}'", text("name").unwrap_or("")),
    };
    match text("vhost") {
        Some(vhost) => format!("{one} {what} in vhost '{vhost}'"),
        None => format!("{one} {what}"),
    }
}
