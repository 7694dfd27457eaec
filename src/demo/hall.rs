//! All that one worker knows: its visitors, its rooms, and who is elsewhere.
//!
//! The hall does no input or output. It is told what happened (a page asks for
//! something, a message came in, time passed), tells its visitors through their
//! outlets, and leaves [`Action`]s for the worker's loop to perform on the core.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use super::presence::Presence;
use super::room::Room;
use super::visitors::{Outlet, SessionId, Visitors};
use super::wire::{
    Counters, Event, Line, Load, NAME_CHARS, Note, PRESENCE, Place, ROOM_CHARS, Request, RoomCount,
    Roster, Said, Seat, TEXT_CHARS, clean, inbox, room_channel,
};

/// The least time between two announcements of the roster.
const ANNOUNCE_PAUSE: Duration = Duration::from_millis(25);

/// What the worker's loop is to do on its core.
#[derive(Debug, PartialEq)]
pub enum Action {
    /// Join the channel of a room, then call [`Hall::joined`] or [`Hall::join_failed`].
    Join { room: String },
    /// Leave the channel of a room.
    Leave { room: String },
    /// Send; if that fails, call [`Hall::unsent`].
    Send(Outgoing),
    /// End this process the hard way.
    Die,
}

/// A note to be sent, and who is to hear if it cannot be.
#[derive(Debug, PartialEq)]
pub struct Outgoing {
    pub channel: String,
    pub note: Note,
    pub from: Option<SessionId>,
}

/// What a message says about itself.
#[derive(Clone, Copy, Debug)]
pub struct Postmark {
    pub seat: Seat,
    pub ticket: u64,
    /// Milliseconds since 1970.
    pub at: u64,
}

/// This worker, as it introduces itself.
#[derive(Clone, Copy, Debug)]
pub struct Identity {
    pub seat: Seat,
    pub pid: u32,
    pub workers: u32,
    /// When the hub was made, in milliseconds since 1970.
    pub hub: u64,
}

/// See the module's header.
pub struct Hall {
    me: Identity,
    visitors: Visitors,
    rooms: HashMap<String, Room>,
    presence: Presence,
    actions: Vec<Action>,
    lines_sent: u64,
    /// Own visitors changed: the roster is to be made anew.
    roster_changed: bool,
    /// What is shown of rooms, people and workers may be out of date.
    views_stale: bool,
    shown: (Vec<RoomCount>, Vec<Load>),
    announce_due: bool,
    announced_at: Option<Instant>,
}

impl Hall {
    /// An empty hall that will introduce itself to the other workers.
    pub fn new(me: Identity) -> Self {
        let ask = Outgoing {
            channel: PRESENCE.into(),
            note: Note::AskRosters,
            from: None,
        };
        Hall {
            me,
            visitors: Visitors::default(),
            rooms: HashMap::new(),
            presence: Presence::default(),
            actions: vec![Action::Send(ask)],
            lines_sent: 0,
            roster_changed: true,
            views_stale: true,
            shown: Default::default(),
            announce_due: true,
            announced_at: None,
        }
    }

    /// A page has connected. `None`: this worker serves as many as it can.
    pub fn arrive(&mut self, id: String, name: String, outlet: Outlet) -> Option<SessionId> {
        let session = self.visitors.add(id, name.clone(), outlet)?;
        let Identity {
            seat,
            pid,
            workers,
            hub,
        } = self.me;
        let hello = Event::Hello {
            seat,
            pid,
            workers,
            hub,
            name: &name,
        };
        self.visitors.tell(session, &hello);
        let (rooms, workers) = (&self.shown.0, &self.shown.1);
        self.visitors
            .tell(session, &Event::Places { rooms, workers });
        Some(session)
    }

    /// A page has gone.
    pub fn depart(&mut self, session: SessionId, now: Instant) {
        self.leave_room(session, now);
        if self.visitors.remove(session) {
            self.roster_changed = true;
        }
    }

    /// A page wants something.
    pub fn request(&mut self, session: SessionId, request: Request, now: Instant) {
        match request {
            Request::Enter { room } => self.enter(session, &room, now),
            Request::Say { mid, text } => self.say(session, mid, &text),
            Request::Name { name } => self.rename(session, &name),
            Request::Kill => self.actions.push(Action::Die),
        }
    }

    fn enter(&mut self, session: SessionId, name: &str, now: Instant) {
        let Some(name) = clean(name, ROOM_CHARS) else {
            return self.visitors.notice(session, "A room needs a name.");
        };
        self.leave_room(session, now);
        let Some(visitor) = self.visitors.get_mut(session) else {
            return;
        };
        visitor.room = Some(name.clone());
        self.roster_changed = true;
        let room = self.rooms.entry(name.clone()).or_insert_with(|| {
            self.actions.push(Action::Join { room: name.clone() });
            Room::new()
        });
        room.enter(session);
        self.welcome(&name);
    }

    fn leave_room(&mut self, session: SessionId, now: Instant) {
        let Some(name) = self.visitors.get_mut(session).and_then(|s| s.room.take()) else {
            return;
        };
        self.roster_changed = true;
        if let Some(room) = self.rooms.get_mut(&name) {
            room.leave(session, now);
        }
    }

