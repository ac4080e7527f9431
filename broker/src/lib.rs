pub mod exchange;
pub mod names;
