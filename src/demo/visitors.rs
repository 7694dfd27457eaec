//! The pages that one worker serves, and the frames on their way to them.

use std::collections::HashMap;

use axum::extract::ws::Utf8Bytes;
use tokio::sync::mpsc;

use super::wire::{Event, User};

/// Names a visitor's connection within its worker.
pub type SessionId = u64;

/// Frames on their way to a page.
pub type Outlet = mpsc::Sender<Utf8Bytes>;

/// Visitors that one worker serves at once.
const MOST: usize = 512;

/// All pages of a worker.
#[derive(Default)]
pub struct Visitors {
    sessions: HashMap<SessionId, Visitor>,
    made: u64,
    lost: Vec<SessionId>,
}

/// Somebody at a page.
pub struct Visitor {
    pub id: String,
    pub name: String,
    pub room: Option<String>,
    outlet: Outlet,
}

impl Visitors {
    /// Takes a page in; `None` when there are as many as one worker serves.
    pub fn add(&mut self, id: String, name: String, outlet: Outlet) -> Option<SessionId> {
        if self.sessions.len() >= MOST {
            return None;
        }
        self.made += 1;
        let visitor = Visitor {
            id,
            name,
            room: None,
            outlet,
        };
        self.sessions.insert(self.made, visitor);
        Some(self.made)
    }

    /// Forgets a page, which ends its connection. False: it was forgotten before.
    pub fn remove(&mut self, session: SessionId) -> bool {
        self.sessions.remove(&session).is_some()
    }

    /// Forgets all.
    pub fn clear(&mut self) {
        self.sessions.clear();
    }

    pub fn get(&self, session: SessionId) -> Option<&Visitor> {
        self.sessions.get(&session)
    }

    pub fn get_mut(&mut self, session: SessionId) -> Option<&mut Visitor> {
        self.sessions.get_mut(&session)
    }

    pub fn len(&self) -> usize {
        self.sessions.len()
    }

    /// Those who are in a room, as they are announced.
    pub fn users(&self) -> Vec<User> {
        let user = |visitor: &Visitor| {
            let room = visitor.room.clone()?;
            let (id, name) = (visitor.id.clone(), visitor.name.clone());
            Some(User { id, name, room })
        };
        self.sessions.values().filter_map(user).collect()
    }

    /// Pages that did not keep up, or whose connection has ended. They come back
    /// and ask for what they missed; waiting for them would hold up all others.
    pub fn take_lost(&mut self) -> Vec<SessionId> {
        std::mem::take(&mut self.lost)
    }

    /// Tells one page.
    pub fn tell(&mut self, session: SessionId, event: &Event) {
        self.hand_over(session, frame(event));
    }

    /// Tells some pages.
    pub fn tell_each(&mut self, sessions: impl IntoIterator<Item = SessionId>, event: &Event) {
        let mut sessions = sessions.into_iter().peekable();
        if sessions.peek().is_none() {
            return;
        }
        let frame = frame(event);
        for session in sessions {
            self.hand_over(session, frame.clone());
        }
    }

    /// Tells all pages.
    pub fn tell_all(&mut self, event: &Event) {
        let sessions: Vec<SessionId> = self.sessions.keys().copied().collect();
        self.tell_each(sessions, event);
    }

    /// Tells one page something for the eyes of its visitor.
    pub fn notice(&mut self, session: SessionId, text: &str) {
        self.tell(session, &Event::Notice { text });
    }

    /// Tells one page that a line of it was not taken.
    pub fn refuse(&mut self, session: SessionId, mid: &str, text: &str) {
        self.tell(session, &Event::Refused { mid, text });
    }

    fn hand_over(&mut self, session: SessionId, frame: Utf8Bytes) {
        let Some(visitor) = self.sessions.get(&session) else {
            return;
        };
        if visitor.outlet.try_send(frame).is_err() {
            self.lost.push(session);
        }
    }
}

fn frame(event: &Event) -> Utf8Bytes {
    serde_json::to_string(event)
        .expect("strings and numbers become JSON")
        .into()
}
