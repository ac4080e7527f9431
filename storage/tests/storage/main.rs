//! What a user of the store can rely on. One program, so that it links once.

mod backends;
mod damage;
mod directory;
mod kill;
mod support;
mod writer;
