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

use crate::sync::{AtomicU64, Ordering, order};

/// The shared counter: the ticket that the next draw will get. Alone on its cache lines.
#[repr(C, align(128))]
#[derive(Debug)]
pub(crate) struct Tickets(AtomicU64);

/// What one lane remembers between sends.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct LastTicket(Option<u64>);

impl Tickets {
    #[cfg(any(test, loom))]
    pub fn new(first: u64) -> Self {
        Self(AtomicU64::new(first))
    }

    /// The next ticket, without drawing it.
    #[inline]
    pub fn peek(&self) -> u64 {
        // SYNC(ticket.peek): pairs with the router's draw (`cut`): reading a counter that stands
        // just behind our last ticket proves that the router has not cut since.
        self.0.load(order("ticket.peek", Ordering::SeqCst))
    }

    /// The ticket for the next record of a lane: its last one if nobody has drawn since.
    #[inline]
    pub fn next(&self, last: &mut LastTicket) -> u64 {
        if let Some(ticket) = last.0 {
            if self.peek() == ticket.wrapping_add(1) {
                return ticket;
            }
        }
        let ticket = self.draw();
        last.0 = Some(ticket);
        ticket
    }

    /// The router's own draw: every ticket below the result is final.
    #[inline]
    pub fn cut(&self) -> u64 {
        // SYNC(ticket.cut): pairs with `peek`, and is ordered before the router's reads of
        // doorbells and tails; see the module's header.
        self.0.fetch_add(1, order("ticket.cut", Ordering::SeqCst))
    }

    #[inline]
    fn draw(&self) -> u64 {
        // SYNC(ticket.draw): pairs with `cut`; ordered before this lane's publish.
        self.0.fetch_add(1, order("ticket.draw", Ordering::SeqCst))
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_sole_sender_reuses_its_ticket() {
        let (tickets, mut last) = (Tickets::new(7), LastTicket::default());
        assert_eq!([(); 3].map(|()| tickets.next(&mut last)), [7, 7, 7]);
        assert_eq!(tickets.peek(), 8);
    }

    #[test]
    fn a_cut_or_another_sender_ends_reuse() {
        let (tickets, mut a, mut b) = (
            Tickets::new(0),
            LastTicket::default(),
            LastTicket::default(),
        );
        assert_eq!(tickets.next(&mut a), 0);
        assert_eq!(tickets.cut(), 1);
        assert_eq!(tickets.next(&mut a), 2);
        assert_eq!(tickets.next(&mut b), 3);
        assert_eq!(tickets.next(&mut a), 4);
    }

    #[test]
    fn the_counter_may_wrap() {
        let (tickets, mut last) = (Tickets::new(u64::MAX), LastTicket::default());
        assert_eq!(tickets.next(&mut last), u64::MAX);
        assert_eq!(tickets.next(&mut last), u64::MAX);
        assert_eq!(tickets.cut(), 0);
        assert_eq!(tickets.next(&mut last), 1);
    }
}
