//! larder as a library: a store with its committer, without any network. `cargo run --example embed`

use std::sync::Arc;
use std::sync::mpsc;

use larder::metrics::Registry;
use larder::store::{
    Action, Database, DatabaseOptions, Durability, FullKey, MemoryStore, NoObserver, Precondition, Ttl, WriteOp,
    WriteRequest,
};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    // `larder::store::fjall::FjallStore::open` in its place keeps the data on the card.
    let store = MemoryStore::new();
    let db = Database::start(store, Arc::new(NoObserver), &Registry::default(), DatabaseOptions::default())?;

    let (tell, told) = mpsc::channel();
    let key = FullKey::new("home", "notes", "first");
    let put = Action::Put { content_type: "text/plain".into(), value: "hello".into(), ttl: Ttl::Clear };
    db.submit(WriteRequest {
        ops: vec![WriteOp { key: key.clone(), action: put, precondition: Precondition::default(), preread: None }],
        atomic: true,
        durability: Durability::Sync,
        deadline: None,
        reply: Box::new(move |outcome| {
            let _ = tell.send(outcome);
        }),
    });
    println!("written: {:?}", told.recv()?);

    let record = db.view().read(&key)?.ok_or("the record is there")?;
    println!("read: {} at version {}", String::from_utf8_lossy(&record.value), record.version);
    db.stop()?;
    Ok(())
}
