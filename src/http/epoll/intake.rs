//! From bytes to a handler: the head, the decision about the body, the body, and the hand-over.
//!
//! Invariant: each message gets exactly one answer. Whoever takes the trace out of its place answers.

use std::io::ErrorKind;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use bytes::Bytes;

use super::active::{Active, Core};
use super::body::{ForHandler, Incoming, Pace, Sink, WaitsForRoom};
use super::chunked::ChunkError;
use super::connection::{Connection, Phase, Step, Verdict};
use super::lane::Lane;
use super::mailbox::Message;
use super::parse::{self, BodyFraming, Expectation, HeadScan, ParsedHead, Refusal};
use super::stats::CloseReason;
use super::workers::{Job, overloaded};
use crate::http::budget::bodies::FREE_BYTES;
use crate::http::budget::{Client, Share};
use crate::http::engine::Admission;
use crate::http::headers::HeaderName;
use crate::http::message::{Request, RequestBody, Response, Trace};
use crate::http::problem::{Problem, Written};
use crate::http::responder::{Responder, unanswered};
use crate::http::wire::HeadContext;

impl Connection {
    /// Looks for a whole head and begins its request.
    pub(super) fn next_head(&mut self, active: &mut Active, core: &mut Core, ticket: u64) -> Step {
        let mut input = &active.input[active.start..];
        if input == b"\r\n" {
            // Clients end a body with it: so far nothing is coming.
            active.start = active.input.len();
            active.scan = HeadScan::default();
            active.deadline = 0;
            input = &[];
        }
        if input.is_empty() {
            return Step::NeedInput;
        }
        let parsed = match active.scan.find(input, &core.limits) {
            Ok(None) => {
                if active.deadline == 0 {
                    active.deadline = core.tick_after(core.limits.head_timeout);
                    active.head_since = core.tick;
                }
                return Step::NeedInput;
            }
            Ok(Some((start, end))) => parse::parse(&input[start..end], &core.limits).map(|parsed| (parsed, end)),
            Err(refusal) => Err(refusal),
        };
        active.scan = HeadScan::default();
        active.deadline = 0;
        match parsed {
            Ok((parsed, end)) => {
                active.start += end;
                active.in_hand = end;
                self.begin(active, core, ticket, parsed)
            }
            Err(refusal) => {
                let trace = self.trace_of_partial_head(active, core);
                self.refuse(active, core, refusal, trace)
            }
        }
    }

