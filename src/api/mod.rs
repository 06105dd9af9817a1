//! What larder answers: one file a resource, and the rules that stand before all of them.

pub mod access;
pub mod cors;
pub mod counter;
pub mod cursor;
pub mod item;
pub mod merge_patch;
pub mod names;
pub mod ratelimit;
