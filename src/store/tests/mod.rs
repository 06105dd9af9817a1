//! The database as its users see it, on the store in memory.

mod basics;
mod bounds;
mod clock;
mod concurrency;
mod corrections;
mod expiry;
mod failure;
mod on_the_card;
mod order;
mod scene;
mod support;
mod versions;
mod workload;
