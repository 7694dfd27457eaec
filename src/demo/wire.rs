//! What is said: between workers (bodies of messages on channels) and between a
//! worker and its pages (text frames of a WebSocket). All of it is JSON.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Channel on which workers announce who is where; each of them joins it.
pub const PRESENCE: &str = "demo/presence";

/// Channel of a room: joined by the workers that have somebody in it.
pub fn room_channel(room: &str) -> String {
    format!("room/{room}")
}

/// Channel on which one worker is answered.
pub fn inbox(seat: Seat) -> String {
    format!("inbox/{}.{}", seat.worker, seat.core)
}

/// Where somebody is served: a worker's slot and the core in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Seat {
    pub worker: u32,
    pub core: u32,
}

impl From<corecast::Sender> for Seat {
    fn from(sender: corecast::Sender) -> Self {
        Seat {
            worker: sender.worker,
            core: sender.core,
        }
    }
}

/// The place of a line in a room, the same for everybody.
///
/// Tickets order messages of different cores; equal tickets are of one core,
/// whose own count `seq` orders them. Of two lines, the one whose send began when
/// the other's had returned has the greater place. Where both sends overlapped,
/// the greater one may be *delivered* first (its sender was quicker to publish),
/// so "everything up to this place" says nothing about what a page has seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place {
    pub ticket: u64,
    pub seq: u64,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.ticket, self.seq)
    }
}

impl FromStr for Place {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bad = || format!("{text:?} is no place: TICKET.SEQ expected");
        let (ticket, seq) = text.split_once('.').ok_or_else(bad)?;
        let number = |part: &str| part.parse().map_err(|_| bad());
        Ok(Place {
            ticket: number(ticket)?,
            seq: number(seq)?,
        })
    }
}

// A string on the wire: a JavaScript number holds 53 bits, a ticket has 64.
impl Serialize for Place {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Place {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// A line of a room with all that is known of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Line {
    pub place: Place,
    /// Milliseconds since 1970, from the hub's timestamp.
    pub at: u64,
    /// Who served the one who said it.
    pub seat: Seat,
    #[serde(flatten)]
    pub said: Said,
}

/// What somebody said, as the page sent it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Said {
    /// Chosen by the page: it tells its own line, and one that was sent twice.
    pub mid: String,
    pub user: String,
    pub name: String,
    pub text: String,
}

/// Somebody in a room.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct User {
    pub id: String,
    pub name: String,
    pub room: String,
}

/// All whom one worker serves. It replaces what that worker announced before.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Roster {
    pub pid: u32,
    pub users: Vec<User>,
}

/// From worker to worker.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "k", rename_all = "snake_case")]
pub enum Note {
    /// On a room's channel.
    Line {
        seq: u64,
        #[serde(flatten)]
        said: Said,
    },
    /// On a room's channel: the sender has just joined it and wants its last lines.
    AskLines,
    /// On an inbox: the answer.
    Lines {
        room: String,
        /// Whether the answerer has itself heard from the others.
        settled: bool,
        lines: Vec<Line>,
    },
    /// On [`PRESENCE`].
    Roster(Roster),
    /// On [`PRESENCE`]: everybody is to announce their roster.
    AskRosters,
}

/// From a page to its worker.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(tag = "t", rename_all = "snake_case")]
pub enum Request {
    /// Go to a room, or back to it on a new connection.
    Enter { room: String },
    /// Say something in the room.
    Say { mid: String, text: String },
    /// Take another name.
    Name { name: String },
    /// Kill the worker process that serves this page.
    Kill,
}

/// From a worker to a page.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "t", rename_all = "snake_case")]
pub enum Event<'a> {
    /// First of all: who serves the page.
    Hello {
        seat: Seat,
        pid: u32,
        workers: u32,
        /// Differs from that of any server before: places do not compare.
        hub: u64,
        name: &'a str,
    },
    /// The page is in the room now. These are its last lines, whether the page has
    /// them or not; `full`: there were lines before them.
    Room {
        room: &'a str,
        lines: Vec<&'a Line>,
        full: bool,
    },
    /// Somebody said something.
    Line { room: &'a str, line: &'a Line },
    /// Who is in the page's room.
    People { room: &'a str, people: &'a [Person] },
    /// All rooms, and all workers.
    Places {
        rooms: &'a [RoomCount],
        workers: &'a [Load],
    },
    /// The hub's counters.
    Stats(Counters),
    /// Something the visitor should know.
    Notice { text: &'a str },
    /// A line was not taken; it may be sent again.
    Refused { mid: &'a str, text: &'a str },
    /// The server stops.
    Bye,
}

