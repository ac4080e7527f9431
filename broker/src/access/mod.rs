//! Who may do what: users, their permissions in virtual hosts, and topic permissions.
//!
//! All of it is one immutable picture behind one pointer. A connection looks at it through its [`rights`], which
//! remember what was granted for as long as the picture stands.

pub mod password;
pub(crate) mod rights;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arc_swap::{ArcSwap, Guard};

use self::password::PasswordHash;
use crate::auth::Login;
use crate::pattern::{Pattern, PatternError};

/// A user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    pub name: Box<str>,
    pub password: PasswordHash,
    /// Free texts, of which `impersonator` means something here.
    pub tags: Vec<Box<str>>,
}

impl User {
    /// May publish with any `user-id`.
    pub fn may_impersonate(&self) -> bool {
        self.tags.iter().any(|tag| &**tag == "impersonator")
    }
}

/// What a user may do in a virtual host: regular expressions, searched in the names of queues and exchanges. An empty
/// one matches nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Permissions {
    pub configure: Box<str>,
    pub write: Box<str>,
    pub read: Box<str>,
}

impl Permissions {
    /// For everything in the virtual host.
    pub fn all() -> Permissions {
        Permissions { configure: ".*".into(), write: ".*".into(), read: ".*".into() }
    }
}

/// What a user may do with the routing keys of a topic exchange, beyond [`Permissions`]. `{username}` and `{vhost}`
/// stand for the connection's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicPermissions {
    pub exchange: Box<str>,
    pub write: Box<str>,
    pub read: Box<str>,
}

/// [`Permissions`], ready to be searched with; None matches nothing.
pub(crate) struct Granted {
    pub given: Permissions,
    configure: Option<Pattern>,
    write: Option<Pattern>,
    read: Option<Pattern>,
}

/// [`TopicPermissions`] of one user in one virtual host.
pub(crate) struct TopicGranted {
    pub given: TopicPermissions,
    write: Option<Pattern>,
    read: Option<Pattern>,
}

fn expression(text: &str) -> Result<Option<Pattern>, PatternError> {
    if text.is_empty() { Ok(None) } else { Pattern::parse(text).map(Some) }
}

impl Granted {
    /// # Errors
    /// One of them is no regular expression.
    pub fn new(given: Permissions) -> Result<Granted, PatternError> {
        let (configure, write) = (expression(&given.configure)?, expression(&given.write)?);
        let read = expression(&given.read)?;
        Ok(Granted { given, configure, write, read })
    }
}

impl TopicGranted {
    /// # Errors
    /// One of them is no regular expression.
    pub fn new(given: TopicPermissions, user: &str, vhost: &str) -> Result<TopicGranted, PatternError> {
        let expand = |text: &str| text.replace("{username}", user).replace("{vhost}", vhost);
        let (write, read) = (expression(&expand(&given.write))?, expression(&expand(&given.read))?);
        Ok(TopicGranted { given, write, read })
    }
}

/// User and virtual host.
pub(crate) type Place = (Box<str>, Box<str>);

/// The picture. Cheap to copy but for what is changed.
#[derive(Clone, Default)]
pub(crate) struct State {
    pub users: Arc<BTreeMap<Box<str>, Arc<User>>>,
    pub permissions: Arc<BTreeMap<Place, Arc<Granted>>>,
    /// By exchange.
    pub topics: Arc<BTreeMap<Place, Topics>>,
}

/// Topic permissions by the name of their exchange.
pub(crate) type Topics = Arc<BTreeMap<Box<str>, Arc<TopicGranted>>>;

impl State {
    /// The permissions of `user` in `vhost`; without them the user may not even open it.
    pub fn permissions(&self, user: &str, vhost: &str) -> Option<&Arc<Granted>> {
        self.permissions.get(&(user.into(), vhost.into()))
    }

    pub fn set_user(&mut self, user: User) {
        Arc::make_mut(&mut self.users).insert(user.name.clone(), Arc::new(user));
    }

    pub fn set_permissions(&mut self, user: &str, vhost: &str, granted: Granted) {
        Arc::make_mut(&mut self.permissions).insert((user.into(), vhost.into()), Arc::new(granted));
    }

    pub fn set_topic_permissions(&mut self, user: &str, vhost: &str, granted: TopicGranted) {
        let topics = Arc::make_mut(&mut self.topics).entry((user.into(), vhost.into())).or_default();
        Arc::make_mut(topics).insert(granted.given.exchange.clone(), Arc::new(granted));
    }
}

/// The picture, and how often it has changed.
#[derive(Default)]
pub(crate) struct Access {
    state: ArcSwap<State>,
    generation: AtomicU64,
}

impl Access {
    pub fn state(&self) -> Guard<Arc<State>> {
        self.state.load()
    }

    /// Puts another picture in force. One caller at a time, or a change is lost.
    pub fn publish(&self, state: State) {
        self.state.store(Arc::new(state));
        self.generation.fetch_add(1, Ordering::AcqRel);
    }

    /// Moves with every [`Access::publish`].
    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// Whether the login is right, and allowed from where it comes.
    pub fn accepts(&self, login: &Login, from: SocketAddr, loopback_users: &[String]) -> bool {
        let state = self.state();
        let known = state.users.get(&*login.user).is_some_and(|user| user.password.accepts(login.password()));
        let local = from.ip().to_canonical().is_loopback();
        known && (local || !loopback_users.contains(&login.user))
    }
}
