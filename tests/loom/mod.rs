//! The loom models: every execution of small programs over the real protocol words.
//!
//! What the words need around them (rings, buffers, the router's loop) is written down here once
//! more, as small as it gets; the words themselves (`Tickets`, `LaneWord`, `Doorbell`,
//! `ControlWord`, `Answer`) are those that ship. Each claim comes with models that must fail: an
//! ordering is weakened by its tag, or a step of the protocol is left out or done otherwise.
//!
//! A model is explored without a bound on preemptions, unless it says so: there
//! `LOOM_MAX_PREEMPTIONS=99` lifts the bound. What loom cannot show: it does not reorder a
//! thread's own stores, fences are no scheduling points, and `SeqCst` accesses are approximated
//! by fences (see `src/sync.rs`), which is more than the language promises where they meet weaker
//! accesses.
//!
//! ```sh
//! RUSTFLAGS='--cfg loom' cargo test --release --no-default-features --lib loom_ -- --nocapture
//! ```

mod arena;
mod assist;
mod bias;
mod doorbell;
mod hub;
mod join;
mod queue;
mod slab;
mod sole;
mod stops;
mod ticket;
mod waiting;

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::sync::{Ordering, weaken};

/// Orderings to use instead of those in the code, by tag.
type Weaker = &'static [(&'static str, Ordering)];
/// The code as it is.
const AS_IT_IS: Weaker = &[];

thread_local! {
    static EXECUTIONS: Cell<u64> = const { Cell::new(0) };
}

fn explore(weaker: Weaker, bound: Option<usize>, model: impl Fn() + Send + Sync + 'static) {
    let _weakened = weaken(weaker);
    EXECUTIONS.set(0);
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = builder.preemption_bound.or(bound);
    builder.check(move || {
        EXECUTIONS.set(EXECUTIONS.get() + 1);
        model();
    });
}

/// The claim holds in every execution of `model`.
fn holds(name: &str, weaker: Weaker, model: impl Fn() + Send + Sync + 'static) {
    explore(weaker, None, model);
    println!("{name}: holds in all of {} executions", EXECUTIONS.get());
}

/// The claim holds in every execution of `model` with at most `bound` preemptions.
fn holds_within(name: &str, bound: usize, model: impl Fn() + Send + Sync + 'static) {
    explore(AS_IT_IS, Some(bound), model);
    let executions = EXECUTIONS.get();
    println!("{name}: holds in all of {executions} executions of at most {bound} preemptions");
}

/// Some execution of `model` breaks the claim: it panics with `violation` in the message.
#[track_caller]
fn fails(name: &str, weaker: Weaker, violation: &str, model: impl Fn() + Send + Sync + 'static) {
    fails_within(name, weaker, None, violation, model);
}

/// The same among the executions with at most `bound` preemptions: found sooner.
#[track_caller]
fn fails_within(
    name: &str,
    weaker: Weaker,
    bound: Option<usize>,
    violation: &str,
    model: impl Fn() + Send + Sync + 'static,
) {
    let outcome = catch_unwind(AssertUnwindSafe(|| explore(weaker, bound, model)));
    let executions = EXECUTIONS.get();
    let Err(panic) = outcome else {
        panic!("{name}: nothing wrong in {executions} executions, but '{violation}' expected");
    };
    let said = panic
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or("a panic without a text");
    assert!(
        said.contains(violation),
        "{name}: '{violation}' expected, found: {said}"
    );
    println!("{name}: fails as it must, in execution {executions}: {violation}");
}

/// What loom says of unordered accesses to a [`Plain`].
const RACE: &str = "Causality violation";

/// Plain memory in the region: loom finds every access that is not ordered with a write to it.
#[derive(Debug, Default)]
struct Plain<T>(loom::cell::UnsafeCell<T>);

impl<T: Copy> Plain<T> {
    fn get(&self) -> T {
        // SAFETY: loom has found no write that is not ordered before this read.
        self.0.with(|value| unsafe { *value })
    }

    fn set(&self, value: T) {
        // SAFETY: loom has found no access that is not ordered before this write.
        self.0.with_mut(|place| unsafe { *place = value });
    }
}