    fn say(&mut self, session: SessionId, mid: String, text: &str) {
        let Some(visitor) = self.visitors.get(session) else {
            return;
        };
        let settled = |name: &String| self.rooms.get(name).is_some_and(Room::settled);
        let Some(room) = visitor.room.clone().filter(settled) else {
            return self
                .visitors
                .refuse(session, &mid, "You are not in a room yet.");
        };
        let Some(text) = clean(text, TEXT_CHARS) else {
            return self
                .visitors
                .refuse(session, &mid, "There is nothing to say.");
        };
        let said = Said {
            mid,
            user: visitor.id.clone(),
            name: visitor.name.clone(),
            text,
        };
        self.lines_sent += 1;
        let note = Note::Line {
            seq: self.lines_sent,
            said,
        };
        self.send(room_channel(&room), note, Some(session));
    }

    fn rename(&mut self, session: SessionId, name: &str) {
        let Some(name) = clean(name, NAME_CHARS) else {
            return self
                .visitors
                .notice(session, "A name needs a letter or two.");
        };
        if let Some(visitor) = self.visitors.get_mut(session) {
            visitor.name = name;
            self.roster_changed = true;
        }
    }

    /// The channel of a room is joined; `others` more cores are subscribed to it.
    pub fn joined(&mut self, name: &str, others: usize, now: Instant) {
        let Some(room) = self.rooms.get_mut(name) else {
            return;
        };
        if room.joined(others, now) {
            self.send(room_channel(name), Note::AskLines, None);
        }
        self.welcome(name);
    }

    /// The channel of a room cannot be joined: its visitors are in no room.
    pub fn join_failed(&mut self, name: &str, why: &str) {
        let Some(room) = self.rooms.remove(name) else {
            return;
        };
        self.roster_changed = true;
        for session in room.members() {
            if let Some(visitor) = self.visitors.get_mut(session) {
                visitor.room = None;
            }
            self.visitors
                .notice(session, &format!("No way into “{name}”: {why}"));
        }
    }

    /// A note could not be sent.
    pub fn unsent(&mut self, outgoing: &Outgoing, why: &str) {
        match (&outgoing.note, outgoing.from) {
            (Note::Line { said, .. }, Some(session)) => {
                self.visitors.refuse(session, &said.mid, why)
            }
            (Note::Roster(_), _) => self.announce_due = true,
            // Questions and answers: whoever waits for them stops by itself.
            _ => {}
        }
    }

    /// A message has come in.
    pub fn heard(&mut self, channel: &[u8], mark: Postmark, body: &[u8], now: Instant) {
        let Ok(note) = serde_json::from_slice::<Note>(body) else {
            return;
        };
        let room = std::str::from_utf8(channel)
            .ok()
            .and_then(|c| c.strip_prefix("room/"));
        let foreign = mark.seat != self.me.seat;
        match (note, room) {
            (Note::Line { seq, said }, Some(room)) => {
                let place = Place {
                    ticket: mark.ticket,
                    seq,
                };
                self.take_line(
                    room,
                    Line {
                        place,
                        at: mark.at,
                        seat: mark.seat,
                        said,
                    },
                );
            }
            (Note::AskLines, Some(room)) if foreign => self.answer(room, mark.seat),
            (
                Note::Lines {
                    room,
                    settled,
                    lines,
                },
                None,
            ) => self.take_answer(&room, settled, lines),
            (Note::Roster(roster), None) if foreign => {
                self.presence.announce(mark.seat, roster, now);
                self.views_stale = true;
            }
            (Note::AskRosters, None) if foreign => self.announce_due = true,
            _ => {}
        }
    }

    fn take_line(&mut self, name: &str, line: Line) {
        let Some(room) = self.rooms.get_mut(name) else {
            return;
        };
        if room.history.insert(line.clone()) && room.settled() {
            self.tell_room(
                name,
                &Event::Line {
                    room: name,
                    line: &line,
                },
            );
        }
    }

    fn answer(&mut self, name: &str, to: Seat) {
        let Some(room) = self.rooms.get(name) else {
            return;
        };
        let lines = room.history.all().cloned().collect();
        let note = Note::Lines {
            room: name.to_owned(),
            settled: room.settled(),
            lines,
        };
        self.send(inbox(to), note, None);
    }

    fn take_answer(&mut self, name: &str, complete: bool, lines: Vec<Line>) {
        let Some(room) = self.rooms.get_mut(name) else {
            return;
        };
        let was_settled = room.settled();
        let news = room.answer(complete, lines);
        if was_settled {
            // Asked for after a loss, or too late to be waited for.
            for line in &news {
                self.tell_room(name, &Event::Line { room: name, line });
            }
        }
        self.welcome(name);
    }

    /// Messages were lost to this worker: say so, and ask for what can be had again.
    pub fn lagged(&mut self, count: u64) {
        let text = format!("This worker was too slow: {count} messages were lost to it.");
        self.visitors.tell_all(&Event::Notice { text: &text });
        self.send(PRESENCE.into(), Note::AskRosters, None);
        let rooms: Vec<String> = self.rooms.keys().cloned().collect();
        for room in rooms {
            self.send(room_channel(&room), Note::AskLines, None);
        }
    }

