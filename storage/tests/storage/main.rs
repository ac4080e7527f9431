//! What a user of the store can rely on. One program, so that it links once.

mod backends;
mod copy;
mod copy_kill;
mod damage;
mod directory;
mod every_file;
mod format1;
mod full;
mod kill;
mod log;
mod power_cut;
mod support;
mod writer;