/// A user as shown in a room.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Person {
    pub id: String,
    pub name: String,
    pub seat: Seat,
    /// The worker died and the page has not come back yet.
    pub away: bool,
}

/// A room and how many are in it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RoomCount {
    pub name: String,
    pub people: usize,
}

/// A worker and how many it serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Load {
    pub seat: Seat,
    pub pid: u32,
    pub users: usize,
}

/// The hub's counters as shown on the page.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Counters {
    pub messages: u64,
    pub deliveries: u64,
    pub wakes: u64,
    pub lost: u64,
    pub cores: u64,
    pub reaped: u64,
    pub channels: u64,
    pub subscriptions: u64,
}

impl From<&corecast::Stats> for Counters {
    fn from(stats: &corecast::Stats) -> Self {
        Counters {
            messages: stats.messages,
            deliveries: stats.deliveries,
            wakes: stats.wakes,
            lost: stats.lost,
            cores: stats.cores,
            reaped: stats.reaped,
            channels: stats.channels,
            subscriptions: stats.subscriptions,
        }
    }
}

/// Longest line, in characters.
pub const TEXT_CHARS: usize = 1000;
/// Longest name of a user, in characters.
pub const NAME_CHARS: usize = 24;
/// Longest name of a room, in characters; with its prefix it fits a channel's name.
pub const ROOM_CHARS: usize = 40;
/// Longest id that a page may choose, in bytes.
pub const ID_BYTES: usize = 40;

/// Text on one line, without control characters, cut at `chars`; `None` when
/// nothing is left.
pub fn clean(text: &str, chars: usize) -> Option<String> {
    let flat: String = text
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect();
    let cut: String = flat.trim().chars().take(chars).collect();
    let cut = cut.trim_end();
    (!cut.is_empty()).then(|| cut.to_owned())
}

/// An id as pages make them: short, letters, digits and dashes.
pub fn clean_id(id: &str) -> Option<String> {
    let good = !id.is_empty()
        && id.len() <= ID_BYTES
        && id.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
    good.then(|| id.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_sort_by_ticket_then_by_count_and_survive_the_wire() {
        let place = |ticket, seq| Place { ticket, seq };
        assert!(place(9, 7) < place(10, 1) && place(10, 1) < place(10, 2));
        let last = place(u64::MAX, u64::MAX);
        let text = serde_json::to_string(&last).unwrap();
        assert_eq!(serde_json::from_str::<Place>(&text).unwrap(), last);
        assert!("12".parse::<Place>().is_err() && "a.b".parse::<Place>().is_err());
    }

    #[test]
    fn text_is_one_trimmed_line_of_limited_length() {
        assert_eq!(clean("  a\nb\u{7}c ", 10).as_deref(), Some("a b c"));
        assert_eq!(clean("äöüß", 3).as_deref(), Some("äöü"));
        assert_eq!(clean(" \r\n\t ", 10), None);
    }

    #[test]
    fn a_room_of_the_longest_name_fits_a_channels_name() {
        let longest: String = std::iter::repeat_n('😀', ROOM_CHARS).collect();
        assert!(room_channel(&longest).len() <= 255);
    }

    #[test]
    fn ids_of_other_than_letters_digits_and_dashes_are_refused() {
        assert_eq!(clean_id("a-9Z").as_deref(), Some("a-9Z"));
        for bad in ["", "a b", "<i>", "é", &"x".repeat(ID_BYTES + 1)] {
            assert_eq!(clean_id(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn notes_survive_the_wire() {
        let said = Said {
            mid: "m1".into(),
            user: "u1".into(),
            name: "Ann".into(),
            text: "\"<b>\"".into(),
        };
        let line = Line {
            place: Place { ticket: 5, seq: 1 },
            at: 3,
            seat: Seat { worker: 1, core: 0 },
            said: said.clone(),
        };
        let lines = Note::Lines {
            room: "x".into(),
            settled: true,
            lines: vec![line],
        };
        for note in [
            Note::Line { seq: 1, said },
            Note::AskLines,
            lines,
            Note::Roster(Roster::default()),
        ] {
            let body = serde_json::to_vec(&note).unwrap();
            assert_eq!(serde_json::from_slice::<Note>(&body).unwrap(), note);
        }
    }
}
