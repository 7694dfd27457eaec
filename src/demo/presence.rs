//! Who is where, as far as this worker has been told.
//!
//! Each worker announces its whole roster whenever it changes; here the last
//! roster of each seat is kept. The users of a worker that has died are shown as
//! away until their pages are back on another worker or [`GRACE`] is over.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use super::wire::{Load, Person, RoomCount, Roster, Seat, User};

/// How long a dead worker's users are expected back.
pub const GRACE: Duration = Duration::from_secs(4);

/// The rosters of all workers, and those who are expected back.
#[derive(Debug, Default)]
pub struct Presence {
    rosters: BTreeMap<Seat, Entry>,
    away: Vec<Away>,
    announced: u64,
}

#[derive(Debug)]
struct Entry {
    roster: Roster,
    /// Later announcements have greater numbers.
    order: u64,
}

#[derive(Debug)]
struct Away {
    user: User,
    seat: Seat,
    until: Instant,
}

impl Presence {
    /// Replaces what `seat` announced before. A new process in an old seat takes
    /// the place of one that must have died: its users are away.
    pub fn announce(&mut self, seat: Seat, roster: Roster, now: Instant) {
        if self
            .rosters
            .get(&seat)
            .is_some_and(|old| old.roster.pid != roster.pid)
        {
            self.bury(seat, now);
        }
        self.announced += 1;
        self.rosters.insert(
            seat,
            Entry {
                roster,
                order: self.announced,
            },
        );
        self.forget_returned();
    }

    /// Drops the rosters of seats that are not in `alive`. True: there were some.
    pub fn prune(&mut self, alive: &[Seat], now: Instant) -> bool {
        let dead: Vec<Seat> = self
            .rosters
            .keys()
            .filter(|s| !alive.contains(s))
            .copied()
            .collect();
        for seat in &dead {
            self.bury(*seat, now);
        }
        !dead.is_empty()
    }

    /// Gives up those who have not come back in time. True: there were some.
    pub fn expire(&mut self, now: Instant) -> bool {
        let before = self.away.len();
        self.away.retain(|away| away.until > now);
        self.away.len() != before
    }

    /// Everybody in a room, by name.
    pub fn people(&self, room: &str) -> Vec<Person> {
        let here = self
            .present()
            .into_iter()
            .map(|(seat, user)| person(user, seat, false));
        let away = self.away.iter().map(|a| person(&a.user, a.seat, true));
        let mut people: Vec<Person> = here
            .chain(away)
            .filter(|(r, _)| *r == room)
            .map(|(_, person)| person)
            .collect();
        people.sort_by(|a, b| (&a.name, &a.id).cmp(&(&b.name, &b.id)));
        people
    }

    /// All rooms with somebody in them, by name.
    pub fn rooms(&self) -> Vec<RoomCount> {
        let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
        let here = self.present().into_iter().map(|(_, user)| user);
        for user in here.chain(self.away.iter().map(|a| &a.user)) {
            *counts.entry(&user.room).or_default() += 1;
        }
        counts
            .into_iter()
            .map(|(name, people)| RoomCount {
                name: name.to_owned(),
                people,
            })
            .collect()
    }

    /// All workers that are known to live.
    pub fn loads(&self) -> Vec<Load> {
        let load = |(seat, entry): (&Seat, &Entry)| Load {
            seat: *seat,
            pid: entry.roster.pid,
            users: entry.roster.users.len(),
        };
        self.rosters.iter().map(load).collect()
    }

    /// Everybody once, at the seat that announced them last: a page that moves is
    /// announced by two workers for a moment.
    fn present(&self) -> Vec<(Seat, &User)> {
        let mut latest: BTreeMap<&str, (u64, Seat, &User)> = BTreeMap::new();
        for (seat, entry) in &self.rosters {
            for user in &entry.roster.users {
                let claim = (entry.order, *seat, user);
                let slot = latest.entry(&user.id).or_insert(claim);
                if slot.0 < entry.order {
                    *slot = claim;
                }
            }
        }
        latest
            .into_values()
            .map(|(_, seat, user)| (seat, user))
            .collect()
    }

    fn bury(&mut self, seat: Seat, now: Instant) {
        let Some(entry) = self.rosters.remove(&seat) else {
            return;
        };
        let until = now + GRACE;
        let away = |user| Away { user, seat, until };
        self.away.extend(entry.roster.users.into_iter().map(away));
        self.forget_returned();
    }

