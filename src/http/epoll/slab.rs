//! The connections of one I/O thread, by slot. A token names a slot and the generation of its tenant.
//!
//! Invariant: a token of a connection that is gone never finds the one that took its slot.

use super::connection::Connection;

/// The generation of tokens that name no connection.
pub const NO_CONNECTION: u32 = 1 << 31;

struct Entry {
    generation: u32,
    connection: Option<Connection>,
}

/// The slots.
#[derive(Default)]
pub struct Slab {
    entries: Vec<Entry>,
    free: Vec<u32>,
}

impl Slab {
    /// Connections in it.
    pub fn len(&self) -> usize {
        self.entries.len() - self.free.len()
    }

    /// Puts a connection into a slot and returns its token.
    pub fn insert(&mut self, connection: Connection) -> u64 {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.entries.push(Entry { generation: 0, connection: None });
            (self.entries.len() - 1) as u32
        });
        let entry = &mut self.entries[slot as usize];
        entry.connection = Some(connection);
        token(entry.generation, slot)
    }

    /// The connection that a token names, if it still lives.
    pub fn get(&mut self, token: u64) -> Option<&mut Connection> {
        let entry = self.entries.get_mut(slot_of(token) as usize)?;
        if u64::from(entry.generation) == token >> 32 { entry.connection.as_mut() } else { None }
    }

    /// Takes a connection out.
    pub fn remove(&mut self, token: u64) -> Option<Connection> {
        self.get(token)?;
        let slot = slot_of(token);
        let entry = &mut self.entries[slot as usize];
        entry.generation = (entry.generation + 1) % NO_CONNECTION;
        self.free.push(slot);
        entry.connection.take()
    }

    /// The token of whoever is in a slot.
    pub fn token_at(&self, slot: u32) -> Option<u64> {
        let entry = self.entries.get(slot as usize)?;
        entry.connection.as_ref().map(|_| token(entry.generation, slot))
    }

    /// The tokens of all. For the drain only: it looks at every slot.
    pub fn tokens(&self) -> Vec<u64> {
        (0..self.entries.len() as u32).filter_map(|slot| self.token_at(slot)).collect()
    }
}

/// A token.
pub const fn token(generation: u32, slot: u32) -> u64 {
    (generation as u64) << 32 | slot as u64
}

/// The slot that a token names.
pub fn slot_of(token: u64) -> u32 {
    token as u32
}
