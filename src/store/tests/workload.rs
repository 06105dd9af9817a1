//! A seeded workload with restarts, compared with a map.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::scene::contents;
use super::support::*;
use crate::store::*;

#[derive(Clone, Debug)]
enum Step {
    Put(u8, u16),
    PutIfAbsent(u8, u16),
    Delete(u8),
    Add(u8, i8),
    Batch(Vec<(u8, Option<u16>)>, bool),
    Reopen,
    Crash,
}

fn step() -> impl Strategy<Value = Step> {
    let key = 0_u8..6;
    prop_oneof![
        4 => (key.clone(), any::<u16>()).prop_map(|(key, value)| Step::Put(key, value)),
        2 => (key.clone(), any::<u16>()).prop_map(|(key, value)| Step::PutIfAbsent(key, value)),
        2 => key.clone().prop_map(Step::Delete),
        3 => (key.clone(), any::<i8>()).prop_map(|(key, by)| Step::Add(key, by)),
        2 => (prop::collection::vec((key, any::<Option<u16>>()), 1..6), any::<bool>())
            .prop_map(|(ops, fails)| Step::Batch(ops, fails)),
        1 => Just(Step::Reopen),
        1 => Just(Step::Crash),
    ]
}

/// What the store should hold, and the highest version it has given out.
#[derive(Default)]
struct Model {
    values: BTreeMap<String, String>,
    version: u64,
}

impl Model {
    fn newer(&mut self, outcome: &OpOutcome) {
        let version = version(outcome);
        assert!(version > self.version);
        self.version = version;
    }

    fn put(&mut self, database: &Database, op: WriteOp, name: String, value: String) {
        let outcome = one(database, op);
        let created = self.values.insert(name, value).is_none();
        assert!(matches!(outcome, OpOutcome::Stored { created: told, .. } if told == created));
        self.newer(&outcome);
    }

    fn apply(&mut self, database: &Database, step: &Step) {
        match step {
            Step::Put(key, value) => {
                let (name, value) = (key.to_string(), value.to_string());
                self.put(database, put(&name, &value), name.clone(), value);
            }
            Step::PutIfAbsent(key, value) => {
                let (name, value) = (key.to_string(), value.to_string());
                let op = if_absent(put(&name, &value));
                if self.values.contains_key(&name) {
                    assert!(matches!(one(database, op), OpOutcome::PreconditionFailed));
                } else {
                    self.put(database, op, name, value);
                }
            }
            Step::Delete(key) => {
                let outcome = one(database, op(&key.to_string(), Action::Delete));
                match self.values.remove(&key.to_string()) {
                    Some(_) => self.newer(&outcome),
                    None => assert!(matches!(outcome, OpOutcome::NotFound)),
                }
            }
            Step::Add(key, by) => {
                let outcome = one(database, add(&key.to_string(), i64::from(*by)));
                let value = self.values.entry(key.to_string()).or_insert_with(|| "0".into());
                *value = (value.parse::<i64>().unwrap() + i64::from(*by)).to_string();
                self.newer(&outcome);
            }
            Step::Batch(changes, fails) => self.batch(database, changes, *fails),
            Step::Reopen | Step::Crash => {}
        }
    }

    fn batch(&mut self, database: &Database, changes: &[(u8, Option<u16>)], fails: bool) {
        let op = |(key, value): &(u8, Option<u16>)| match value {
            Some(value) => put(&key.to_string(), &value.to_string()),
            None => op(&key.to_string(), Action::Delete),
        };
        let mut ops: Vec<WriteOp> = changes.iter().map(op).collect();
        if fails {
            ops.push(if_version(put("0", "x"), u64::MAX));
        }
        let outcome = end(send(database, ops)).unwrap();
        assert_eq!(outcome.failed, fails.then_some(changes.len()));
        if fails {
            return;
        }
        for ((key, value), result) in changes.iter().zip(&outcome.results) {
            let replaced = match value {
                Some(value) => self.values.insert(key.to_string(), value.to_string()),
                None => self.values.remove(&key.to_string()),
            };
            if value.is_some() || replaced.is_some() {
                self.newer(result);
            } else {
                assert!(matches!(result, OpOutcome::NotFound));
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_database_equals_a_map_over_any_work_restarts_and_crashes(steps in prop::collection::vec(step(), 1..60)) {
        let mut store = MemoryStore::new();
        let mut database = start(store.clone(), options());
        let mut model = Model::default();
        for step in &steps {
            match step {
                Step::Reopen => {
                    database.stop().unwrap();
                    database = start(store.clone(), options());
                }
                Step::Crash => {
                    store = store.crash();
                    database = start(store.clone(), options());
                }
                step => model.apply(&database, step),
            }
            prop_assert_eq!(&contents(&database), &model.values);
        }
    }
}