    fn begin(&mut self, active: &mut Active, core: &mut Core, ticket: u64, parsed: ParsedHead) -> Step {
        let ParsedHead { method, head, http_1_0, keep_alive, framing, expectation } = parsed;
        active.context = HeadContext { method, http_1_0, keep_alive };
        let mut trace = Trace::new(method, self.peer, active.filled_at);
        if self.is_at_the_door() || expectation == Expectation::Unknown {
            core.shared.handler.note(&head, &mut trace);
        }
        if self.is_at_the_door() {
            return self.turn_away(active, core, trace);
        }
        let request = Request { method, head, body: RequestBody::Bytes(Bytes::new()), peer: self.peer };
        if expectation == Expectation::Unknown {
            let message = "the only expectation understood here is 100-continue";
            return self.refuse(active, core, Refusal { status: 417, code: "EXPECTATION_FAILED", message }, trace);
        }
        if framing == BodyFraming::None {
            return self.dispatch(active, core, ticket, request, trace);
        }
        let handler = &core.shared.handler;
        let Ok(admission) = catch_unwind(AssertUnwindSafe(|| handler.admit(&request, &mut trace))) else {
            core.shared.stats.panics.inc();
            return self.end_with(active, core, unanswered(method), trace);
        };
        let owes_continue = expectation == Expectation::Continue && active.input.len() == active.start;
        let (bytes_max, sink) = match admission {
            Admission::Refuse(response) => return self.refuse_body(active, core, framing, response, trace),
            Admission::Read { bytes_max, value: is_value } => {
                if matches!(framing, BodyFraming::Length(length) if length > bytes_max) {
                    return self.refuse(active, core, too_large(is_value), trace);
                }
                let is_compressed = request.head.has(HeaderName::ContentEncoding);
                let bytes = Vec::new();
                let body = ForHandler { request, trace, bytes, is_value, bytes_max, is_compressed };
                (bytes_max, Sink::Memory(Box::new(body)))
            }
            Admission::Stream => {
                let Some(lane) = Lane::claim(&core.shared, core.limits.imports_max) else {
                    core.shared.stats.overloaded.inc();
                    let response = overloaded(method, "all import lanes are taken; try again later");
                    return self.end_with(active, core, response, trace);
                };
                let responder = Responder::new(Arc::clone(&core.mailbox) as _, ticket, trace);
                let pipe = lane.open(&core.mailbox, ticket, request, responder);
                (u64::MAX, Sink::Lane { pipe, is_paused: false })
            }
        };
        let pace = Pace::new(core.tick, &core.limits, matches!(sink, Sink::Memory(_)));
        let incoming = active.incoming.insert(Incoming::new(framing, bytes_max, sink, pace));
        self.phase = Phase::Body;
        if owes_continue {
            // Nobody is asked for what there is no room for.
            match incoming.wants(0).filter(|want| want.need > FREE_BYTES && !core.shared.bodies.has_room()) {
                Some(want) => wait_for_room(active, core, ticket, want.need, true),
                None => active.output.push_continue(),
            }
        }
        Step::Next
    }

    /// Sees to it that the body has the memory to go on. False if it waits for that.
    fn make_room(&self, active: &mut Active, core: &Core, ticket: u64) -> bool {
        let waiting = active.input.len() - active.start;
        let Some(want) = active.incoming.as_ref().and_then(|incoming| incoming.wants(waiting)) else { return true };
        if (want.bytes > FREE_BYTES || active.share.is_some()) && !share_of(active, core, ticket).grow(want.bytes) {
            wait_for_room(active, core, ticket, want.need, false);
            return false;
        }
        if let Some(incoming) = &mut active.incoming {
            incoming.grow(want);
        }
        true
    }

    /// Takes what there is of the body, and hands the request over once it is whole.
    pub(super) fn next_body(&mut self, active: &mut Active, core: &mut Core, ticket: u64) -> Step {
        let Some(incoming) = active.incoming.as_mut() else { return Step::Close(CloseReason::Aborted) };
        if incoming.is_paused() || active.waits_for_room.is_some() || !self.make_room(active, core, ticket) {
            return Step::Wait;
        }
        let Some(incoming) = active.incoming.as_mut() else { return Step::Close(CloseReason::Aborted) };
        match incoming.take(&active.input[active.start..]) {
            Ok(used) => active.start += used,
            Err(error) => return self.body_is_wrong(active, core, error),
        }
        if !incoming.is_done() {
            return if incoming.is_paused() { Step::Wait } else { Step::NeedInput };
        }
        if !self.make_room(active, core, ticket) {
            return Step::Wait;
        }
        match active.incoming.take().map(|incoming| incoming.sink) {
            Some(Sink::Memory(waiting)) => {
                let held_bytes = waiting.held_bytes();
                let ForHandler { mut request, trace, bytes, .. } = *waiting;
                match &mut active.share {
                    Some(share) => share.settle(held_bytes),
                    None => active.in_hand += bytes.capacity(),
                }
                request.body = RequestBody::Bytes(bytes.into());
                self.dispatch(active, core, ticket, request, trace)
            }
            Some(Sink::Lane { pipe, .. }) => {
                pipe.finish();
                self.phase = Phase::Waiting;
                Step::Wait
            }
            None => Step::Close(CloseReason::Aborted),
        }
    }

