//! POST /api/v1/batch: many operations in one request, all or nothing or each for itself.
//!
//! `parse` reads the document, `run` hands it on in one piece (atomic) or in chunks, `answer` writes the results.
//! Batches of gets alone never reach the committer: one view answers them.

mod answer;
pub mod parse;
mod run;

pub use run::batch;
