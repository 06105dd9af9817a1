//! The fjall store against its contract: what is committed is there, after whatever happened to the process and its
//! journals, in little memory, and what is deleted gives its space back.
//!
//! It speaks to the store alone: no committer, no cache, no HTTP.
#![allow(clippy::unwrap_used, missing_docs)]

mod blocks;
mod contract;
mod fixture;
mod full;
mod load;
mod lost;
mod recovery;
mod space;
mod support;
