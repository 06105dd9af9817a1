//! A key-value server as a good Rust developer writes it in an afternoon: axum for HTTP, fjall for the disk.
//!
//! Reads are done in place (they mostly hit memory); writes go to a blocking thread and are synced there, one by one,
//! as fjall's guide shows it. `--relaxed` syncs once a second instead of before each answer.

use std::net::SocketAddr;
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Json, Response};
use axum::routing::{get, post};
use fjall::{Database, Keyspace, KeyspaceCreateOptions, PersistMode};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

#[derive(Clone)]
struct Store {
    database: Database,
    keyspace: Keyspace,
    relaxed: bool,
}

impl Store {
    fn mode(&self) -> PersistMode {
        if self.relaxed { PersistMode::Buffer } else { PersistMode::SyncData }
    }
}

fn failed(error: impl std::fmt::Display) -> Response {
    eprintln!("{error}");
    StatusCode::INTERNAL_SERVER_ERROR.into_response()
}

async fn read(State(store): State<Store>, Path(key): Path<String>) -> Response {
    match store.keyspace.get(key) {
        Ok(Some(value)) => value.to_vec().into_response(),
        Ok(None) => StatusCode::NOT_FOUND.into_response(),
        Err(error) => failed(error),
    }
}

async fn write(State(store): State<Store>, Path(key): Path<String>, value: Bytes) -> Response {
    let written = tokio::task::spawn_blocking(move || {
        let mut batch = store.database.batch().durability(Some(store.mode()));
        batch.insert(&store.keyspace, key, value.as_ref());
        batch.commit()
    });
    match written.await {
        Ok(Ok(())) => StatusCode::NO_CONTENT.into_response(),
        Ok(Err(error)) => failed(error),
        Err(error) => failed(error),
    }
}

#[derive(Deserialize)]
struct Batch {
    operations: Vec<Operation>,
}

#[derive(Deserialize)]
struct Operation {
    key: String,
    value: Box<RawValue>,
}

async fn batch(State(store): State<Store>, Json(body): Json<Batch>) -> Response {
    let written = tokio::task::spawn_blocking(move || {
        let mut batch = store.database.batch().durability(Some(store.mode()));
        for operation in &body.operations {
            batch.insert(&store.keyspace, operation.key.as_str(), operation.value.get());
        }
        batch.commit().map(|()| body.operations.len())
    });
    match written.await {
        Ok(Ok(written)) => Json(serde_json::json!({ "written": written })).into_response(),
        Ok(Err(error)) => failed(error),
        Err(error) => failed(error),
    }
}

#[derive(Deserialize)]
struct Page {
    #[serde(default)]
    start: String,
    #[serde(default = "hundred")]
    limit: usize,
}

fn hundred() -> usize {
    100
}

#[derive(Serialize)]
struct Item {
    key: String,
    size: usize,
}

async fn list(State(store): State<Store>, Query(page): Query<Page>) -> Response {
    let mut items = Vec::with_capacity(page.limit.min(1000));
    for pair in store.keyspace.range(page.start..).take(page.limit) {
        match pair.into_inner() {
            Ok((key, value)) => {
                items.push(Item { key: String::from_utf8_lossy(&key).into_owned(), size: value.len() });
            }
            Err(error) => return failed(error),
        }
    }
    Json(serde_json::json!({ "items": items })).into_response()
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let (mut data, mut listen, mut relaxed) = ("data".to_owned(), "127.0.0.1:0".to_owned(), false);
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--data" => data = arguments.next().ok_or("--data needs a folder")?,
            "--listen" => listen = arguments.next().ok_or("--listen needs an address")?,
            "--relaxed" => relaxed = true,
            other => return Err(format!("unknown argument {other}").into()),
        }
    }
    let database = Database::builder(&data).open()?;
    let keyspace = database.keyspace("kv", KeyspaceCreateOptions::default)?;
    let store = Store { database, keyspace, relaxed };
    if relaxed {
        let database = store.database.clone();
        std::thread::spawn(move || {
            loop {
                std::thread::sleep(Duration::from_secs(1));
                database.persist(PersistMode::SyncData).expect("the journal can be synced");
            }
        });
    }
    let router = Router::new()
        .route("/kv/{key}", get(read).put(write))
        .route("/kv", get(list))
        .route("/batch", post(batch))
        .with_state(store);
    let listener = tokio::net::TcpListener::bind(listen.parse::<SocketAddr>()?).await?;
    println!("listening on http://{}", listener.local_addr()?);
    axum::serve(listener, router).await?;
    Ok(())
}
