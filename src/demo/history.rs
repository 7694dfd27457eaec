//! The last lines of one room, in the order that is the same for everybody.

use std::collections::VecDeque;

use super::wire::{Line, Place};

/// Lines kept for each room.
pub const KEPT: usize = 50;

/// The last lines of a room, sorted by place, none twice.
#[derive(Debug, Default)]
pub struct History {
    lines: VecDeque<Line>,
}

impl History {
    /// Takes a line in at its place. False: it is known already (by place, or
    /// because its page sent it twice), or older than all that is kept.
    pub fn insert(&mut self, line: Line) -> bool {
        if self
            .lines
            .iter()
            .any(|l| l.said.mid == line.said.mid && l.said.user == line.said.user)
        {
            return false;
        }
        let Err(at) = self.lines.binary_search_by_key(&line.place, |l| l.place) else {
            return false;
        };
        if at == 0 && self.lines.len() == KEPT {
            return false;
        }
        self.lines.insert(at, line);
        if self.lines.len() > KEPT {
            self.lines.pop_front();
        }
        true
    }

    /// All lines, oldest first.
    pub fn all(&self) -> impl Iterator<Item = &Line> {
        self.lines.iter()
    }

    /// What a page lacks that has seen everything up to `since`, and whether it
    /// may lack more than is kept here.
    pub fn after(&self, since: Option<Place>) -> (Vec<&Line>, bool) {
        let Some(since) = since else {
            return (self.lines.iter().collect(), false);
        };
        let newer: Vec<&Line> = self.lines.iter().filter(|l| l.place > since).collect();
        // If nothing kept is as old as what the page saw last, and older lines
        // have been let go, some of those may be news to it.
        let gap = newer.len() == KEPT;
        (newer, gap)
    }
}

#[cfg(test)]
mod tests {
    use super::super::wire::{Said, Seat};
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
    fn only_the_last_lines_are_kept_and_an_old_one_does_not_come_back() {
        let mut history = History::default();
        for ticket in 1..=KEPT as u64 + 5 {
            history.insert(line(ticket, &ticket.to_string()));
        }
        assert_eq!(history.all().count(), KEPT);
        assert!(!history.insert(line(2, "2")));
        assert_eq!(tickets(&history)[0], 6);
    }

    #[test]
    fn a_page_gets_what_it_has_not_seen_and_is_told_of_a_gap() {
        let mut history = History::default();
        for ticket in 1..=10 {
            history.insert(line(ticket, &ticket.to_string()));
        }
        let since = |ticket| Some(Place { ticket, seq: 1 });
        assert_eq!(history.after(None).0.len(), 10);
        let (lines, gap) = history.after(since(8));
        assert_eq!((lines.len(), gap), (2, false));
        for ticket in 11..=100 {
            history.insert(line(ticket, &ticket.to_string()));
        }
        assert!(history.after(since(8)).1);
        assert!(!history.after(since(60)).1);
    }
}
