//! Definitions files in RabbitMQ's JSON format: users, virtual hosts, permissions, policies, exchanges, queues and
//! bindings that a broker is to have. Here is the file; `import` applies it.

mod import;
mod item;

use std::path::{Path, PathBuf};

use serde_json::{Map, Value};
use thiserror::Error;

pub use self::import::{Imported, Left};
pub use self::item::ItemError;

/// Why there are no definitions. Each is one line.
#[derive(Debug, Error)]
pub enum DefinitionsError {
    #[error("cannot read the definitions file {}: {source}", path.display())]
    Unreadable { path: PathBuf, source: std::io::Error },
    #[error("the definitions file {} is not valid: {reason}", path.display())]
    Invalid { path: PathBuf, reason: Invalid },
}

/// Why a text holds no definitions.
#[derive(Debug, Error)]
pub enum Invalid {
    /// With line and column.
    #[error("{0}")]
    Json(#[from] serde_json::Error),
    #[error("a JSON object is expected")]
    NotAnObject,
    #[error("'{0}' is not a list")]
    NotAList(&'static str),
}

/// The sections that hold items, in the order in which they are applied.
const SECTIONS: [&str; 10] = [
    "users",
    "vhosts",
    "permissions",
    "exchanges",
    "topic_permissions",
    "global_parameters",
    "policies",
    "parameters",
    "queues",
    "bindings",
];

/// Definitions that were read: well-formed as a whole; single items may still be wrong.
#[derive(Clone, Debug)]
pub struct Definitions(Map<String, Value>);

impl Definitions {
    /// Reads a file.
    ///
    /// # Errors
    /// [`DefinitionsError`], with the place in the file where that helps.
    pub fn read(path: &Path) -> Result<Definitions, DefinitionsError> {
        let unreadable = |source| DefinitionsError::Unreadable { path: path.to_owned(), source };
        let text = std::fs::read(path).map_err(unreadable)?;
        Definitions::parse(&text).map_err(|reason| DefinitionsError::Invalid { path: path.to_owned(), reason })
    }

    /// Reads a JSON text. Every section is optional, and keys that are not known mean nothing.
    ///
    /// # Errors
    /// [`Invalid`] if it is no JSON object, or a section is no list.
    pub fn parse(text: &[u8]) -> Result<Definitions, Invalid> {
        let Value::Object(all) = serde_json::from_slice(text)? else {
            return Err(Invalid::NotAnObject);
        };
        match SECTIONS
            .iter()
            .find(|section| all.get(**section).is_some_and(|found| !found.is_array() && !found.is_null()))
        {
            Some(section) => Err(Invalid::NotAList(section)),
            None => Ok(Definitions(all)),
        }
    }

    fn section(&self, name: &str) -> impl Iterator<Item = &Value> {
        self.0.get(name).and_then(Value::as_array).into_iter().flatten().filter(|item| !item.is_null())
    }

    fn text(&self, name: &str) -> Option<&str> {
        self.0.get(name)?.as_str()
    }
}
