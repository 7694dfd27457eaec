//! Tickets: the one order in which all messages of a hub are delivered.
//!
//! One shared counter holds the next ticket. A sender puts a ticket into each record; the router
//! draws a ticket T of its own, then collects every lane's tail, then delivers what is below T
//! in ticket order. This gives: *if one send returned before another began, nobody sees them in
//! the other order.*
//!
//! Drawing at each send would make the counter's cache line the bottleneck, so a sender reuses
//! its last ticket while nobody has drawn since. Sound because the router draws too: after its
//! draw of T, nobody can reuse a ticket below T.
//!
//! Invariant: a ticket is used by one lane only (equal tickets are of one lane, whose own order
//! decides). Who writes: every sender and the router. The draw, the load that decides about
//! reuse, the lane's publish and the router's read of the tails are all `SeqCst`: the argument
//! is about one order over the counter *and* the tails.
//!
//! # Damage
//! This counter is the one word that all workers write, so a stray store of one of them may hit it;
//! the others' messages must keep their order all the same. A counter that falls back would give
//! tickets twice. So the word does not hold the number of the next ticket but that number times
//! [`FACTOR`], modulo 2^64: drawing adds FACTOR. Whatever overwrites up to four neighbouring bytes
//! of it moves the number by more than 2^31 either way, for that is how FACTOR was chosen; eight
//! bytes of noise give a number somewhere in 2^64. The router tells in [`Floor`], which is its own,
//! below what no ticket is drawn any more, and only numbers less than [`PLAUSIBLE`] above that are
//! taken at their word: after eight random bytes that happens once in 2^40 times.
//!
//! Whoever draws another number sets the counter right, forward: to the clock (in units that pass
//! faster than anybody can draw, so all tickets drawn before are below it), counted from the floor.
//! Nobody waits, and no ticket is given twice; until the router has cut again, each draw reads the
//! clock.

use crate::sync::{AtomicU64, Ordering, order};

/// The shared counter: FACTOR times the ticket that the next draw will get. Alone on its cache
/// lines.
#[repr(C, align(128))]
#[derive(Debug)]
pub(crate) struct Tickets(AtomicU64);

/// The router's last cut, plus one: no ticket below it is drawn any more. Written by the router
/// only.
#[repr(C, align(128))]
#[derive(Debug)]
pub(crate) struct Floor(AtomicU64);

/// What one lane remembers between sends: its ticket, and the counter while nobody has drawn since.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct LastTicket(Option<(u64, u64)>);

/// See the module's header; `a_small_overwrite_moves_the_number_far` checks the property.
const FACTOR: u64 = 0xc8d6_d518_f31f_4b71;
/// `FACTOR * INVERSE == 1`, modulo 2^64.
const INVERSE: u64 = 0xf456_6f7d_3476_1591;
/// Tickets above the floor that are not questioned: more than are drawn between two cuts.
const PLAUSIBLE: u64 = 1 << 24;
/// Turns of a repair before it stops asking what the counter holds.
const TRIES: u32 = 32;
/// Tickets that are skipped then.
const LEAP: u64 = 1 << 16;
/// Farthest that damage moves the tickets: records carry 48 bits of them.
const FARTHEST: u64 = 1 << 46;
/// The router raises a counter that has fallen this far behind the clock (a few hours), so that
/// setting it right stays within [`FARTHEST`].
const BEHIND: u64 = 1 << 40;

const _: () = assert!(FACTOR.wrapping_mul(INVERSE) == 1);

/// The clock that damage is repaired by, in units of 8 ns: two draws, of whatever cores, are at
/// least the passage of a cache line between them apart, or a whole send.
#[cfg(not(loom))]
pub(crate) fn clock() -> u64 {
    crate::clock::monotonic_nanos() / 8
}

/// What the counter holds when `next` is the next ticket.
#[inline]
fn word_of(next: u64) -> u64 {
    next.wrapping_mul(FACTOR)
}

/// The inverse of [`word_of`].
#[inline]
fn next_of(word: u64) -> u64 {
    word.wrapping_mul(INVERSE)
}

/// True when a correct counter can stand at `ticket` while nothing below `floor` is drawn.
#[inline]
fn is_plausible(ticket: u64, floor: u64) -> bool {
    ticket.wrapping_sub(floor) < PLAUSIBLE
}

impl Floor {
    #[inline]
    pub fn load(&self) -> u64 {
        // Relaxed: an older floor only makes more numbers plausible. It is read before the draw, so
        // that no draw can be below it.
        self.0.load(Ordering::Relaxed)
    }

    /// Router: a cut at `ticket`.
    #[inline]
    pub fn raise(&self, ticket: u64) {
        // Relaxed: as above.
        self.0.store(ticket.wrapping_add(1), Ordering::Relaxed);
    }
}

impl Tickets {
    #[cfg(any(test, loom))]
    pub fn new(first: u64) -> Self {
        Self(AtomicU64::new(word_of(first)))
    }

