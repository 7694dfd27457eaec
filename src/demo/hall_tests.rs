//! The hall is driven here as the worker's loop drives it, several of them
//! joined by a [`Wire`] that stands in for the hub.

use std::collections::{BTreeMap, BTreeSet};

use axum::extract::ws::Utf8Bytes;
use serde_json::Value;
use tokio::sync::mpsc;

use super::*;

const T: Duration = Duration::from_millis(1);

/// A page: what its worker has told it.
struct Page {
    session: SessionId,
    frames: mpsc::Receiver<Utf8Bytes>,
}

impl Page {
    /// Frames of one kind that have come since the last call.
    fn take(&mut self, kind: &str) -> Vec<Value> {
        let mut taken = Vec::new();
        while let Ok(frame) = self.frames.try_recv() {
            let value: Value = serde_json::from_str(&frame).unwrap();
            if value["t"] == kind {
                taken.push(value);
            }
        }
        taken
    }

    fn texts(&mut self) -> Vec<String> {
        let lines = self.take("line");
        lines
            .iter()
            .map(|l| l["line"]["text"].as_str().unwrap().to_owned())
            .collect()
    }
}

/// Delivers what halls send, in one order, to those subscribed.
struct Wire {
    halls: BTreeMap<u32, Hall>,
    subscribed: BTreeMap<u32, BTreeSet<String>>,
    ticket: u64,
    now: Instant,
    died: Vec<u32>,
}

impl Wire {
    fn new(workers: u32) -> Self {
        let now = Instant::now();
        let mut wire = Wire {
            halls: BTreeMap::new(),
            subscribed: BTreeMap::new(),
            ticket: 0,
            now,
            died: Vec::new(),
        };
        for worker in 0..workers {
            wire.fork(worker, workers, 100 + worker);
        }
        wire.settle();
        wire
    }

    fn fork(&mut self, worker: u32, workers: u32, pid: u32) {
        let seat = Seat { worker, core: 0 };
        let channels = [PRESENCE.to_owned(), inbox(seat)];
        self.subscribed.insert(worker, channels.into());
        self.halls.insert(
            worker,
            Hall::new(Identity {
                seat,
                pid,
                workers,
                hub: 1,
            }),
        );
    }

    fn kill(&mut self, worker: u32) {
        self.halls.remove(&worker);
        self.subscribed.remove(&worker);
    }

    fn page(&mut self, worker: u32, id: &str) -> Page {
        let (outlet, frames) = mpsc::channel(64);
        let hall = self.halls.get_mut(&worker).unwrap();
        let session = hall.arrive(id.into(), id.to_uppercase(), outlet).unwrap();
        Page { session, frames }
    }

    fn ask(&mut self, worker: u32, page: &Page, request: Request) {
        let now = self.now;
        self.halls
            .get_mut(&worker)
            .unwrap()
            .request(page.session, request, now);
        self.settle();
    }

    fn enter(&mut self, worker: u32, page: &Page, room: &str) {
        self.ask(worker, page, Request::Enter { room: room.into() });
    }

    fn say(&mut self, worker: u32, page: &Page, text: &str) {
        self.ask(
            worker,
            page,
            Request::Say {
                mid: text.into(),
                text: text.into(),
            },
        );
    }

    /// Lets time pass and all workers sweep.
    fn pass(&mut self, time: Duration) {
        self.now += time;
        let alive: Vec<Seat> = self
            .subscribed
            .keys()
            .map(|worker| Seat {
                worker: *worker,
                core: 0,
            })
            .collect();
        for hall in self.halls.values_mut() {
            hall.sweep(&alive, self.now);
        }
        self.settle();
    }

    /// Performs actions until there are none.
    fn settle(&mut self) {
        loop {
            self.now += ANNOUNCE_PAUSE;
            let workers: Vec<u32> = self.halls.keys().copied().collect();
            let mut busy = false;
            for worker in workers {
                let actions = self.halls.get_mut(&worker).unwrap().turn(self.now);
                busy |= !actions.is_empty();
                actions
                    .into_iter()
                    .for_each(|action| self.perform(worker, action));
            }
            if !busy {
                return;
            }
        }
    }

