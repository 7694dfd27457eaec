//! One room as a worker sees it: from the first local visitor, over joining its
//! channel and asking the other workers for its last lines, to the last visitor.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use super::history::History;
use super::visitors::SessionId;
use super::wire::{Line, Person};

/// How long the other workers have to send a room's last lines.
const ANSWER_TIME: Duration = Duration::from_millis(400);
/// How long an empty room is kept, so that a page that reloads finds its lines.
const LINGER: Duration = Duration::from_secs(20);

/// A room with its local visitors.
#[derive(Debug)]
pub struct Room {
    pub history: History,
    /// Who was in it when its visitors were last told.
    pub people: Vec<Person>,
    members: BTreeSet<SessionId>,
    phase: Phase,
    /// Visitors who have not been shown the room yet.
    waiting: Vec<SessionId>,
    empty_since: Option<Instant>,
}

#[derive(Debug, PartialEq)]
enum Phase {
    /// The channel is being joined: lines may pass unheard.
    Joining,
    /// Lines are heard; those before are asked for. All that this worker missed
    /// was routed before its question, so whoever answers has it.
    Asking { silent: usize, until: Instant },
    /// History is as complete as it gets.
    Settled,
}

impl Room {
    /// A room whose channel is being joined.
    pub fn new() -> Self {
        Room {
            history: History::default(),
            people: Vec::new(),
            members: BTreeSet::new(),
            phase: Phase::Joining,
            waiting: Vec::new(),
            empty_since: None,
        }
    }

    /// A visitor comes in, and is shown the room as soon as it is settled.
    pub fn enter(&mut self, session: SessionId) {
        self.members.insert(session);
        self.waiting.push(session);
        self.empty_since = None;
    }

    /// A visitor goes.
    pub fn leave(&mut self, session: SessionId, now: Instant) {
        self.members.remove(&session);
        self.waiting.retain(|waiting| *waiting != session);
        if self.members.is_empty() {
            self.empty_since = Some(now);
        }
    }

    /// The channel is joined, and `others` more cores are subscribed to it: true
    /// if there is anybody to ask for lines.
    pub fn joined(&mut self, others: usize, now: Instant) -> bool {
        self.phase = match others {
            0 => Phase::Settled,
            silent => Phase::Asking {
                silent,
                until: now + ANSWER_TIME,
            },
        };
        others > 0
    }

    /// Another worker's lines: returns those that are news here. A complete
    /// answer settles the room, and so does the last of incomplete ones.
    pub fn answer(&mut self, complete: bool, lines: Vec<Line>) -> Vec<Line> {
        let news: Vec<Line> = lines
            .into_iter()
            .filter(|l| self.history.insert(l.clone()))
            .collect();
        if let Phase::Asking { silent, .. } = &mut self.phase {
            *silent = silent.saturating_sub(1);
            if complete || *silent == 0 {
                self.phase = Phase::Settled;
            }
        }
        news
    }

    /// Stops waiting for answers when their time is over.
    pub fn tick(&mut self, now: Instant) {
        if matches!(self.phase, Phase::Asking { until, .. } if until <= now) {
            self.phase = Phase::Settled;
        }
    }

    /// When [`tick`](Self::tick) has something to do.
    pub fn deadline(&self) -> Option<Instant> {
        match self.phase {
            Phase::Asking { until, .. } => Some(until),
            _ => None,
        }
    }

    /// Whether its visitors are being shown lines as they come.
    pub fn settled(&self) -> bool {
        self.phase == Phase::Settled
    }

    /// Those to be shown the room now, if it is settled.
    pub fn take_waiting(&mut self) -> Vec<SessionId> {
        if self.settled() {
            std::mem::take(&mut self.waiting)
        } else {
            Vec::new()
        }
    }

    /// Local visitors.
    pub fn members(&self) -> impl Iterator<Item = SessionId> + '_ {
        self.members.iter().copied()
    }

    /// Whether its channel can be left: nobody is in it, and nobody came back.
    pub fn deserted(&self, now: Instant) -> bool {
        let over = |since: Instant| now.saturating_duration_since(since) >= LINGER;
        self.phase != Phase::Joining && self.empty_since.is_some_and(over)
    }
}

#[cfg(test)]
mod tests {
    use super::super::wire::{Place, Said, Seat};
    use super::*;

    fn line(ticket: u64) -> Line {
        let said = Said {
            mid: ticket.to_string(),
            user: "u".into(),
            name: "n".into(),
            text: "t".into(),
        };
        Line {
            place: Place { ticket, seq: 1 },
            at: 0,
            seat: Seat { worker: 0, core: 0 },
            said,
        }
    }

    #[test]
    fn a_room_that_nobody_else_has_is_settled_when_joined() {
        let mut room = Room::new();
        room.enter(1);
        assert!(room.take_waiting().is_empty());
        assert!(!room.joined(0, Instant::now()));
        assert_eq!(room.take_waiting(), [1]);
    }

    #[test]
    fn a_complete_answer_settles_and_an_incomplete_one_waits_for_the_others() {
        let now = Instant::now();
        let mut room = Room::new();
        assert!(room.joined(3, now));
        assert_eq!(room.answer(false, vec![line(2)]).len(), 1);
        assert!(!room.settled());
        assert_eq!(room.answer(true, vec![line(1), line(2)]), [line(1)]);
        assert!(room.settled());

        let mut room = Room::new();
        room.joined(2, now);
        room.answer(false, vec![]);
        room.answer(false, vec![]);
        assert!(room.settled(), "all have answered");
    }

    #[test]
    fn a_silent_worker_holds_nobody_up_for_long() {
        let now = Instant::now();
        let mut room = Room::new();
        room.enter(1);
        room.joined(1, now);
        room.tick(now + ANSWER_TIME / 2);
        assert!(!room.settled());
        assert_eq!(room.deadline(), Some(now + ANSWER_TIME));
        room.tick(now + ANSWER_TIME);
        assert_eq!(room.take_waiting(), [1]);
    }

    #[test]
    fn an_empty_room_lingers_and_is_kept_when_somebody_returns() {
        let now = Instant::now();
        let mut room = Room::new();
        room.enter(1);
        room.leave(1, now);
        assert!(
            !room.deserted(now + LINGER),
            "a pending join cannot be left"
        );
        room.joined(0, now);
        assert!(!room.deserted(now + LINGER / 2));
        assert!(room.deserted(now + LINGER));
        room.enter(2);
        assert!(!room.deserted(now + LINGER * 2));
    }
}
