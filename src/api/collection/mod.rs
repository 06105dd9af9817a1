//! Collections as a whole: listing them (`read`), and removing what they hold (`remove`).
//!
//! What a list is made of stands in [`super::listing`] and [`super::catalog`]; this is their way to HTTP.

pub mod read;
pub mod remove;

use crate::http::Problem;

use super::names;

/// The namespace and the collection of a route, checked.
pub fn place([namespace, collection, _]: [&str; 3]) -> Result<(&str, &str), Problem> {
    Ok((names::namespace(namespace)?, names::collection(collection)?))
}