    fn perform(&mut self, worker: u32, action: Action) {
        match action {
            Action::Join { room } => {
                let channel = room_channel(&room);
                let others = self
                    .subscribed
                    .values()
                    .filter(|s| s.contains(&channel))
                    .count();
                self.subscribed.get_mut(&worker).unwrap().insert(channel);
                self.halls
                    .get_mut(&worker)
                    .unwrap()
                    .joined(&room, others, self.now);
            }
            Action::Leave { room } => {
                assert!(
                    self.subscribed
                        .get_mut(&worker)
                        .unwrap()
                        .remove(&room_channel(&room))
                );
            }
            Action::Send(outgoing) => self.deliver(worker, &outgoing),
            Action::Die => self.died.push(worker),
        }
    }

    fn deliver(&mut self, from: u32, outgoing: &Outgoing) {
        self.ticket += 1;
        let body = serde_json::to_vec(&outgoing.note).unwrap();
        let seat = Seat {
            worker: from,
            core: 0,
        };
        let mark = Postmark {
            seat,
            ticket: self.ticket,
            at: 0,
        };
        for (worker, hall) in &mut self.halls {
            if self.subscribed[worker].contains(&outgoing.channel) {
                hall.heard(outgoing.channel.as_bytes(), mark, &body, self.now);
            }
        }
    }
}

fn ids(frame: &Value) -> Vec<(String, bool)> {
    let people = frame["people"].as_array().unwrap();
    let shown = |p: &Value| {
        (
            p["id"].as_str().unwrap().to_owned(),
            p["away"].as_bool().unwrap(),
        )
    };
    people.iter().map(shown).collect()
}

fn here(id: &str) -> (String, bool) {
    (id.to_owned(), false)
}

fn room_lines(page: &mut Page) -> Vec<String> {
    let rooms = page.take("room");
    assert_eq!(rooms.len(), 1, "shown once: {rooms:?}");
    let lines = rooms[0]["lines"].as_array().unwrap();
    lines
        .iter()
        .map(|l| l["text"].as_str().unwrap().to_owned())
        .collect()
}

#[test]
fn pages_of_two_workers_see_each_other_and_the_same_lines() {
    let mut wire = Wire::new(2);
    let (mut ann, mut bob) = (wire.page(0, "ann"), wire.page(1, "bob"));
    wire.enter(0, &ann, "x");
    wire.enter(1, &bob, "x");
    assert_eq!(
        ids(ann.take("people").last().unwrap()),
        [here("ann"), here("bob")]
    );
    assert_eq!(
        ids(bob.take("people").last().unwrap()),
        [here("ann"), here("bob")]
    );
    for (worker, page, text) in [(0, &ann, "one"), (1, &bob, "two"), (0, &ann, "three")] {
        wire.say(worker, page, text);
    }
    assert_eq!(ann.texts(), ["one", "two", "three"]);
    assert_eq!(bob.texts(), ["one", "two", "three"]);
}

#[test]
fn a_worker_that_joins_later_gets_the_rooms_lines_from_another() {
    let mut wire = Wire::new(3);
    let (ann, mut cleo) = (wire.page(0, "ann"), wire.page(2, "cleo"));
    wire.enter(0, &ann, "x");
    wire.say(0, &ann, "one");
    wire.say(0, &ann, "two");
    wire.enter(2, &cleo, "x");
    assert_eq!(room_lines(&mut cleo), ["one", "two"]);
}

#[test]
fn a_page_that_comes_back_elsewhere_is_shown_what_it_missed() {
    let mut wire = Wire::new(3);
    let (mut ann, mut bob) = (wire.page(0, "ann"), wire.page(1, "bob"));
    wire.enter(0, &ann, "x");
    wire.enter(1, &bob, "x");
    wire.say(1, &bob, "before");
    assert_eq!(ann.texts(), ["before"]);
    wire.kill(0);
    wire.say(1, &bob, "meanwhile");
    let mut ann = wire.page(2, "ann");
    wire.enter(2, &ann, "x");
    assert_eq!(room_lines(&mut ann), ["before", "meanwhile"]);
    wire.say(2, &ann, "back");
    assert_eq!(ann.texts(), ["back"]);
    assert_eq!(bob.texts(), ["before", "meanwhile", "back"]);
}