    /// Gives a whole request to the application: at once, or through the workers.
    fn dispatch(
        &mut self,
        active: &mut Active,
        core: &mut Core,
        ticket: u64,
        request: Request,
        mut trace: Trace,
    ) -> Step {
        let shared = &core.shared;
        match catch_unwind(AssertUnwindSafe(|| shared.handler.quick(&request, &mut trace))) {
            Ok(Some(response)) => self.answer(active, core, response, trace),
            Ok(None) => {
                let is_full = core.in_hand_bytes + active.in_hand > core.kept_bytes_max;
                let place = if is_full { None } else { shared.queue.place(core.limits.queued_requests_max) };
                let Some(place) = place else {
                    shared.stats.overloaded.inc();
                    let response = overloaded(request.method, "too many requests wait for a worker; try again");
                    return self.answer(active, core, response, trace);
                };
                shared.stats.queue_depth.inc();
                let responder = Responder::new(Arc::clone(&core.mailbox) as _, ticket, trace);
                place.fill(Job::Handle { request, responder });
                core.jobs += 1;
                self.phase = Phase::Waiting;
                Step::Wait
            }
            Err(_) => {
                shared.stats.panics.inc();
                self.answer(active, core, unanswered(request.method), trace)
            }
        }
    }

    /// Answers from this thread.
    pub(super) fn answer(&mut self, active: &mut Active, core: &Core, response: Response, trace: Trace) -> Step {
        // Charged before this thread does anything else.
        let (response, _room) = core.shared.answers.admit(response, &trace);
        self.push_answer(active, core, response, trace)
    }

    /// Pushes an answer and moves on.
    pub(super) fn push_answer(&mut self, active: &mut Active, core: &Core, response: Response, trace: Trace) -> Step {
        active.share = None;
        active.in_hand = 0;
        self.count_answer();
        active.context.keep_alive &= !core.draining && !self.linger;
        let ends = active.output.push(response, trace, active.context);
        self.phase = if ends { Phase::Closing } else { Phase::Head };
        Step::Answered
    }

    /// Answers a message that is not read to its end: the connection ends, and lingers.
    pub(super) fn end_with(&mut self, active: &mut Active, core: &Core, response: Response, trace: Trace) -> Step {
        self.linger = true;
        if active.reason == CloseReason::Finished {
            active.reason = CloseReason::Refused;
        }
        self.answer(active, core, response, trace)
    }

    fn refuse(&mut self, active: &mut Active, core: &Core, refusal: Refusal, trace: Trace) -> Step {
        let mut problem = Problem::new(refusal.status, refusal.code, refusal.message);
        if refusal.status >= 500 && trace.method.is_write() {
            problem = problem.written(Written::No);
        }
        self.end_with(active, core, problem.into(), trace)
    }

    /// The application does not want the body. One that has come already is dropped, and the connection goes on.
    fn refuse_body(
        &mut self,
        active: &mut Active,
        core: &Core,
        framing: BodyFraming,
        response: Response,
        trace: Trace,
    ) -> Step {
        let waiting = (active.input.len() - active.start) as u64;
        match framing {
            BodyFraming::Length(length) if length <= waiting => {
                active.start += length as usize;
                self.answer(active, core, response, trace)
            }
            _ => self.end_with(active, core, response, trace),
        }
    }

    fn body_is_wrong(&mut self, active: &mut Active, core: &Core, error: ChunkError) -> Step {
        match active.incoming.take().map(|incoming| incoming.sink) {
            Some(Sink::Memory(waiting)) => {
                let refusal = match error {
                    ChunkError::TooLarge => too_large(waiting.is_value),
                    ChunkError::Malformed(message) => Refusal::bad(message),
                };
                self.refuse(active, core, refusal, waiting.trace)
            }
            Some(Sink::Lane { pipe, .. }) => {
                pipe.fail(ErrorKind::InvalidData, "the chunked coding of the body is malformed");
                self.wait_for_the_lane(active)
            }
            None => Step::Close(CloseReason::Aborted),
        }
    }

