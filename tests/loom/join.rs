//! Joining: the order of the answer and the sends that begin after it.

use std::sync::Arc;
use std::sync::atomic::AtomicU64 as Count;

use loom::sync::atomic::AtomicBool;
use loom::thread;

use super::hub::{Collect, Hub, Router, Sender, check};
use super::stops::{at_every_step, count, stopped_at};
use super::{AS_IT_IS, Plain, RACE, Weaker, fails, holds};
use crate::answer::Answer;
use crate::sync::Ordering;

/// The number of the record that asks to join.
const JOIN: u32 = 1;
/// The number of a message to the channel.
const MESSAGE: u32 = 2;
/// What the answer holds.
const CHANNEL: u64 = 5;

/// The region as far as joining needs it.
struct Region {
    hub: Hub,
    answer: Answer,
    /// The channel's name in the directory.
    name: Plain<u64>,
}

/// When the router answers.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Answers {
    /// When the join has taken effect.
    Real,
    /// When it sees the join: it takes effect at the end of the next pass.
    Early,
}

/// The router's side of joining.
struct Joins {
    answers: Answers,
    /// The joiner's subscription bit.
    bit: bool,
    late: bool,
    /// Records looked at.
    looked_at: usize,
    /// Messages that went to the joiner.
    heard: Vec<u32>,
}

impl Joins {
    fn pass(&mut self, region: &Region, router: &mut Router) {
        let late = std::mem::take(&mut self.late);
        router.pass(&region.hub);
        let new = self.looked_at..router.delivered.len();
        self.looked_at = new.end;
        for &record in &router.delivered[new] {
            match record {
                JOIN => self.join(region),
                message if self.bit => self.heard.push(message),
                _ => {}
            }
        }
        self.bit |= late;
    }

    fn join(&mut self, region: &Region) {
        region.name.set(CHANNEL);
        match self.answers {
            Answers::Real => self.bit = true,
            Answers::Early => self.late = true,
        }
        region.answer.put(1, CHANNEL);
    }
}

/// **Claim: a message whose sending began after the joiner had its answer goes to the joiner; with
/// the answer the joiner sees the directory as the router left it.**
///
/// The joiner asks to join, and looks for the answer once. The sender sends if the joiner has
/// said that it has joined. The router makes two passes meanwhile.
fn join_then_send(answers: Answers) -> impl Fn() + Send + Sync {
    move || {
        let region = Arc::new(Region {
            hub: Hub::new([true; 2]),
            answer: Answer::new(),
            name: Plain::default(),
        });
        let joined = Arc::new(AtomicBool::new(false));
        let joiner = thread::spawn({
            let (region, joined) = (region.clone(), joined.clone());
            move || {
                Sender::new(0, true).send(&region.hub, JOIN);
                if region.answer.result(1) == Some(CHANNEL) {
                    assert_eq!(region.name.get(), CHANNEL);
                    joined.store(true, Ordering::Release);
                }
            }
        });
        let sender = thread::spawn({
            let region = region.clone();
            move || {
                let after = joined.load(Ordering::Acquire);
                if after {
                    Sender::new(1, true).send(&region.hub, MESSAGE);
                }
                after
            }
        });
        let mut router = Router::new(Collect::Real, [true; 2]);
        let mut joins = Joins {
            answers,
            bit: false,
            late: false,
            looked_at: 0,
            heard: Vec::new(),
        };
        (0..2).for_each(|_| joins.pass(&region, &mut router));
        joiner.join().expect("no panic");
        let after = sender.join().expect("no panic");
        (0..2).for_each(|_| joins.pass(&region, &mut router));
        let sent: &[u32] = if after { &[JOIN, MESSAGE] } else { &[JOIN] };
        check(&router.delivered, sent, &[(JOIN, MESSAGE)]);
        assert_eq!(joins.heard, sent[1..], "the joiner missed a message");
    }
}

#[test]
fn a_message_sent_after_the_answer_is_heard() {
    holds("join", AS_IT_IS, join_then_send(Answers::Real));
}

#[test]
fn an_answer_before_the_join_takes_effect_misses_messages() {
    let model = join_then_send(Answers::Early);
    fails("early answer", AS_IT_IS, "missed a message", model);
}

