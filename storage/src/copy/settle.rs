//! Which is right when a store is opened, sled or the copy; docs/storage.md has the rules as a table.

use std::collections::HashMap;

use super::Copy;
use super::read::{Compared, State};
use crate::backend::{Bytes, Note, Quarantined};
use crate::definitions::{Definitions, Held};
use crate::directory::Directory;
use crate::error::StorageError;
use crate::making;

/// How the last user left the two.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Left {
    /// The copy was kept up, and nothing of it can have been lost but by damage: the machine has not gone down, or the
    /// store was closed before.
    pub kept_up: bool,
    /// The store was closed.
    pub clean: bool,
    /// How many definitions there were then.
    pub count: Option<u64>,
}

/// Definitions, of which sled and the copy say the same.
pub(crate) struct Settled {
    pub definitions: Definitions,
    pub copy: Copy,
    /// Ordered by key.
    pub entries: Vec<(Bytes, Bytes)>,
    /// What is in neither.
    pub quarantined: Vec<Quarantined>,
}

/// Makes sled and the copy say the same. Without a `database` there is none that opens.
pub(crate) fn settle(
    directory: &Directory,
    spare: u64,
    database: Option<(Definitions, Held)>,
    left: Left,
    notes: &mut Vec<Note>,
) -> Result<Settled, StorageError> {
    let (database, held) = match database {
        Some((database, held)) => (Some(database), held),
        None => (None, Held { broken: true, ..Held::default() }),
    };
    let sound = !held.broken && held.damaged.is_empty();
    let compared = Compared::read(&directory.copy(), &held.definitions)?;
    let believed = left.kept_up && compared.state.is_whole();
    let changes = match (believed, sound) {
        (true, _) => compared.changes(),
        (false, true) => Vec::new(),
        (false, false) => wanted(&held, compared.beyond()),
    };
    let explained = !left.clean && compared.is_last_frame(&changes);
    let agree = believed || (compared.agrees() && compared.state.is_whole());
    let state = compared.state;
    let Held { definitions, mut quarantined, broken, .. } = held;
    let restored = changes.len() as u64;
    let mut entries = changed(definitions, &changes);
    quarantined.retain(|what| match what {
        Quarantined::Definition { key } => !believed && find(&entries, key).is_none(),
        _ => true,
    });
    let lost = quarantined.iter().filter(|what| matches!(what, Quarantined::Definition { .. })).count() as u64;
    if !believed && (broken || lost > 0) || left.count.is_some_and(|count| count > entries.len() as u64) {
        notes.push(Note::DefinitionsLost { kept: directory.keep_messages()? });
    }
    let definitions = match database.filter(|_| sound && (changes.is_empty() || explained)) {
        Some(mut definitions) => {
            if !changes.is_empty() {
                definitions.commit(&changes, true)?;
                definitions.commit(&changes, false)?;
                definitions.sync()?;
            }
            definitions
        }
        None => {
            let moved_to = making::replace(directory, &entries)?;
            notes.push(Note::DatabaseReplaced { restored, lost, moved_to });
            let mut definitions = Definitions::open(directory, notes)?;
            entries = definitions.load(&mut |_, _| Ok(()))?.definitions;
            definitions
        }
    };
    let copy = match state {
        State::Read(found) if agree => Copy::resume(directory.copy(), spare, &found)?,
        state => renew(directory, spare, &state, left.kept_up, &entries, notes)?,
    };
    Ok(Settled { definitions, copy, entries, quarantined })
}

/// Of what the copy has and sled has not: all of it if sled could not be read to its end, else what is damaged there.
fn wanted(held: &Held, beyond: Vec<(Bytes, Option<Bytes>)>) -> Vec<(Bytes, Option<Bytes>)> {
    let damaged = |key: &Bytes| held.quarantined.contains(&Quarantined::Definition { key: key.clone() });
    beyond.into_iter().filter(|(key, _)| held.broken || damaged(key)).collect()
}

fn changed(mut entries: Vec<(Bytes, Bytes)>, changes: &[(Bytes, Option<Bytes>)]) -> Vec<(Bytes, Bytes)> {
    if !changes.is_empty() {
        let changes: HashMap<&Bytes, &Option<Bytes>> = changes.iter().map(|(key, value)| (key, value)).collect();
        entries.retain(|(key, _)| !changes.contains_key(key));
        entries.extend(changes.into_iter().filter_map(|(key, value)| Some((key.clone(), value.clone()?))));
        entries.sort_unstable();
    }
    entries
}

fn find(entries: &[(Bytes, Bytes)], key: &Bytes) -> Option<usize> {
    entries.binary_search_by(|(of, _)| of.cmp(key)).ok()
}

/// Writes the copy anew. After a power cut it may well differ from sled, and end anywhere: that is no damage.
fn renew(
    directory: &Directory,
    spare: u64,
    state: &State,
    kept_up: bool,
    entries: &[(Bytes, Bytes)],
    notes: &mut Vec<Note>,
) -> Result<Copy, StorageError> {
    let moved_to = match state {
        State::Missing if kept_up => Some(None),
        State::Missing => None,
        State::Read(_) if !kept_up => None,
        State::Read(_) | State::Unreadable => Some(Some(directory.quarantine(&directory.copy())?)),
    };
    if let Some(moved_to) = moved_to {
        notes.push(Note::CopyRenewed { moved_to });
    }
    Copy::anew(directory.copy(), spare, entries)
}