#[test]
fn a_line_sent_again_after_a_reconnect_is_shown_once() {
    let mut wire = Wire::new(2);
    let (ann, mut bob) = (wire.page(0, "ann"), wire.page(1, "bob"));
    wire.enter(0, &ann, "x");
    wire.enter(1, &bob, "x");
    wire.say(0, &ann, "hello");
    wire.kill(0);
    let mut ann = wire.page(1, "ann");
    wire.enter(1, &ann, "x");
    wire.say(1, &ann, "hello");
    assert_eq!(bob.texts(), ["hello"]);
    assert_eq!(room_lines(&mut ann), ["hello"]);
}

#[test]
fn a_killed_workers_visitors_are_away_then_back_or_gone() {
    let mut wire = Wire::new(2);
    let (ann, mut bob) = (wire.page(0, "ann"), wire.page(1, "bob"));
    let cleo = wire.page(0, "cleo");
    wire.enter(0, &ann, "x");
    wire.enter(0, &cleo, "x");
    wire.enter(1, &bob, "x");
    wire.kill(0);
    wire.pass(T);
    let away = |id: &str| (id.to_owned(), true);
    assert_eq!(
        ids(bob.take("people").last().unwrap()),
        [away("ann"), here("bob"), away("cleo")]
    );
    wire.fork(0, 2, 200);
    wire.settle();
    let ann = wire.page(0, "ann");
    wire.enter(0, &ann, "x");
    assert_eq!(
        ids(bob.take("people").last().unwrap()),
        [here("ann"), here("bob"), away("cleo")]
    );
    wire.pass(super::super::presence::GRACE);
    assert_eq!(
        ids(bob.take("people").last().unwrap()),
        [here("ann"), here("bob")]
    );
}

#[test]
fn a_new_worker_learns_who_is_where() {
    let mut wire = Wire::new(2);
    let ann = wire.page(0, "ann");
    wire.enter(0, &ann, "x");
    wire.kill(1);
    wire.fork(1, 2, 201);
    wire.settle();
    let mut bob = wire.page(1, "bob");
    let places = bob.take("places");
    assert_eq!(places[0]["rooms"][0]["name"], "x");
    assert_eq!(places[0]["workers"].as_array().unwrap().len(), 2);
}

#[test]
fn switching_rooms_moves_a_visitor_and_an_empty_room_is_left_after_a_while() {
    let mut wire = Wire::new(1);
    let mut ann = wire.page(0, "ann");
    wire.enter(0, &ann, "x");
    wire.enter(0, &ann, "y");
    let places = ann.take("places");
    let rooms = places.last().unwrap()["rooms"].as_array().unwrap();
    assert_eq!(rooms.len(), 1);
    assert_eq!(rooms[0]["name"], "y");
    assert!(wire.subscribed[&0].contains("room/x"));
    wire.pass(Duration::from_secs(60));
    assert!(!wire.subscribed[&0].contains("room/x"));
    assert!(wire.subscribed[&0].contains("room/y"));
}

#[test]
fn a_loss_is_told_to_everybody_and_what_others_have_is_asked_for() {
    let mut wire = Wire::new(2);
    let (mut ann, bob) = (wire.page(0, "ann"), wire.page(1, "bob"));
    wire.enter(0, &ann, "x");
    wire.enter(1, &bob, "x");
    wire.subscribed.get_mut(&0).unwrap().remove("room/x");
    wire.say(1, &bob, "unheard");
    wire.subscribed.get_mut(&0).unwrap().insert("room/x".into());
    assert!(ann.texts().is_empty());
    wire.halls.get_mut(&0).unwrap().lagged(3);
    wire.settle();
    let frames: Vec<Value> = std::iter::from_fn(|| ann.frames.try_recv().ok())
        .map(|f| serde_json::from_str(&f).unwrap())
        .collect();
    let of = |kind: &str| frames.iter().find(|f| f["t"] == kind).unwrap().clone();
    assert!(of("notice")["text"].as_str().unwrap().contains('3'));
    assert_eq!(of("line")["line"]["text"], "unheard");
}

