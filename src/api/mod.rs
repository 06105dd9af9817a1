//! What larder answers: one file a resource, and the rules that stand before all of them.

pub mod access;
pub mod cors;
pub mod names;
pub mod ratelimit;
