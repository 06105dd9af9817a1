//! Reading from a connection's socket.

use std::time::Instant;

use rustix::buffer::spare_capacity;
use rustix::io::Errno;
use rustix::net::{RecvFlags, recv};

use super::active::{Active, Core};
use super::connection::{Connection, Phase, Verdict};
use super::stats::CloseReason;
use super::way::Way;

impl Connection {
    /// Reads once. `Some` if there was nothing to read, or no more will come.
    pub(super) fn read(&mut self, active: &mut Active, core: &mut Core) -> Option<Verdict> {
        if self.ended {
            return Some(self.client_ended(active));
        }
        if !self.readable {
            return Some(Verdict::Wait);
        }
        let read = loop {
            match self.read_once(active, core) {
                Err(Errno::INTR) => {}
                read => break read,
            }
        };
        match read {
            Ok(0) => {
                self.ended = true;
                Some(self.client_ended(active))
            }
            Ok(bytes) => {
                self.is_fresh = false;
                if self.way == Way::LastChance {
                    self.way = Way::Back;
                }
                active.filled_at = Instant::now();
                if self.phase == Phase::Linger {
                    active.input.clear();
                    active.linger_left = active.linger_left.saturating_sub(bytes);
                }
                None
            }
            Err(Errno::AGAIN) => {
                self.readable = false;
                Some(Verdict::Wait)
            }
            Err(_) => {
                let is_between = self.phase == Phase::Head && active.input.is_empty();
                Some(Verdict::Close(if is_between { CloseReason::Client } else { CloseReason::Aborted }))
            }
        }
    }

    fn read_once(&mut self, active: &mut Active, core: &mut Core) -> rustix::io::Result<usize> {
        if active.start == active.input.len() {
            active.input.clear();
        } else {
            active.input.drain(..active.start);
        }
        active.start = 0;
        let direct = if active.input.is_empty() { active.incoming.as_mut() } else { None };
        if let Some(incoming) = direct
            && let Some(target) = incoming.direct()
        {
            let room = target.capacity() - target.len();
            let (_, read) = recv(&self.socket, spare_capacity(target), RecvFlags::empty())?;
            if let Some(share) = &active.share {
                share.moved(read);
            }
            // A short read leaves nothing behind; the next edge tells. After a hang-up there is no next edge.
            self.readable = read == room || self.hung_up;
            active.input = extended(std::mem::take(&mut active.input), incoming.took_direct(read));
            return Ok(read);
        }
        core.make_room(&mut active.input);
        let room = active.input.capacity() - active.input.len();
        // `recv` goes to the socket by a shorter way than `read`, which looks at files first.
        let (_, read) = recv(&self.socket, spare_capacity(&mut active.input), RecvFlags::empty())?;
        self.readable = read == room || self.hung_up;
        if let Some(share) = &active.share {
            share.moved(read);
        }
        Ok(read)
    }
}

fn extended(mut bytes: Vec<u8>, more: Vec<u8>) -> Vec<u8> {
    bytes.extend_from_slice(&more);
    bytes
}