    /// Shows the room to those who wait for it, if it is settled.
    fn welcome(&mut self, name: &str) {
        let Some(room) = self.rooms.get_mut(name) else {
            return;
        };
        let people = &self.presence.people(name);
        for session in room.take_waiting() {
            let lines = room.history.all().collect();
            let full = room.history.is_full();
            let (room, people) = (
                Event::Room {
                    room: name,
                    lines,
                    full,
                },
                Event::People { room: name, people },
            );
            self.visitors.tell(session, &room);
            self.visitors.tell(session, &people);
        }
    }

    /// The hub's counters, twice a second.
    pub fn counters(&mut self, counters: Counters) {
        self.visitors.tell_all(&Event::Stats(counters));
    }

    /// Drops whoever is not in `alive` (the seats that hear announcements), and
    /// rooms that have been empty for long.
    pub fn sweep(&mut self, alive: &[Seat], now: Instant) {
        let mine = [self.me.seat];
        let alive: Vec<Seat> = alive.iter().chain(&mine).copied().collect();
        self.views_stale |= self.presence.prune(&alive, now);
        self.views_stale |= self.presence.expire(now);
        let actions = &mut self.actions;
        self.rooms.retain(|name, room| {
            let deserted = room.deserted(now);
            if deserted {
                actions.push(Action::Leave { room: name.clone() });
            }
            !deserted
        });
    }

    /// Ends a turn of the loop: gives up lost pages, brings everybody up to date,
    /// and hands out what is to be done on the core.
    pub fn turn(&mut self, now: Instant) -> Vec<Action> {
        self.tick_rooms(now);
        for session in self.visitors.take_lost() {
            self.depart(session, now);
        }
        if std::mem::take(&mut self.roster_changed) {
            self.presence.announce(self.me.seat, self.roster(), now);
            self.views_stale = true;
            self.announce_due = true;
        }
        if std::mem::take(&mut self.views_stale) {
            self.refresh_views();
        }
        if self.announce_due && self.next_announcement().is_none_or(|at| at <= now) {
            self.announce_due = false;
            self.announced_at = Some(now);
            self.send(PRESENCE.into(), Note::Roster(self.roster()), None);
        }
        std::mem::take(&mut self.actions)
    }

    /// When [`turn`](Self::turn) has something to do even if nothing happens.
    pub fn deadline(&self) -> Option<Instant> {
        let announcement = self.next_announcement().filter(|_| self.announce_due);
        self.rooms
            .values()
            .filter_map(Room::deadline)
            .chain(announcement)
            .min()
    }

    /// Whether another live worker serves fewer pages than this one.
    pub fn crowded(&self) -> bool {
        let others = self
            .presence
            .loads()
            .into_iter()
            .filter(|load| load.seat != self.me.seat);
        others
            .map(|load| load.users)
            .min()
            .is_some_and(|least| self.visitors.len() > least)
    }

    /// Ends all sessions.
    pub fn close(&mut self) {
        self.visitors.tell_all(&Event::Bye);
        self.visitors.clear();
    }

    fn next_announcement(&self) -> Option<Instant> {
        self.announced_at.map(|at| at + ANNOUNCE_PAUSE)
    }

    fn tick_rooms(&mut self, now: Instant) {
        let due = |room: &Room| room.deadline().is_some_and(|at| at <= now);
        let names: Vec<String> = self
            .rooms
            .iter()
            .filter(|(_, room)| due(room))
            .map(|(name, _)| name.clone())
            .collect();
        for name in names {
            if let Some(room) = self.rooms.get_mut(&name) {
                room.tick(now);
            }
            self.welcome(&name);
        }
    }

    fn roster(&self) -> Roster {
        Roster {
            pid: self.me.pid,
            users: self.visitors.users(),
        }
    }

    fn refresh_views(&mut self) {
        let names: Vec<String> = self.rooms.keys().cloned().collect();
        for name in names {
            self.refresh_people(&name);
        }
        let shown = (self.presence.rooms(), self.presence.loads());
        if shown != self.shown {
            self.visitors.tell_all(&Event::Places {
                rooms: &shown.0,
                workers: &shown.1,
            });
            self.shown = shown;
        }
    }

    fn refresh_people(&mut self, name: &str) {
        let people = self.presence.people(name);
        let Some(room) = self
            .rooms
            .get_mut(name)
            .filter(|room| room.people != people)
        else {
            return;
        };
        room.people.clone_from(&people);
        self.tell_room(
            name,
            &Event::People {
                room: name,
                people: &people,
            },
        );
    }

    fn send(&mut self, channel: String, note: Note, from: Option<SessionId>) {
        self.actions.push(Action::Send(Outgoing {
            channel,
            note,
            from,
        }));
    }

    fn tell_room(&mut self, name: &str, event: &Event) {
        if let Some(room) = self.rooms.get(name) {
            self.visitors.tell_each(room.members(), event);
        }
    }
}

#[cfg(test)]
#[path = "hall_tests.rs"]
mod tests;
