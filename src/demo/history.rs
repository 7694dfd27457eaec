//! The last lines of one room, in the order that is the same for everybody.

use std::collections::VecDeque;

use super::wire::Line;

/// Lines kept for each room.
pub const KEPT: usize = 50;

/// The last lines of a room, sorted by place, none twice.
#[derive(Debug, Default)]
pub struct History {
    lines: VecDeque<Line>,
}

impl History {
    /// Takes a line in at its place. False: it is known already, by place or
    /// because its page sent it twice. A line older than all that is kept is news
    /// that is not kept: its sender was held up between its ticket and its send.
    pub fn insert(&mut self, line: Line) -> bool {
        let said = |l: &Line| l.said.mid == line.said.mid && l.said.user == line.said.user;
        if self.lines.iter().any(said) {
            return false;
        }
        let Err(at) = self.lines.binary_search_by_key(&line.place, |l| l.place) else {
            return false;
        };
        if at > 0 || !self.is_full() {
            self.lines.insert(at, line);
        }
        if self.lines.len() > KEPT {
            self.lines.pop_front();
        }
        true
    }

    /// Whether there are as many lines as are kept: older ones may be gone.
    pub fn is_full(&self) -> bool {
        self.lines.len() >= KEPT
    }

    /// All lines, oldest first.
    pub fn all(&self) -> impl Iterator<Item = &Line> {
        self.lines.iter()
    }
}

#[cfg(test)]
mod tests {
    use super::super::wire::{Place, Said, Seat};
    use super::*;

    fn line(ticket: u64, mid: &str) -> Line {
        let said = Said {
            mid: mid.into(),
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

    fn tickets(history: &History) -> Vec<u64> {
        history.all().map(|l| l.place.ticket).collect()
    }

    #[test]
    fn lines_stand_in_order_however_they_come() {
        let mut history = History::default();
        for ticket in [3, 1, 4, 2] {
            assert!(history.insert(line(ticket, &ticket.to_string())));
        }
        assert_eq!(tickets(&history), [1, 2, 3, 4]);
    }

    #[test]
    fn a_line_that_comes_twice_or_was_sent_twice_is_taken_once() {
        let mut history = History::default();
        assert!(history.insert(line(1, "a")));
        assert!(!history.insert(line(1, "a")), "same place");
        assert!(!history.insert(line(2, "a")), "same line sent again");
        assert_eq!(tickets(&history), [1]);
    }

    #[test]
    fn only_the_last_lines_are_kept_and_an_old_one_is_news_that_is_not_kept() {
        let mut history = History::default();
        for ticket in 1..=KEPT as u64 + 5 {
            assert_eq!(history.is_full(), ticket > KEPT as u64);
            history.insert(line(ticket, &ticket.to_string()));
        }
        assert!(history.insert(line(2, "2")));
        assert_eq!(history.all().count(), KEPT);
        assert_eq!(tickets(&history)[0], 6);
    }
}
