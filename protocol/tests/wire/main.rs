//! The crate against amq-protocol, against itself, and against noise.

mod assembler;
mod content;
mod generate;
mod hot;
mod methods;
mod noise;
mod split;
mod tables;
