//! Policies and operator policies (RabbitMQ extension): settings for the queues and exchanges whose names match.
//!
//! Of the policies of a kind at most one applies to an object: the matching one with the highest priority. What it,
//! the operator policy and the object's own arguments come to is [`merge`]'s. Pure: who keeps policies and applies
//! them is the owner of a virtual host's topology.

mod keys;
pub mod merge;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use serde_json::{Number, Value};
use thiserror::Error;

use self::merge::Definition;
use crate::pattern::{Pattern, PatternError};

/// Whose policy it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    User,
    /// The operator's: limits that users cannot loosen.
    Operator,
}

/// What a policy can apply to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Object {
    Exchange,
    ClassicQueue,
    QuorumQueue,
}

/// Which objects a policy is for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ApplyTo {
    #[default]
    All,
    Queues,
    Exchanges,
    ClassicQueues,
    QuorumQueues,
    Streams,
}

const APPLY_TO: &[(&str, ApplyTo)] = &[
    ("all", ApplyTo::All),
    ("queues", ApplyTo::Queues),
    ("exchanges", ApplyTo::Exchanges),
    ("classic_queues", ApplyTo::ClassicQueues),
    ("quorum_queues", ApplyTo::QuorumQueues),
    ("streams", ApplyTo::Streams),
];

impl ApplyTo {
    fn parse(text: &str) -> Option<ApplyTo> {
        APPLY_TO.iter().find(|(name, _)| *name == text).map(|(_, to)| *to)
    }

    /// The word for it in definitions.
    pub fn as_str(self) -> &'static str {
        APPLY_TO.iter().find(|(_, to)| *to == self).map_or("all", |(name, _)| name)
    }

    fn includes(self, object: Object) -> bool {
        match self {
            ApplyTo::All => true,
            ApplyTo::Queues => object != Object::Exchange,
            ApplyTo::Exchanges => object == Object::Exchange,
            ApplyTo::ClassicQueues => object == Object::ClassicQueue,
            ApplyTo::QuorumQueues => object == Object::QuorumQueue,
            ApplyTo::Streams => false,
        }
    }
}

/// One thing that is wrong with a policy, in RabbitMQ's words.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Problem {
    #[error("no policy provided")]
    Empty,
    #[error("definition must be a dictionary: {0}")]
    NotADictionary(String),
    #[error("[{0}] are not recognised policy settings")]
    Unrecognised(String),
    #[error(
        "apply-to '{0}' unrecognised; should be one of: 'queues', 'classic_queues',  'quorum_queues', 'streams', \
         'exchanges', or 'all'"
    )]
    ApplyTo(String),
    #[error("priority should be a number, actually was {0}")]
    Priority(String),
    #[error("pattern should be regular expression but is invalid: {0}")]
    Pattern(PatternError),
    #[error("pattern should be binary, actually was {0}")]
    PatternType(String),
    #[error("Key \"{key}\" not found in {name}")]
    Missing { key: &'static str, name: String },
    #[error("{shown} is not a valid {noun}")]
    Value { shown: String, noun: &'static str },
}

/// Everything that is wrong with a policy; shown with a line for each.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyError(Vec<Problem>);

impl PolicyError {
    /// The single reasons.
    pub fn problems(&self) -> &[Problem] {
        &self.0
    }
}

impl fmt::Display for PolicyError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.0.iter().enumerate() {
            let separator = if index == 0 { "" } else { "\n" };
            write!(formatter, "{separator}{problem}")?;
        }
        Ok(())
    }
}

impl std::error::Error for PolicyError {}

/// A policy that has been checked.
#[derive(Clone, Debug, PartialEq)]
pub struct Policy {
    pub name: Box<str>,
    pub pattern: Pattern,
    pub apply_to: ApplyTo,
    pub priority: Number,
    pub definition: Definition,
}

