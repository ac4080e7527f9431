//! Databases made beside their place and moved there when they are on the device, so that one in its place is always
//! whole: the first one, and one that replaces a damaged one.
//!
//! ```text
//! first         definitions.new ──► definitions
//! replacement   definitions.new ──► definitions.made, definitions ──► quarantine/, definitions.made ──► definitions
//! ```
//! A replacement that was cut short behind its first step is completed when the store is opened; before, it has changed
//! nothing.

use std::fs;
use std::path::{Path, PathBuf};

use crate::backend::{Bytes, Note};
use crate::definitions;
use crate::directory::{Database, Directory};
use crate::error::{IoContext, StorageError};

/// Makes the first database. One that is there already was finished before a crash: then there is nothing to make (false).
pub(crate) fn create(directory: &Directory, notes: &mut Vec<Note>) -> Result<bool, StorageError> {
    let database = directory.database();
    if database.path.exists() {
        notes.push(Note::CreationCompleted);
        return Ok(false);
    }
    for begun in directory.unfinished_databases().iter().filter(|begun| begun.exists()) {
        notes.push(Note::CreationCompleted);
        fs::remove_dir_all(begun).context("remove", begun)?;
    }
    make(directory, &[], &database.path)?;
    Ok(true)
}

/// Puts a database of these definitions in the place of the one that is there, if it is; says where that went.
pub(crate) fn replace(directory: &Directory, definitions: &[(Bytes, Bytes)]) -> Result<Option<PathBuf>, StorageError> {
    for begun in directory.unfinished_databases().iter().filter(|begun| begun.exists()) {
        fs::remove_dir_all(begun).context("remove", begun)?;
    }
    make(directory, definitions, &directory.made_database())?;
    put_in_place(directory)
}

/// Completes a replacement that was cut short.
pub(crate) fn complete(directory: &Directory, notes: &mut Vec<Note>) -> Result<(), StorageError> {
    if directory.made_database().exists() {
        let moved_to = put_in_place(directory)?;
        notes.push(Note::ReplacementCompleted { moved_to });
    }
    Ok(())
}

fn make(directory: &Directory, definitions: &[(Bytes, Bytes)], place: &Path) -> Result<(), StorageError> {
    let [unfinished, _] = directory.unfinished_databases();
    definitions::fill(&Database::new(unfinished.clone()), definitions)?;
    fs::rename(&unfinished, place).context("rename", &unfinished)?;
    directory.sync()
}

fn put_in_place(directory: &Directory) -> Result<Option<PathBuf>, StorageError> {
    let damaged = directory.database().path;
    let moved_to = if damaged.exists() { Some(directory.quarantine(&damaged)?) } else { None };
    let (made, place) = (directory.made_database(), directory.database().path);
    fs::rename(&made, &place).context("rename", &made)?;
    directory.sync()?;
    Ok(moved_to)
}
