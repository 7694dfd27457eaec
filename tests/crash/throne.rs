//! Death of the master at every instruction of its work. A process becomes the master and is held
//! after each instruction; wherever it has changed shared memory, the others go through what
//! follows if it dies there: calls say that it is gone, or wait; a successor adopts the hub, and
//! everything that was sent comes once, in order. Then all is put back. At sampled instructions it
//! is killed for real.

use std::sync::atomic::{AtomicU64, Ordering};

use corecast::Overflow;

use crate::arena;
use crate::common::shared_words;
use crate::figures::{Faults, Figures};
use crate::image::Image;
use crate::realm::{Death, Realm, Reign, Work, free_fd, now, route};
use crate::step::{Tracee, pause};

/// Of how many equal parts of a predecessor's work `Reign::after` counts.
pub const PARTS: usize = 16;

/// Looking for changes costs more than the instruction: where it only reads, that is left out but
/// for one in so many, where it shows whether that was right.
const CHECK_EVERY: usize = 37;

/// What [`crate::stage::Stage`] is to workers.
struct Throne {
    /// Never a reference across [`Self::put_back`].
    realm: *mut Realm,
    reign: Reign,
    image: Image,
    memory: arena::Copy,
    done: &'static AtomicU64,
    free_fd: i32,
    #[cfg(debug_assertions)]
    skips_commit: bool,
}

impl Throne {
    fn new(reign: Reign) -> Self {
        let realm = arena::inside(|| Box::into_raw(Box::new(Realm::new(reign))));
        let mut throne = Self {
            realm,
            reign,
            image: Image::new(),
            memory: arena::Copy::default(),
            done: &shared_words(1)[0],
            free_fd: 0,
            #[cfg(debug_assertions)]
            skips_commit: false,
        };
        throne.realm(Realm::prepare);
        throne.free_fd = free_fd();
        throne.save();
        if let Some(part) = reign.after {
            throne.precede(part);
        }
        throne
    }

    fn realm<T>(&mut self, act: impl FnOnce(&mut Realm) -> T) -> T {
        // SAFETY: made in `new`, freed in `drop`; the only reference to it, for this call.
        arena::inside(|| act(unsafe { &mut *std::hint::black_box(self.realm) }))
    }

    fn save(&mut self) {
        self.image.take();
        self.memory.take();
    }

    fn put_back(&mut self) {
        self.image.put_back();
        // SAFETY: nobody holds a reference into the arena: `realm` is a raw pointer, and what
        // `act` was given ended with it.
        unsafe { self.memory.put_back() };
    }

    /// A process that becomes the master and works, stopped where that begins.
    fn master(&mut self, adopts: bool) -> Tracee {
        self.done.store(0, Ordering::SeqCst);
        let (realm, done, work) = (self.realm, self.done, self.reign.work);
        #[cfg(debug_assertions)]
        let skip_commit = self.skips_commit;
        let tracee = Tracee::new(|| {
            arena::leave();
            // SAFETY: the child's own copy of the realm, of which it uses the hub.
            let hub = unsafe { &(*realm).hub };
            if adopts {
                pause();
            }
            let mut master = hub.master().expect("a master");
            if !adopts {
                pause();
            }
            #[cfg(debug_assertions)]
            master.sabotage(corecast::Sabotage {
                skip_commit,
                ..Default::default()
            });
            if work == Work::Reap {
                now(&mut master);
            } else {
                route(&mut master);
            }
            done.store(1, Ordering::SeqCst);
            pause();
        });
        assert!(tracee.resume(), "the master ended early: {:?}", self.reign);
        tracee
    }

    fn is_done(&self) -> bool {
        self.done.load(Ordering::SeqCst) == 1
    }

    /// A master that dies after `part` 16ths of its work, and leaves the rest to the next.
    fn precede(&mut self, part: usize) {
        let tracee = self.master(false);
        let mut length = 0;
        while !self.is_done() {
            assert!(tracee.step(), "the master ended in its work");
            length += 1;
        }
        tracee.kill();
        self.put_back();
        let tracee = self.master(false);
        self.step_to(&tracee, length * part / PARTS);
        tracee.kill();
        self.save();
    }

    fn step_to(&self, tracee: &Tracee, steps: usize) {
        for _ in 0..steps {
            assert!(
                self.is_done() || tracee.step(),
                "the master ended in its work"
            );
        }
    }

    fn succeed(&mut self, death: Death, variant: usize) -> Faults {
        let mut faults = self.realm(|realm| realm.succeed(death, variant));
        faults.leaks += u64::from(free_fd() != self.free_fd);
        self.put_back();
        faults
    }
}

impl Drop for Throne {
    fn drop(&mut self) {
        // SAFETY: made in `new`; not used again. The arena holds nothing else that is in use.
        unsafe {
            arena::inside(|| drop(Box::from_raw(self.realm)));
            arena::clear();
        }
    }
}

/// Takes masters through `reign`: every instruction, with `variants` ways to go on from each that
/// has changed shared memory, and real kills in not more than `steps` instructions.
pub fn die_at_each_instruction(reign: Reign, variants: usize, steps: usize, figures: &mut Figures) {
    let length = held(&mut Throne::new(reign), variants, figures);
    // As it was before the first of them.
    let mut throne = Throne::new(reign);
    let kills = (2 * steps).div_ceil(length.max(1));
    for n in 0..kills {
        let at = length * (2 * n + 1) / (2 * kills);
        let tracee = throne.master(reign.after.is_some());
        throne.step_to(&tracee, at);
        tracee.kill();
        figures.kills += 1;
        let faults = throne.succeed(Death::Real, n);
        figures.found(faults, || format!("{reign:?} killed at {at}, variant {n}"));
    }
}

/// The same for masters that may carry out what they have not committed, without real kills.
#[cfg(debug_assertions)]
pub fn die_sabotaged(reign: Reign, skips_commit: bool, figures: &mut Figures) {
    let mut throne = Throne::new(reign);
    throne.skips_commit = skips_commit;
    held(&mut throne, 1, figures);
}

/// Returns the number of instructions.
fn held(throne: &mut Throne, variants: usize, figures: &mut Figures) -> usize {
    let reign = throne.reign;
    figures.scenarios += 1;
    let before = throne.master(reign.after.is_some());
    throne.save();
    let (mut steps, mut is_new) = (0usize, true);
    loop {
        figures.points += 1;
        if is_new {
            for n in 0..variants {
                let variant = figures.recoveries as usize + n;
                figures.recoveries += 1;
                let faults = throne.succeed(Death::Presumed, variant);
                figures.found(faults, || {
                    format!("{reign:?} at {steps}, variant {variant}")
                });
            }
        }
        if throne.is_done() {
            break;
        }
        let only_reads = before.only_reads();
        assert!(before.step(), "the master ended in its work");
        steps += 1;
        let may_skip = only_reads && steps % CHECK_EVERY != 0;
        is_new = !may_skip && throne.image.update();
        assert!(!is_new || !only_reads, "stores, though it should only read");
    }
    before.kill();
    figures.kills += 1;
    let faults = throne.succeed(Death::Real, steps);
    figures.found(faults, || format!("{reign:?} killed at its end"));
    steps
}

/// A master that routes to all.
pub const FAN_OUT: Reign = Reign {
    work: Work::FanOut,
    after: None,
    messages: 12,
    overflow: Overflow::DropNewest,
    unread: 0,
    awaits: true,
};
