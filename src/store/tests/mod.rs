//! The database as its users see it, on the store in memory.

mod basics;
mod support;