    /// There is memory for the body that waits for it: it may come. Or there was none in its time: 503.
    pub(super) fn on_room_for_body(&mut self, there_is: bool, core: &mut Core, ticket: u64) -> Verdict {
        let Some(mut active) = self.take_active_if_it_waits() else { return Verdict::Wait };
        let waits = active.waits_for_room.take();
        if there_is {
            if let (Some(share), Some(waits)) = (&mut active.share, &waits) {
                share.was_admitted(waits.need);
            }
            if waits.is_some_and(|waits| waits.owes_continue) {
                active.output.push_continue();
            }
            if let Some(incoming) = &mut active.incoming {
                incoming.begin(core.tick, &core.limits);
            }
        } else {
            self.body_finds_no_room(&mut active, core);
        }
        self.put_back(active);
        self.drive(core, ticket)
    }

    fn body_finds_no_room(&mut self, active: &mut Active, core: &Core) {
        if let Some(Sink::Memory(waiting)) = active.incoming.take().map(|incoming| incoming.sink) {
            core.shared.stats.overloaded.inc();
            let response = overloaded(waiting.trace.method, "too many bodies at once; try again in a moment");
            self.end_with(active, core, response, waiting.trace);
        }
    }

    /// The body of this request is too slow: 408, or an error to the handler that reads it. While it waits for memory that
    /// is not its client's doing: 503.
    pub(super) fn body_is_late(&mut self, active: &mut Active, core: &Core) {
        if active.waits_for_room.take().is_some() {
            return self.body_finds_no_room(active, core);
        }
        match active.incoming.take().map(|incoming| incoming.sink) {
            Some(Sink::Memory(waiting)) => {
                let refusal = late("the body of the request came too slowly");
                self.refuse(active, core, refusal, waiting.trace);
            }
            Some(Sink::Lane { pipe, .. }) => {
                pipe.fail(ErrorKind::TimedOut, "the body of the request came too slowly");
                self.wait_for_the_lane(active);
            }
            None => {}
        }
    }

    /// The handler that reads an import has been told that it ends early: it answers, and then the connection ends.
    fn wait_for_the_lane(&mut self, active: &mut Active) -> Step {
        self.phase = Phase::Waiting;
        self.linger = true;
        active.context.keep_alive = false;
        Step::Wait
    }

    /// The head of a request did not come in time: 408.
    pub(super) fn head_is_late(&mut self, active: &mut Active, core: &Core) {
        active.reason = CloseReason::HeadTimeout;
        let trace = self.trace_of_partial_head(active, core);
        self.refuse(active, core, late("the head of the request came too slowly"), trace);
    }
}

/// The share of the body that is being read.
fn share_of<'a>(active: &'a mut Active, core: &Core, ticket: u64) -> &'a mut Share {
    let client = active.incoming.as_ref().and_then(Incoming::client);
    active.share.get_or_insert_with(|| {
        let mailbox = Arc::clone(&core.mailbox);
        let give_up = Box::new(move || mailbox.send(Message::EndBody(ticket)));
        core.shared.bodies.begin(client.unwrap_or(Client::NOBODY), give_up)
    })
}

/// Waits until so much is set aside for the body.
fn wait_for_room(active: &mut Active, core: &Core, ticket: u64, need: u64, owes_continue: bool) {
    let share = share_of(active, core, ticket);
    let waits = WaitsForRoom::new(&core.shared.bodies, share, need, owes_continue, &core.mailbox, ticket);
    active.waits_for_room = Some(waits);
}

fn late(message: &'static str) -> Refusal {
    Refusal { status: 408, code: "REQUEST_TIMEOUT", message }
}

fn too_large(is_value: bool) -> Refusal {
    let (code, message) = match is_value {
        true => ("VALUE_TOO_LARGE", "the value is larger than limits.value_bytes_max"),
        false => ("BODY_TOO_LARGE", "the body is larger than limits.body_bytes_max"),
    };
    Refusal { status: 413, code, message }
}