#[test]
fn an_answer_without_release_shows_an_unfinished_directory() {
    let weaker: Weaker = &[("answer.put", Ordering::Relaxed)];
    fails(
        "answer: relaxed",
        weaker,
        RACE,
        join_then_send(Answers::Real),
    );
}

#[test]
fn an_answer_without_acquire_shows_an_unfinished_directory() {
    let weaker: Weaker = &[("answer.get", Ordering::Relaxed)];
    fails(
        "asker: relaxed",
        weaker,
        RACE,
        join_then_send(Answers::Real),
    );
}

/// **Claim: whoever else sends is heard, wherever the joiner has stopped; if the router has its
/// request, it has joined.**
fn stopping_joiner(step: usize, stops: Arc<Count>) -> impl Fn() + Send + Sync {
    move || {
        let region = Arc::new(Region {
            hub: Hub::new([true; 2]),
            answer: Answer::new(),
            name: Plain::default(),
        });
        let joiner = thread::spawn({
            let (region, stops) = (region.clone(), stops.clone());
            move || {
                let mut asked = false;
                let ended = stopped_at(step, || {
                    Sender::new(0, true).send(&region.hub, JOIN);
                    asked = true;
                    if region.answer.result(1) == Some(CHANNEL) {
                        assert_eq!(region.name.get(), CHANNEL);
                    }
                });
                count(&stops, ended);
                asked
            }
        });
        Sender::new(1, true).send(&region.hub, MESSAGE);
        let mut router = Router::new(Collect::Real, [true; 2]);
        let mut joins = Joins {
            answers: Answers::Real,
            bit: false,
            late: false,
            looked_at: 0,
            heard: Vec::new(),
        };
        joins.pass(&region, &mut router);
        let asked = joiner.join().expect("no panic");
        (0..2).for_each(|_| joins.pass(&region, &mut router));
        let came = |n| router.delivered.iter().filter(|&&d| d == n).count();
        assert_eq!(came(MESSAGE), 1, "held up or doubled");
        assert!(came(JOIN) >= usize::from(asked), "the request is lost");
        assert_eq!(came(JOIN) == 1, joins.bit, "half joined");
        assert_eq!(region.answer.result(1).is_some(), joins.bit);
    }
}

#[test]
fn a_joiner_stopped_at_any_step_holds_nobody_up() {
    at_every_step("a joiner stops", stopping_joiner);
}

/// **Claim: wherever the router has stopped in a join, a successor that does it again joins the
/// joiner once, with one answer, and hears what was sent after it.**
fn stopping_join(step: usize, stops: Arc<Count>) -> impl Fn() + Send + Sync {
    move || {
        let region = Arc::new(Region {
            hub: Hub::new([true; 2]),
            answer: Answer::new(),
            name: Plain::default(),
        });
        let joiner = thread::spawn({
            let region = region.clone();
            move || {
                let mut sender = Sender::new(0, true);
                sender.send(&region.hub, JOIN);
                let answer = region.answer.result(1);
                sender.send(&region.hub, MESSAGE);
                answer
            }
        });
        let new = || Joins {
            answers: Answers::Real,
            bit: false,
            late: false,
            looked_at: 0,
            heard: Vec::new(),
        };
        let ended = stopped_at(step, || {
            let mut router = Router::new(Collect::Real, [true; 2]);
            new().pass(&region, &mut router);
        });
        count(&stops, ended);
        let answer = joiner.join().expect("no panic");
        let (mut router, mut joins) = (Router::new(Collect::Real, [true; 2]), new());
        (0..2).for_each(|_| joins.pass(&region, &mut router));
        check(&router.delivered, &[JOIN, MESSAGE], &[(JOIN, MESSAGE)]);
        assert_eq!(joins.heard, [MESSAGE]);
        assert!(matches!(answer, None | Some(CHANNEL)));
        assert_eq!(region.answer.result(1), Some(CHANNEL));
    }
}

#[test]
fn a_router_stopped_at_any_step_of_a_join_leaves_it_to_its_successor() {
    at_every_step("the router stops in a join", stopping_join);
}
