//! What administrators change: users, virtual hosts, permissions and policies. Each change is one [`Change`], applied
//! at once and kept as definitions in storage; who wants to know when it is safe waits for its [`Stored`].

mod api;

use std::collections::HashMap;
use std::sync::{Arc, PoisonError};

use leveret_protocol::AmqpError;
use leveret_storage::{Entry, Level, Op};
use serde_json::Value;
use thiserror::Error;
use tokio::sync::oneshot;

pub use self::api::{Administered, PermissionsOf, PolicyOf, TopicPermissionsOf, VHostOf};
use crate::access::password::{HashError, PasswordHash};
use crate::access::{Granted, Permissions, Place, State, TopicGranted, TopicPermissions, User};
use crate::command::{ConnectionEvent, Peer, Token, Whose};
use crate::definitions::{Definitions, Imported};
use crate::pattern::PatternError;
use crate::policy::{Kind, Policy, PolicyError};
use crate::server::Shared;
use crate::vhost::VHost;
use crate::vhost::command::TopologyCommand;
use crate::vhost::definition;
pub use crate::vhost::records::Metadata;
use crate::vhost::records::{self, Record};

/// The longest name, in bytes: it is a short string on the wire (AMQP 4.2.5.3).
const LONGEST_NAME: usize = 255;

/// How a user's password is given.
#[derive(Clone, Debug)]
pub enum Secret {
    Password(crate::config::Password),
    Hash(PasswordHash),
}

/// One change.
pub(crate) enum Change {
    /// Adds a virtual host, or describes an existing one anew.
    SetVHost {
        name: String,
        metadata: Metadata,
    },
    DeleteVHost {
        name: String,
    },
    /// Adds a user, or gives an existing one this password and these tags.
    SetUser {
        name: String,
        secret: Secret,
        tags: Vec<String>,
    },
    DeleteUser {
        name: String,
    },
    SetPermissions {
        user: String,
        vhost: String,
        permissions: Permissions,
    },
    ClearPermissions {
        user: String,
        vhost: String,
    },
    SetTopicPermissions {
        user: String,
        vhost: String,
        permissions: TopicPermissions,
    },
    /// For one exchange, or for all of them.
    ClearTopicPermissions {
        user: String,
        vhost: String,
        exchange: Option<String>,
    },
    SetPolicy {
        kind: Kind,
        vhost: String,
        name: String,
        policy: Value,
    },
    ClearPolicy {
        kind: Kind,
        vhost: String,
        name: String,
    },
}