    /// The creator: the first ticket, and the floor under it. The clock will do: not 0, for which
    /// a word of zeros stands.
    pub fn start(&self, floor: &Floor, first: u64) {
        // Relaxed, twice: published with the region.
        self.0.store(word_of(first), Ordering::Relaxed);
        floor.0.store(first, Ordering::Relaxed);
    }

    /// The next ticket, without drawing it. Damaged or not.
    #[inline]
    pub fn peek(&self) -> u64 {
        next_of(self.word())
    }

    #[inline]
    fn word(&self) -> u64 {
        // SYNC(ticket.peek): pairs with the router's draw (`cut`): reading a counter that stands
        // just behind our last ticket proves that the router has not cut since.
        self.0.load(order("ticket.peek", Ordering::SeqCst))
    }

    /// The ticket for the next record of a lane: its last one if nobody has drawn since.
    #[cfg(any(test, loom))]
    pub fn next(
        &self,
        last: &mut LastTicket,
        floor: impl FnOnce() -> u64,
        clock: impl Fn() -> u64,
    ) -> u64 {
        self.again(*last)
            .unwrap_or_else(|| self.fresh(last, floor, clock))
    }

    /// The lane's last ticket, if nobody has drawn since.
    #[inline]
    pub fn again(&self, last: LastTicket) -> Option<u64> {
        let (ticket, unchanged) = last.0?;
        (self.word() == unchanged).then_some(ticket)
    }

    /// A ticket of its own for the next record of a lane.
    #[inline]
    pub fn fresh(
        &self,
        last: &mut LastTicket,
        floor: impl FnOnce() -> u64,
        clock: impl Fn() -> u64,
    ) -> u64 {
        let ticket = self.draw(floor(), clock, "ticket.draw");
        last.0 = Some((ticket, word_of(ticket.wrapping_add(1))));
        ticket
    }

    /// A ticket that all drawn so far are below.
    #[inline]
    fn draw(&self, floor: u64, clock: impl Fn() -> u64, tag: &'static str) -> u64 {
        // SYNC(ticket.draw): pairs with `cut`; ordered before this lane's publish.
        let word = self.0.fetch_add(FACTOR, order(tag, Ordering::SeqCst));
        let ticket = next_of(word);
        if is_plausible(ticket, floor) {
            return ticket;
        }
        self.repair(floor, clock)
    }

    /// Draws from a counter that is damaged, or has been repaired since the last cut.
    #[cold]
    fn repair(&self, floor: u64, clock: impl Fn() -> u64) -> u64 {
        let mut ticket = floor;
        for _ in 0..TRIES {
            let seen = self.word();
            // Read after the counter: above whatever somebody has set it to meanwhile.
            let now = floor.wrapping_add(clock().wrapping_sub(floor).min(FARTHEST));
            let number = next_of(seen);
            // Just ahead of the clock: somebody was here in this very moment.
            let is_ahead = is_plausible(number, now);
            ticket = if is_ahead { number } else { now };
            let next = word_of(ticket.wrapping_add(1));
            // SYNC(ticket.repair): as for the draw. A CAS: a draw or a repair meanwhile must not be
            // undone.
            let set = self.0.compare_exchange(
                seen,
                next,
                order("ticket.repair", Ordering::SeqCst),
                Ordering::Relaxed, // Relaxed: the next turn looks again
            );
            if set.is_ok() {
                return ticket;
            }
        }
        self.overwrite(ticket.wrapping_add(LEAP))
    }

    /// Sets a counter that somebody keeps changing to behind `ticket`, which is so far ahead that
    /// no draw since the last look can have come to it: whoever scribbles holds nobody up.
    #[cold]
    fn overwrite(&self, ticket: u64) -> u64 {
        let next = word_of(ticket.wrapping_add(1));
        // SYNC(ticket.overwrite): as for the draw.
        self.0
            .swap(next, order("ticket.overwrite", Ordering::SeqCst));
        ticket
    }

    /// Router: a later cut than `cut`, if the clock is far ahead of it.
    pub fn catch_up(&self, cut: u64, clock: impl Fn() -> u64) -> u64 {
        if (clock().wrapping_sub(cut) as i64) < BEHIND as i64 {
            return cut;
        }
        self.repair(cut, clock)
    }

    /// A ticket that is above all drawn so far: what the router may believe. `peek`, unless the
    /// counter is damaged.
    pub fn drawn(&self, floor: u64, clock: impl Fn() -> u64) -> u64 {
        let next = self.peek();
        if is_plausible(next, floor) {
            return next;
        }
        self.repair(floor, clock).wrapping_add(1)
    }

