//! What one connection's user may do in its virtual host.

use std::collections::HashSet;
use std::sync::Arc;

use leveret_protocol::AmqpError;

use super::{Access, Granted, Topics};
use crate::pattern::Pattern;

/// Checks that were granted and are remembered; the list starts anew beyond.
const REMEMBERED: usize = 256;

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Right {
    Configure,
    Write,
    Read,
}

impl Right {
    fn as_str(self) -> &'static str {
        match self {
            Right::Configure => "configure",
            Right::Write => "write",
            Right::Read => "read",
        }
    }
}

/// What it is asked for.
#[derive(Clone, Copy)]
pub enum Resource<'a> {
    Queue(&'a str),
    Exchange(&'a str),
}

impl<'a> Resource<'a> {
    /// Kind and name. The default exchange goes by another name here.
    fn parts(self) -> (&'static str, &'a str) {
        match self {
            Resource::Queue(name) => ("queue", name),
            Resource::Exchange("") => ("exchange", "amq.default"),
            Resource::Exchange(name) => ("exchange", name),
        }
    }
}

/// The rights of a connection, as they now are.
pub struct Rights {
    access: Arc<Access>,
    user: Box<str>,
    vhost: Arc<str>,
    /// The picture that what follows was read from.
    generation: u64,
    granted: Option<Arc<Granted>>,
    topics: Option<Topics>,
    impersonates: bool,
    remembered: HashSet<Box<[u8]>>,
    key: Vec<u8>,
}

impl Rights {
    pub fn new(access: Arc<Access>, user: Box<str>, vhost: Arc<str>) -> Rights {
        let mut rights = Rights {
            generation: access.generation(),
            access,
            user,
            vhost,
            granted: None,
            topics: None,
            impersonates: false,
            remembered: HashSet::new(),
            key: Vec::new(),
        };
        rights.read();
        rights
    }

    pub fn user(&self) -> &str {
        &self.user
    }

    fn read(&mut self) {
        let place = (self.user.clone(), Box::from(&*self.vhost));
        let state = self.access.state();
        self.granted = state.permissions.get(&place).cloned();
        self.topics = state.topics.get(&place).cloned();
        self.impersonates = state.users.get(&self.user).is_some_and(|user| user.may_impersonate());
        self.remembered.clear();
    }

    fn refresh(&mut self) {
        let generation = self.access.generation();
        if generation != self.generation {
            self.generation = generation;
            self.read();
        }
    }

    /// May publish with another user's `user-id`.
    pub fn may_impersonate(&mut self) -> bool {
        self.refresh();
        self.impersonates
    }

    /// # Errors
    /// 403 if the user may not.
    pub fn check(&mut self, right: Right, resource: Resource<'_>) -> Result<(), AmqpError> {
        if self.has(right, resource) { Ok(()) } else { Err(self.refusal(right, resource)) }
    }

    /// # Errors
    /// 403 if the user has none of the three rights.
    pub fn check_any(&mut self, resource: Resource<'_>) -> Result<(), AmqpError> {
        let any = [Right::Configure, Right::Write, Right::Read].into_iter().any(|right| self.has(right, resource));
        if any { Ok(()) } else { Err(self.refusal(Right::Configure, resource)) }
    }

    fn refusal(&self, right: Right, resource: Resource<'_>) -> AmqpError {
        let (kind, name) = resource.parts();
        let Rights { user, vhost, .. } = self;
        let right = right.as_str();
        AmqpError::access_refused(format!(
            "{right} access to {kind} '{name}' in vhost '{vhost}' refused for user '{user}'"
        ))
    }

    fn has(&mut self, right: Right, resource: Resource<'_>) -> bool {
        self.refresh();
        let (kind, name) = resource.parts();
        self.key.clear();
        self.key.extend([right as u8, kind.as_bytes()[0]]);
        self.key.extend_from_slice(name.as_bytes());
        if self.remembered.contains(&*self.key) {
            return true;
        }
        let Some(granted) = &self.granted else { return false };
        let pattern = match right {
            Right::Configure => &granted.configure,
            Right::Write => &granted.write,
            Right::Read => &granted.read,
        };
        let has = finds(pattern, name);
        if has {
            if self.remembered.len() >= REMEMBERED {
                self.remembered.clear();
            }
            self.remembered.insert(self.key.as_slice().into());
        }
        has
    }

    /// Whether [`Rights::check_topic`] can refuse anything.
    pub fn limit_topics(&mut self) -> bool {
        self.refresh();
        self.topics.as_ref().is_some_and(|topics| !topics.is_empty())
    }

    /// Whether the user may write or read this routing key in a topic exchange.
    ///
    /// # Errors
    /// 403 if a topic permission for that exchange says no. Without one, everything is allowed.
    pub fn check_topic(&mut self, right: Right, exchange: &str, key: &[u8]) -> Result<(), AmqpError> {
        self.refresh();
        let Some(topic) = self.topics.as_ref().and_then(|topics| topics.get(exchange)) else { return Ok(()) };
        let pattern = if right == Right::Write { &topic.write } else { &topic.read };
        let key = leveret_protocol::error::text_of(key);
        if finds(pattern, &key) {
            return Ok(());
        }
        let Rights { user, vhost, .. } = self;
        let right = right.as_str();
        Err(AmqpError::access_refused(format!(
            "{right} access to topic '{key}' in exchange '{exchange}' in vhost '{vhost}' refused for user '{user}'"
        )))
    }
}

fn finds(pattern: &Option<Pattern>, name: &str) -> bool {
    pattern.as_ref().is_some_and(|pattern| pattern.finds(name))
}

#[cfg(test)]
mod tests {
    use super::super::{Permissions, State, TopicGranted, TopicPermissions};
    use super::*;

    /// An access picture in which `bob` has these permissions in `/`.
    fn access(configure: &str, write: &str, read: &str) -> Arc<Access> {
        let access = Arc::new(Access::default());
        access.publish(state(configure, write, read));
        access
    }

    fn state(configure: &str, write: &str, read: &str) -> State {
        let mut state = State::default();
        let given = Permissions { configure: configure.into(), write: write.into(), read: read.into() };
        state.set_permissions("bob", "/", Granted::new(given).expect("expressions"));
        state
    }

    fn bob(access: &Arc<Access>) -> Rights {
        Rights::new(access.clone(), "bob".into(), "/".into())
    }

    #[test]
    fn expressions_are_searched_unanchored_and_an_empty_one_matches_nothing() {
        let mut rights = bob(&access("^jobs", "ex", ""));
        assert!(rights.check(Right::Configure, Resource::Queue("jobs.1")).is_ok());
        assert!(rights.check(Right::Configure, Resource::Queue("my-jobs")).is_err());
        assert!(rights.check(Right::Write, Resource::Exchange("an exchange")).is_ok());
        assert!(rights.check(Right::Read, Resource::Queue("")).is_err());
    }

    #[test]
    fn a_refusal_names_right_resource_vhost_and_user() {
        let mut rights = bob(&access("^jobs", "", ""));
        let error = rights.check(Right::Write, Resource::Queue("q")).expect_err("refused");
        assert_eq!(
            error.reply_text(),
            "ACCESS_REFUSED - write access to queue 'q' in vhost '/' refused for user 'bob'"
        );
    }

    #[test]
    fn the_default_exchange_is_checked_under_the_name_amq_default() {
        let mut rights = bob(&access("", "^amq\\.default$", ""));
        assert!(rights.check(Right::Write, Resource::Exchange("")).is_ok());
        assert!(rights.check(Right::Write, Resource::Exchange("x")).is_err());
    }

    #[test]
    fn any_of_the_three_is_enough_for_a_passive_declaration() {
        let mut rights = bob(&access("^c", "^w", "^r"));
        for name in ["c", "w", "r"] {
            assert!(rights.check_any(Resource::Queue(name)).is_ok(), "{name}");
        }
        let error = rights.check_any(Resource::Queue("x")).expect_err("refused").reply_text();
        assert!(error.contains("configure access to queue 'x'"), "{error}");
    }

    #[test]
    fn a_change_is_seen_by_the_next_check_although_the_last_one_was_remembered() {
        let access = access(".*", ".*", ".*");
        let mut rights = bob(&access);
        assert!(rights.check(Right::Read, Resource::Queue("q")).is_ok());
        access.publish(state(".*", ".*", ""));
        assert!(rights.check(Right::Read, Resource::Queue("q")).is_err());
    }

    #[test]
    fn a_topic_permission_concerns_its_own_exchange_only_and_knows_user_and_vhost() {
        let mut now = state(".*", ".*", ".*");
        let given = TopicPermissions { exchange: "t".into(), write: "^{username}\\.".into(), read: "".into() };
        now.set_topic_permissions("bob", "/", TopicGranted::new(given, "bob", "/").expect("expressions"));
        let access = Arc::new(Access::default());
        access.publish(now);
        let mut rights = bob(&access);
        assert!(rights.check_topic(Right::Write, "t", b"bob.x").is_ok());
        assert!(rights.check_topic(Right::Write, "u", b"x").is_ok(), "no record means allowed");
        let error = rights.check_topic(Right::Write, "t", b"eve.x").expect_err("refused").reply_text();
        assert_eq!(
            error,
            "ACCESS_REFUSED - write access to topic 'eve.x' in exchange 't' in vhost '/' refused for user 'bob'"
        );
        assert!(rights.check_topic(Right::Read, "t", b"bob.x").is_err(), "an empty expression matches nothing");
    }
}