impl Policy {
    /// Reads a policy as RabbitMQ's definitions write it: an object with `pattern`, `definition`, and optionally
    /// `apply-to` and `priority`. Further keys mean nothing here.
    ///
    /// # Errors
    /// [`PolicyError`] with everything that is wrong.
    pub fn parse(kind: Kind, name: &str, json: &Value) -> Result<Policy, PolicyError> {
        let mut problems = Vec::new();
        let missing = |key| Problem::Missing { key, name: name.to_owned() };
        let priority = match json.get("priority") {
            None => 0.into(),
            Some(Value::Number(number)) => number.clone(),
            Some(other) => {
                problems.push(Problem::Priority(keys::shown(other)));
                0.into()
            }
        };
        let pattern = match json.get("pattern") {
            None => Err(missing("pattern")),
            Some(Value::String(text)) => Pattern::parse(text).map_err(Problem::Pattern),
            Some(other) => Err(Problem::PatternType(keys::shown(other))),
        };
        let apply_to = match json.get("apply-to") {
            None | Some(Value::Null) => ApplyTo::All,
            Some(value) => value.as_str().and_then(ApplyTo::parse).unwrap_or_else(|| {
                let shown = value.as_str().map_or_else(|| keys::shown(value), str::to_owned);
                problems.push(Problem::ApplyTo(shown));
                ApplyTo::All
            }),
        };
        let definition = match json.get("definition") {
            None => Err(missing("definition")),
            Some(Value::Object(definition)) if definition.is_empty() => Err(Problem::Empty),
            Some(Value::Object(definition)) => {
                keys::check(kind, definition, &mut problems);
                Ok(definition.clone())
            }
            Some(other) => Err(Problem::NotADictionary(keys::shown(other))),
        };
        match (pattern, definition) {
            (Ok(pattern), Ok(definition)) if problems.is_empty() => {
                Ok(Policy { name: name.into(), pattern, apply_to, priority, definition })
            }
            (pattern, definition) => {
                problems.extend([pattern.err(), definition.err()].into_iter().flatten());
                Err(PolicyError(problems))
            }
        }
    }

    /// As RabbitMQ's definitions write it, without `name` and `vhost`.
    pub fn to_json(&self) -> Value {
        serde_json::json!({
            "pattern": self.pattern.as_str(),
            "apply-to": self.apply_to.as_str(),
            "priority": self.priority,
            "definition": self.definition,
        })
    }

    fn matches(&self, object: Object, name: &str) -> bool {
        self.apply_to.includes(object) && keys::known_to(object, &self.definition) && self.pattern.finds(name)
    }

    fn rank(&self) -> f64 {
        self.priority.as_f64().unwrap_or(0.0)
    }
}

/// The policies of a virtual host, by kind and name. Cheap to copy.
#[derive(Clone, Default)]
pub struct Policies {
    users: Arc<BTreeMap<Box<str>, Arc<Policy>>>,
    operators: Arc<BTreeMap<Box<str>, Arc<Policy>>>,
}

/// The policies that apply to one object, each by its name, and what they come to together.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct InForce {
    pub policy: Option<Box<str>>,
    pub operator_policy: Option<Box<str>>,
    pub definition: Definition,
}

impl Policies {
    fn of_kind(&mut self, kind: Kind) -> &mut BTreeMap<Box<str>, Arc<Policy>> {
        match kind {
            Kind::User => Arc::make_mut(&mut self.users),
            Kind::Operator => Arc::make_mut(&mut self.operators),
        }
    }

    /// Adds a policy, in the place of the one of that kind and name.
    pub fn set(&mut self, kind: Kind, policy: Policy) {
        self.of_kind(kind).insert(policy.name.clone(), Arc::new(policy));
    }

    /// Removes a policy. False when there was none of that kind and name.
    pub fn clear(&mut self, kind: Kind, name: &str) -> bool {
        self.of_kind(kind).remove(name).is_some()
    }

    /// All of a kind, by name.
    pub fn iter(&self, kind: Kind) -> impl Iterator<Item = &Arc<Policy>> {
        match kind {
            Kind::User => self.users.values(),
            Kind::Operator => self.operators.values(),
        }
    }

    /// What applies to the object of that name.
    pub fn of(&self, object: Object, name: &str) -> InForce {
        // Of equal priorities either may win (RabbitMQ says so too); here it is always the same one.
        let chosen = |policies: &BTreeMap<Box<str>, Arc<Policy>>| {
            let matching = policies.values().filter(|policy| policy.matches(object, name));
            matching.max_by(|a, b| a.rank().total_cmp(&b.rank())).cloned()
        };
        let (user, operator) = (chosen(&self.users), chosen(&self.operators));
        let definition = |policy: &Option<Arc<Policy>>| policy.as_ref().map(|policy| policy.definition.clone());
        InForce {
            definition: merge::merged(definition(&user).as_ref(), definition(&operator).as_ref()),
            policy: user.map(|policy| policy.name.clone()),
            operator_policy: operator.map(|policy| policy.name.clone()),
        }
    }
}