    fn forget_returned(&mut self) {
        let here: BTreeSet<&str> = self
            .rosters
            .values()
            .flat_map(|entry| entry.roster.users.iter().map(|user| user.id.as_str()))
            .collect();
        self.away
            .retain(|away| !here.contains(away.user.id.as_str()));
    }
}

fn person(user: &User, seat: Seat, away: bool) -> (&str, Person) {
    let person = Person {
        id: user.id.clone(),
        name: user.name.clone(),
        seat,
        away,
    };
    (&user.room, person)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seat(worker: u32) -> Seat {
        Seat { worker, core: 0 }
    }

    fn roster(pid: u32, users: &[(&str, &str)]) -> Roster {
        let user = |(id, room): &(&str, &str)| User {
            id: id.to_string(),
            name: id.to_uppercase(),
            room: room.to_string(),
        };
        Roster {
            pid,
            users: users.iter().map(user).collect(),
        }
    }

    fn shown(presence: &Presence, room: &str) -> Vec<(String, u32, bool)> {
        presence
            .people(room)
            .into_iter()
            .map(|p| (p.id, p.seat.worker, p.away))
            .collect()
    }

    fn two_workers(now: Instant) -> Presence {
        let mut presence = Presence::default();
        presence.announce(seat(0), roster(100, &[("ann", "x"), ("bob", "y")]), now);
        presence.announce(seat(1), roster(101, &[("cleo", "x")]), now);
        presence
    }

    #[test]
    fn rooms_are_made_of_what_all_workers_announce() {
        let presence = two_workers(Instant::now());
        assert_eq!(
            shown(&presence, "x"),
            [("ann".into(), 0, false), ("cleo".into(), 1, false)]
        );
        let rooms: Vec<_> = presence
            .rooms()
            .into_iter()
            .map(|r| (r.name, r.people))
            .collect();
        assert_eq!(rooms, [("x".into(), 2), ("y".into(), 1)]);
        let loads: Vec<_> = presence.loads().iter().map(|l| (l.pid, l.users)).collect();
        assert_eq!(loads, [(100, 2), (101, 1)]);
    }

    #[test]
    fn users_of_a_dead_worker_are_away_until_they_are_back_or_time_is_up() {
        let now = Instant::now();
        let mut presence = two_workers(now);
        assert!(presence.prune(&[seat(1)], now));
        assert_eq!(
            shown(&presence, "x"),
            [("ann".into(), 0, true), ("cleo".into(), 1, false)]
        );
        presence.announce(seat(1), roster(101, &[("cleo", "x"), ("ann", "x")]), now);
        assert_eq!(
            shown(&presence, "x"),
            [("ann".into(), 1, false), ("cleo".into(), 1, false)]
        );
        assert_eq!(shown(&presence, "y"), [("bob".into(), 0, true)]);
        assert!(!presence.expire(now + GRACE / 2));
        assert!(presence.expire(now + GRACE));
        assert_eq!(shown(&presence, "y"), []);
    }

    #[test]
    fn a_new_process_in_a_seat_means_that_the_old_one_died() {
        let now = Instant::now();
        let mut presence = two_workers(now);
        presence.announce(seat(0), roster(200, &[]), now);
        assert_eq!(
            shown(&presence, "x"),
            [("ann".into(), 0, true), ("cleo".into(), 1, false)]
        );
        assert!(!presence.prune(&[seat(0), seat(1)], now));
    }

    #[test]
    fn who_leaves_a_live_worker_is_gone_at_once() {
        let now = Instant::now();
        let mut presence = two_workers(now);
        presence.announce(seat(0), roster(100, &[]), now);
        assert_eq!(shown(&presence, "x"), [("cleo".into(), 1, false)]);
    }

    #[test]
    fn a_page_announced_by_two_workers_is_shown_once_where_it_went_last() {
        let now = Instant::now();
        let mut presence = two_workers(now);
        presence.announce(seat(1), roster(101, &[("cleo", "x"), ("ann", "x")]), now);
        assert_eq!(
            shown(&presence, "x"),
            [("ann".into(), 1, false), ("cleo".into(), 1, false)]
        );
        assert_eq!(presence.rooms()[0].people, 2);
    }
}