    /// The router's own draw: every ticket below the result is final.
    #[inline]
    pub fn cut(&self, floor: u64, clock: impl Fn() -> u64) -> u64 {
        // SYNC(ticket.cut): pairs with `peek`, and is ordered before the router's reads of
        // doorbells and tails; see the module's header.
        self.draw(floor, clock, "ticket.cut")
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    fn next(tickets: &Tickets, last: &mut LastTicket) -> u64 {
        tickets.next(
            last,
            || tickets.peek(),
            || unreachable!("nothing is damaged"),
        )
    }

    fn cut(tickets: &Tickets) -> u64 {
        tickets.cut(tickets.peek(), || unreachable!("nothing is damaged"))
    }

    #[test]
    fn a_sole_sender_reuses_its_ticket() {
        let (tickets, mut last) = (Tickets::new(7), LastTicket::default());
        assert_eq!([(); 3].map(|()| next(&tickets, &mut last)), [7, 7, 7]);
        assert_eq!(tickets.peek(), 8);
    }

    #[test]
    fn a_cut_or_another_sender_ends_reuse() {
        let (tickets, mut a, mut b) = (
            Tickets::new(0),
            LastTicket::default(),
            LastTicket::default(),
        );
        assert_eq!(next(&tickets, &mut a), 0);
        assert_eq!(cut(&tickets), 1);
        assert_eq!(next(&tickets, &mut a), 2);
        assert_eq!(next(&tickets, &mut b), 3);
        assert_eq!(next(&tickets, &mut a), 4);
    }

    #[test]
    fn the_counter_may_wrap() {
        let (tickets, mut last) = (Tickets::new(u64::MAX), LastTicket::default());
        assert_eq!(next(&tickets, &mut last), u64::MAX);
        assert_eq!(next(&tickets, &mut last), u64::MAX);
        assert_eq!(cut(&tickets), 0);
        assert_eq!(next(&tickets, &mut last), 1);
    }

    /// The repair used to go on as long as somebody changed the counter between its look and its
    /// CAS: one broken worker could hold the router for ever.
    #[test]
    fn a_counter_that_changes_at_every_look_holds_nobody_up() {
        let (tickets, noise) = (Tickets::new(0), std::cell::Cell::new(1u64));
        let clock = || {
            noise.set(noise.get().wrapping_mul(FACTOR));
            // Relaxed: one thread.
            tickets.0.store(noise.get(), Ordering::Relaxed);
            1 << 20
        };
        // Relaxed: one thread.
        tickets.0.store(noise.get(), Ordering::Relaxed);
        let ticket = tickets.cut(1000, clock);
        assert!(ticket >= 1 << 20);
        assert_eq!(tickets.peek(), ticket + 1);
    }

    /// Smallest distance from 0, modulo 2^64, of `d * a` for `0 < d < limit`: taken on at one of
    /// the denominators of the convergents of `a / 2^64`.
    fn nearest_multiple(a: u64, limit: u128) -> u64 {
        let (mut before, mut denominator) = (0u128, 1u128);
        let (mut n, mut d) = (1u128 << 64, u128::from(a));
        let mut nearest = u64::MAX;
        while denominator < limit {
            let product = a.wrapping_mul(denominator as u64);
            nearest = nearest.min(product.min(product.wrapping_neg()));
            if d == 0 {
                break;
            }
            let quotient = n / d;
            (n, d) = (d, n % d);
            (before, denominator) = (denominator, quotient * denominator + before);
        }
        nearest
    }

    #[test]
    fn a_small_overwrite_moves_the_number_far() {
        assert_eq!(nearest_multiple(3, 10), 3);
        assert_eq!(nearest_multiple((1 << 63) + 1, 10), 1 << 1);
        for shift in (0..64).step_by(8) {
            let limit = 1u128 << 32.min(64 - shift);
            assert!(
                nearest_multiple(INVERSE << shift, limit) > 1 << 31,
                "{shift}"
            );
        }
    }

    /// Whatever the counter is overwritten with, everybody's tickets go on rising, and the router
    /// finds them drawn.
    #[test]
    fn a_damaged_counter_gives_no_ticket_twice() {
        let first = clock();
        let (tickets, mut seed) = (Tickets::new(first), 88_172_645_463_325_252u64);
        let (mut floor, mut highest) = (first, first - 1);
        let mut lasts = [LastTicket::default(); 3];
        for turn in 0..200_000u64 {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            if seed % 3 == 0 {
                let bytes = 8 * (1 + (seed >> 8) % 8);
                let mask = u64::MAX >> (64 - bytes) << ((seed >> 16) % 8 * 8);
                let noise = [seed, 0, u64::MAX][(seed >> 24) as usize % 3];
                let old = tickets.0.load(Ordering::Relaxed);
                tickets
                    .0
                    .store(old & !mask | noise & mask, Ordering::Relaxed);
            }
            if turn % 7 == 0 {
                let cut = tickets.cut(floor, clock);
                assert!(cut > highest, "cut {cut} after {highest} in turn {turn}");
                (floor, highest) = (cut + 1, cut);
                continue;
            }
            let last = &mut lasts[turn as usize % 3];
            let before = last.0;
            let ticket = tickets.next(last, || floor, clock);
            let is_reuse = before.is_some_and(|(last, _)| last == ticket) && ticket == highest;
            assert!(ticket > highest || is_reuse, "{ticket} after {highest}");
            highest = ticket;
            assert!(tickets.drawn(floor, clock) > ticket);
        }
    }
}
