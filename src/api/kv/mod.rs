//! One value: reading it (`read`), writing it (`write`), and changing what it holds (`update`).

pub mod read;
pub mod update;
pub mod write;
