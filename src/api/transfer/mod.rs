//! The whole store in and out as lines of JSON: `export` streams one snapshot, `import` takes the same lines back.
//!
//! Both work in constant memory. An export that was cut has no end line, and an import refuses what has none.

mod export;
mod import;
pub mod line;
mod spool;

pub use export::export;
pub use import::import;