#[test]
fn a_page_that_does_not_keep_up_is_let_go_and_the_others_stay() {
    let mut wire = Wire::new(1);
    let (slow, mut ann) = (wire.page(0, "slow"), wire.page(0, "ann"));
    wire.enter(0, &slow, "x");
    wire.enter(0, &ann, "x");
    for n in 0..100 {
        wire.say(0, &ann, &n.to_string());
        ann.take("line");
    }
    wire.say(0, &ann, "last");
    assert_eq!(ann.texts(), ["last"]);
    assert_eq!(wire.halls[&0].visitors.len(), 1);
    drop(slow);
}

#[test]
fn what_cannot_be_done_is_refused_and_changes_nothing() {
    let mut wire = Wire::new(1);
    let mut ann = wire.page(0, "ann");
    wire.say(0, &ann, "nowhere");
    assert_eq!(ann.take("refused")[0]["mid"], "nowhere");
    wire.enter(0, &ann, " \n ");
    assert_eq!(ann.take("notice").len(), 1);
    wire.enter(0, &ann, "x");
    wire.ask(
        0,
        &ann,
        Request::Say {
            mid: "m".into(),
            text: "  ".into(),
        },
    );
    wire.ask(0, &ann, Request::Name { name: "\t".into() });
    let frames = ann.take("line").len();
    assert_eq!(frames, 0);
    assert_eq!(wire.halls[&0].presence.people("x")[0].name, "ANN");
}

#[test]
fn an_unsent_line_goes_back_to_its_page_and_an_unsent_roster_is_sent_again() {
    let mut wire = Wire::new(1);
    let mut ann = wire.page(0, "ann");
    wire.enter(0, &ann, "x");
    let hall = wire.halls.get_mut(&0).unwrap();
    let say = Request::Say {
        mid: "m".into(),
        text: "hi".into(),
    };
    hall.request(ann.session, say, wire.now);
    hall.announce_due = true;
    let actions = hall.turn(wire.now + ANNOUNCE_PAUSE);
    assert_eq!(actions.len(), 2, "{actions:?}");
    for action in actions {
        let Action::Send(outgoing) = action else {
            panic!("{action:?}")
        };
        hall.unsent(&outgoing, "full");
    }
    assert_eq!(ann.take("refused")[0]["mid"], "m");
    let retry = hall.turn(wire.now + ANNOUNCE_PAUSE * 2);
    assert!(matches!(&retry[..], [Action::Send(o)] if matches!(o.note, Note::Roster(_))));
}

#[test]
fn a_room_that_cannot_be_joined_leaves_its_visitors_outside() {
    let mut wire = Wire::new(1);
    let mut ann = wire.page(0, "ann");
    let hall = wire.halls.get_mut(&0).unwrap();
    hall.request(ann.session, Request::Enter { room: "x".into() }, wire.now);
    hall.join_failed("x", "too many channels");
    assert!(
        ann.take("notice")[0]["text"]
            .as_str()
            .unwrap()
            .contains("too many channels")
    );
    wire.settle();
    assert!(wire.halls[&0].presence.rooms().is_empty());
}

#[test]
fn a_worker_is_crowded_while_another_live_one_serves_fewer() {
    let mut wire = Wire::new(2);
    let ann = wire.page(0, "ann");
    wire.enter(0, &ann, "x");
    assert!(wire.halls[&0].crowded());
    assert!(!wire.halls[&1].crowded());
    wire.kill(1);
    wire.pass(T);
    assert!(!wire.halls[&0].crowded(), "nobody else could take it");
}

#[test]
fn the_kill_button_kills_the_worker_that_serves_the_page() {
    let mut wire = Wire::new(2);
    let ann = wire.page(1, "ann");
    wire.ask(1, &ann, Request::Kill);
    assert_eq!(wire.died, [1]);
}

#[test]
fn a_body_that_is_no_note_is_ignored() {
    let mut wire = Wire::new(1);
    let mark = Postmark {
        seat: Seat { worker: 9, core: 0 },
        ticket: 1,
        at: 0,
    };
    let hall = wire.halls.get_mut(&0).unwrap();
    for body in [&b""[..], b"{", b"\xff\xfe", b"{\"k\":\"roster\"}", b"[]"] {
        hall.heard(PRESENCE.as_bytes(), mark, body, wire.now);
    }
    hall.heard(b"\xff", mark, b"{\"k\":\"ask_lines\"}", wire.now);
    wire.settle();
    assert_eq!(wire.halls[&0].presence.loads().len(), 1);
}