/// Why something was not changed.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum AdminError {
    #[error("User '{0}' does not exist")]
    NoSuchUser(String),
    #[error("Virtual host '{0}' does not exist")]
    NoSuchVHost(String),
    #[error("Policy '{0}' does not exist")]
    NoSuchPolicy(String),
    #[error("a name must have from 1 to {LONGEST_NAME} bytes")]
    Name,
    #[error("a password must not be empty")]
    EmptyPassword,
    #[error("default_queue_type '{0}' is not supported")]
    QueueType(String),
    #[error(transparent)]
    Hash(#[from] HashError),
    #[error("invalid regular expression: {0}")]
    Expression(#[from] PatternError),
    /// A line for each reason.
    #[error(transparent)]
    Policy(#[from] PolicyError),
    #[error("the broker has ended: what was changed may not be on disk")]
    Ended,
}

/// Comes when a change is on disk; fails when it never will be.
pub(crate) type Stored = oneshot::Receiver<()>;

/// What a [`crate::Broker`] asks of its parts. A trait, since naming them would make users' compilers walk through
/// the snapshots' deeply nested types.
pub(crate) trait Control: Send + Sync {
    /// Lets every queue note exactly what was redelivered.
    fn note_returned(&self);
    fn change(&self, change: Change) -> Result<Stored, AdminError>;
    fn administered(&self) -> Administered;
    /// Comes with what tells when all of it is on disk.
    fn import(&self, definitions: &Definitions) -> (Imported, Stored);
    /// The open connections.
    fn peers(&self) -> Vec<Arc<Peer>>;
}

/// Entries for storage that belong to one change.
#[derive(Default)]
struct Entries(Vec<Entry<Token>>);

impl Entries {
    fn put(&mut self, key: definition::Key, value: definition::Value) {
        self.0.push(Entry::Op(Op::PutDefinition { key, value }));
    }

    fn delete(&mut self, key: definition::Key) {
        self.0.push(Entry::Op(Op::DeleteDefinition { key }));
    }
}

impl Shared {
    /// Applies a change.
    ///
    /// # Errors
    /// What is wrong with it; then nothing has changed.
    pub(crate) fn change(&self, change: Change) -> Result<Stored, AdminError> {
        // One at a time: each takes the picture, changes a copy, and puts that in its place.
        let _alone = self.administration.lock().unwrap_or_else(PoisonError::into_inner);
        match change {
            Change::SetVHost { name, metadata } => self.set_vhost(&name, metadata),
            Change::DeleteVHost { name } => self.delete_vhost(&name),
            Change::SetUser { name, secret, tags } => self.set_user(&name, secret, tags),
            Change::DeleteUser { name } => self.delete_user(&name),
            Change::SetPermissions { user, vhost, permissions } => self.set_permissions(&user, &vhost, permissions),
            Change::ClearPermissions { user, vhost } => self.clear_permissions(&user, &vhost),
            Change::SetTopicPermissions { user, vhost, permissions } => {
                self.set_topic_permissions(&user, &vhost, permissions)
            }
            Change::ClearTopicPermissions { user, vhost, exchange } => {
                self.clear_topic_permissions(&user, &vhost, exchange.as_deref())
            }
            Change::SetPolicy { kind, vhost, name, policy } => self.set_policy(kind, &vhost, &name, &policy),
            Change::ClearPolicy { kind, vhost, name } => self.clear_policy(kind, &vhost, &name),
        }
    }

    /// Makes the configured user and virtual host, as RabbitMQ does when a node starts for the first time.
    pub(crate) fn first_start(&self) {
        let (name, vhost) = (&*self.config.default_user, &*self.config.default_vhost);
        let password = PasswordHash::of(&self.config.default_pass);
        let user = User { name: name.into(), password, tags: vec!["administrator".into()] };
        let permissions = Record::Permissions(name.into(), Permissions::all());
        // All at once: a kill in between must not leave a broker that nobody can use.
        let mut entries = Entries::default();
        entries.put(records::vhost_key(vhost), Record::VHost(Metadata::default()).value());
        entries.put(records::user_key(name), Record::User(user.clone()).value());
        entries.put(records::permissions_key(name, vhost), permissions.value());
        self.add_vhost(vhost, Metadata::default());
        let mut state = State::clone(&self.access.state());
        state.set_user(user);
        match Granted::new(Permissions::all()) {
            Ok(granted) => state.set_permissions(name, vhost, granted),
            Err(error) => tracing::error!(%error, "the default user has no permissions"),
        }
        drop(self.put_in_force(entries, state));
    }

    /// All that has been set.
    pub(crate) fn administered(&self) -> Administered {
        let state = self.access.state();
        let vhosts = self.vhosts.load();
        let mut all = Administered {
            users: state.users.values().map(|user| User::clone(user)).collect(),
            ..Administered::default()
        };
        for (place, granted) in &*state.permissions {
            let (user, vhost) = place.clone();
            all.permissions.push(PermissionsOf { user, vhost, permissions: granted.given.clone() });
        }
        for (place, topics) in &*state.topics {
            for granted in topics.values() {
                let (user, vhost) = place.clone();
                all.topic_permissions.push(TopicPermissionsOf { user, vhost, permissions: granted.given.clone() });
            }
        }
        for (name, vhost) in vhosts.iter() {
            all.vhosts.push(VHostOf { name: name.clone(), metadata: Metadata::clone(&vhost.metadata()) });
            for kind in [Kind::User, Kind::Operator] {
                let policies = &vhost.snapshot().policies;
                let of = |policy: &Arc<Policy>| PolicyOf { vhost: name.clone(), kind, policy: policy.clone() };
                all.policies.extend(policies.iter(kind).map(of));
            }
        }
        all.vhosts.sort_by(|a, b| a.name.cmp(&b.name));
        all
    }

    // Virtual hosts

    fn existing(&self, vhost: &str) -> Result<Arc<VHost>, AdminError> {
        self.vhost(vhost).ok_or_else(|| AdminError::NoSuchVHost(vhost.to_owned()))
    }

    fn set_vhost(&self, name: &str, mut metadata: Metadata) -> Result<Stored, AdminError> {
        named(name)?;
        match metadata.default_queue_type.as_deref() {
            None | Some("classic" | "quorum" | "stream") => {}
            Some("undefined" | "") => metadata.default_queue_type = None,
            Some(other) => return Err(AdminError::QueueType(other.to_owned())),
        }
        let mut entries = Entries::default();
        entries.put(records::vhost_key(name), Record::VHost(metadata.clone()).value());
        self.add_vhost(name, metadata);
        Ok(self.submit(entries))
    }

    fn add_vhost(&self, name: &str, metadata: Metadata) {
        let vhost = self.vhost(name).unwrap_or_else(|| VHost::new(name.into(), self.parts.clone()));
        vhost.describe(metadata);
        let mut vhosts = HashMap::clone(&self.vhosts.load());
        vhosts.insert(name.into(), vhost);
        self.vhosts.store(Arc::new(vhosts));
    }

    fn delete_vhost(&self, name: &str) -> Result<Stored, AdminError> {
        let vhost = self.existing(name)?;
        let mut vhosts = HashMap::clone(&self.vhosts.load());
        vhosts.remove(name);
        self.vhosts.store(Arc::new(vhosts));
        // First, so that clients hear of the whole and not of the end of each queue.
        self.force(|| Whose::VHost(name.into()), &format!("vhost '{name}' is deleted"));
        self.withdraw(|(_, vhost)| **vhost == *name);
        Ok(told(|done| vhost.push(TopologyCommand::DeleteAll { done })))
    }

    /// Ends connections.
    fn force(&self, whose: impl Fn() -> Whose, reason: &str) {
        for peer in self.peers_now() {
            let error = AmqpError::connection_forced(reason);
            // One that has ended by itself is what was wanted.
            let _ = peer.mailbox.push(ConnectionEvent::Forced { whose: whose(), error });
        }
    }

    // Users

    fn set_user(&self, name: &str, secret: Secret, tags: Vec<String>) -> Result<Stored, AdminError> {
        named(name)?;
        let password = match secret {
            Secret::Password(password) if password.is_empty() => return Err(AdminError::EmptyPassword),
            Secret::Password(password) => PasswordHash::of(&password),
            Secret::Hash(hash) => hash,
        };
        let user = User { name: name.into(), password, tags: tags.into_iter().map(Into::into).collect() };
        let mut entries = Entries::default();
        entries.put(records::user_key(name), Record::User(user.clone()).value());
        self.update(entries, |state| state.set_user(user))
    }

    fn delete_user(&self, name: &str) -> Result<Stored, AdminError> {
        self.user(name)?;
        self.withdraw(|(user, _)| **user == *name);
        let mut entries = Entries::default();
        entries.delete(records::user_key(name));
        let stored = self.update(entries, |state| drop(Arc::make_mut(&mut state.users).remove(name)));
        self.force(|| Whose::User(name.into()), &format!("user '{name}' is deleted"));
        stored
    }

    fn user(&self, name: &str) -> Result<(), AdminError> {
        let known = self.access.state().users.contains_key(name);
        if known { Ok(()) } else { Err(AdminError::NoSuchUser(name.to_owned())) }
    }

    // Permissions

    fn set_permissions(&self, user: &str, vhost: &str, given: Permissions) -> Result<Stored, AdminError> {
        self.existing(vhost)?;
        self.user(user)?;
        let granted = Granted::new(given.clone())?;
        let mut entries = Entries::default();
        let record = Record::Permissions(user.into(), given);
        entries.put(records::permissions_key(user, vhost), record.value());
        self.update(entries, |state| state.set_permissions(user, vhost, granted))
    }

    fn clear_permissions(&self, user: &str, vhost: &str) -> Result<Stored, AdminError> {
        self.existing(vhost)?;
        self.user(user)?;
        let mut entries = Entries::default();
        entries.delete(records::permissions_key(user, vhost));
        let place = (user.into(), vhost.into());
        self.update(entries, |state| drop(Arc::make_mut(&mut state.permissions).remove(&place)))
    }

    fn set_topic_permissions(&self, user: &str, vhost: &str, given: TopicPermissions) -> Result<Stored, AdminError> {
        self.existing(vhost)?;
        self.user(user)?;
        let granted = TopicGranted::new(given.clone(), user, vhost)?;
        let mut entries = Entries::default();
        let key = records::topic_permissions_key(user, vhost, &given.exchange);
        entries.put(key, Record::TopicPermissions(user.into(), given).value());
        self.update(entries, |state| state.set_topic_permissions(user, vhost, granted))
    }

    fn clear_topic_permissions(&self, user: &str, vhost: &str, exchange: Option<&str>) -> Result<Stored, AdminError> {
        self.existing(vhost)?;
        self.user(user)?;
        let place: Place = (user.into(), vhost.into());
        let mut entries = Entries::default();
        let mut state = State::clone(&self.access.state());
        let topics = Arc::make_mut(&mut state.topics);
        if let Some(granted) = topics.get_mut(&place) {
            Arc::make_mut(granted).retain(|name, _| {
                let goes = exchange.is_none_or(|exchange| exchange == &**name);
                if goes {
                    entries.delete(records::topic_permissions_key(user, vhost, name));
                }
                !goes
            });
        }
        Ok(self.put_in_force(entries, state))
    }

    /// Withdraws all permissions of some users in some virtual hosts.
    fn withdraw(&self, whose: impl Fn(&Place) -> bool) {
        let mut entries = Entries::default();
        let mut state = State::clone(&self.access.state());
        Arc::make_mut(&mut state.permissions).retain(|place, _| {
            let goes = whose(place);
            if goes {
                entries.delete(records::permissions_key(&place.0, &place.1));
            }
            !goes
        });
        Arc::make_mut(&mut state.topics).retain(|place, topics| {
            let goes = whose(place);
            for exchange in topics.keys().filter(|_| goes) {
                entries.delete(records::topic_permissions_key(&place.0, &place.1, exchange));
            }
            !goes
        });
        drop(self.put_in_force(entries, state));
    }

    // Policies

    fn set_policy(&self, kind: Kind, vhost: &str, name: &str, json: &Value) -> Result<Stored, AdminError> {
        let vhost = self.existing(vhost)?;
        named(name)?;
        let policy = Box::new(Policy::parse(kind, name, json)?);
        Ok(told(|done| vhost.push(TopologyCommand::SetPolicy { kind, policy, done })))
    }

    fn clear_policy(&self, kind: Kind, vhost: &str, name: &str) -> Result<Stored, AdminError> {
        let vhost = self.existing(vhost)?;
        if !vhost.snapshot().policies.iter(kind).any(|policy| *policy.name == *name) {
            return Err(AdminError::NoSuchPolicy(name.to_owned()));
        }
        Ok(told(|done| vhost.push(TopologyCommand::ClearPolicy { kind, name: name.into(), done })))
    }

    // What is common

    fn update(&self, entries: Entries, change: impl FnOnce(&mut State)) -> Result<Stored, AdminError> {
        let mut state = State::clone(&self.access.state());
        change(&mut state);
        Ok(self.put_in_force(entries, state))
    }

    fn put_in_force(&self, entries: Entries, state: State) -> Stored {
        self.access.publish(state);
        // Routes that were found stand for permissions that were checked.
        for vhost in self.vhosts.load().values() {
            vhost.touch();
        }
        self.submit(entries)
    }

    /// Comes when everything so far is on disk.
    pub(crate) fn stored(&self) -> Stored {
        self.submit(Entries::default())
    }

    fn submit(&self, Entries(mut entries): Entries) -> Stored {
        told(|done| {
            entries.push(Entry::Notify(Level::Synced, Token::Done(done)));
            self.parts.store.submit(&mut entries);
        })
    }
}

fn told(ask: impl FnOnce(oneshot::Sender<()>)) -> Stored {
    let (done, stored) = oneshot::channel();
    ask(done);
    stored
}

fn named(name: &str) -> Result<(), AdminError> {
    if (1..=LONGEST_NAME).contains(&name.len()) { Ok(()) } else { Err(AdminError::Name) }
}
