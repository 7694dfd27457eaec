//! What a message of the matrix carries, and the check of it.
//!
//! Every word of every body is determined by its first one, so a receiver can tell a body that is
//! torn, stale or of another message, and a stream with a gap, a repeat or a swap:
//! ```text
//! word 0    last:1 | sender:15 | sequence:48
//! word i    word 0 * FACTOR + i * STEP
//! ```
//! Both sides of the comparison fill and check with this code, so its cost is the same for both.

use std::time::{Duration, Instant};

const LAST: u64 = 1 << 63;
const SENDER_SHIFT: u32 = 48;
const SEQUENCE: u64 = (1 << SENDER_SHIFT) - 1;
const STEP: u64 = 0x9e37_79b9_7f4a_7c15;
/// Odd, so that two different first words never continue alike.
const FACTOR: u64 = 0xbf58_476d_1ce4_e5b9;

/// Messages in one write of the relay's senders.
pub const GROUP: usize = 64;
/// Most body bytes a group may have: larger batches only fall out of the caches.
pub const GROUP_BYTES: usize = 256 * 1024;
/// A sender looks at the clock once per this many bytes or `CLOCK_MESSAGES`.
const CLOCK_BYTES: u64 = 1 << 20;
const CLOCK_MESSAGES: u64 = 1024;

/// How many bodies of `size` bytes make a full group when at most `most` are wanted.
pub fn group_of(size: usize, most: usize) -> usize {
    (GROUP_BYTES / size).clamp(1, most)
}

/// The messages of one sender, in order, until its time is over.
pub struct Stream {
    head: u64,
    group: u64,
    /// Messages between two looks at the clock.
    stride: u64,
    sent: u64,
    stop_at: u64,
    look_at: u64,
    deadline: Instant,
}

impl Stream {
    /// A stream of `size`-byte bodies, in groups of `group`, that runs for `length` from now.
    pub fn new(sender: u32, size: usize, group: usize, length: Duration) -> Stream {
        Stream {
            head: u64::from(sender) << SENDER_SHIFT,
            group: group as u64,
            stride: (CLOCK_BYTES / size as u64).clamp(1, CLOCK_MESSAGES),
            sent: 0,
            stop_at: u64::MAX,
            look_at: 0,
            deadline: Instant::now() + length,
        }
    }

    /// Messages filled so far.
    pub fn sent(&self) -> u64 {
        self.sent
    }

    /// How many messages to fill next; `None` once the last one has been filled.
    pub fn next_group(&mut self) -> Option<usize> {
        if self.sent == self.stop_at {
            return None;
        }
        if self.sent >= self.look_at {
            self.look_at = self.sent + self.stride;
            if Instant::now() >= self.deadline {
                self.stop_at = self.sent + self.group;
            }
        }
        Some(self.group as usize)
    }

    /// Writes the next message into `body`, whole.
    #[inline]
    pub fn fill(&mut self, body: &mut [u8]) {
        let sequence = self.sent;
        self.sent += 1;
        let last = if self.sent == self.stop_at { LAST } else { 0 };
        fill(body, last | self.head | sequence);
    }
}

/// Checks everything one receiver gets.
// On lines of its own: what else is on a receiver's stack must not move it over the edge of one.
#[repr(align(64))]
pub struct Checker {
    size: usize,
    /// First word of the next message of the sender of the last one, unless it is its last: what
    /// most messages begin with. `CLOSED` when nothing can be said.
    due: u64,
    /// What the other words of that message follow from.
    value: u64,
    /// Sequence number due from each sender; `CLOSED` after its last message. Not up to date for
    /// the sender of the last message.
    next: Vec<u64>,
    open: usize,
    /// Messages of the senders that are closed.
    closed: u64,
}

/// No sequence number is as large, so nothing is due after a last message.
const CLOSED: u64 = u64::MAX;

impl Checker {
    /// Expects the streams of `senders` senders with bodies of `size` bytes.
    pub fn new(senders: u32, size: usize) -> Checker {
        Checker {
            size,
            due: CLOSED,
            value: 0,
            next: vec![0; senders as usize],
            open: senders as usize,
            closed: 0,
        }
    }

    /// Whether the last message of every sender has arrived.
    pub fn finished(&self) -> bool {
        self.open == 0
    }

    /// Messages accepted so far.
    pub fn accepted(&mut self) -> u64 {
        self.settle();
        self.closed
            + self
                .next
                .iter()
                .filter(|&&next| next != CLOSED)
                .sum::<u64>()
    }

    /// Takes one message: its length, sender, place in the order and every byte of it must be as
    /// sent. Returns its sender.
    // Always: in a program with many kinds of receivers the compiler would make it a call, which takes more
    // than all the rest of receiving a small message.
    #[inline(always)]
    pub fn accept(&mut self, body: &[u8]) -> Result<u32, String> {
        if body.len() != self.size {
            return Err(format!("a body of {} bytes, not {}", body.len(), self.size));
        }
        let head = word(body);
        if head != self.due {
            return self.accept_other(body, head);
        }
        if !intact(body, self.value) {
            return Err(damaged(head));
        }
        self.due += 1;
        self.value = self.value.wrapping_add(FACTOR);
        Ok(sender_of(head) as u32)
    }

    /// A message of another sender than the last one's, or a sender's last one.
    #[inline(never)]
    fn accept_other(&mut self, body: &[u8], head: u64) -> Result<u32, String> {
        self.settle();
        let sender = sender_of(head);
        if self.next.get(sender) != Some(&(head & SEQUENCE)) {
            return Err(self.out_of_order(sender, head & SEQUENCE));
        }
        if !intact(body, head.wrapping_mul(FACTOR)) {
            return Err(damaged(head));
        }
        self.next[sender] += 1;
        if head & LAST != 0 {
            self.close(sender);
        } else {
            self.due = head + 1;
            self.value = self.due.wrapping_mul(FACTOR);
        }
        Ok(sender as u32)
    }

    /// Notes what has come from the sender of the last message.
    fn settle(&mut self) {
        if self.due != CLOSED {
            self.next[sender_of(self.due)] = self.due & SEQUENCE;
            self.due = CLOSED;
        }
    }

    #[cold]
    fn out_of_order(&self, sender: usize, sequence: u64) -> String {
        match self.next.get(sender) {
            None => {
                format!("message {sequence} claims to be of sender {sender}, which there is not")
            }
            Some(&CLOSED) => format!("message {sequence} of sender {sender} came after its last"),
            Some(want) => {
                format!("message {sequence} of sender {sender} came where {want} was due")
            }
        }
    }

    #[cold]
    fn close(&mut self, sender: usize) {
        self.open -= 1;
        self.closed += self.next[sender];
        self.next[sender] = CLOSED;
    }
}

fn sender_of(head: u64) -> usize {
    ((head & !LAST) >> SENDER_SHIFT) as usize
}

#[cold]
fn damaged(head: u64) -> String {
    let sender = sender_of(head);
    format!("message {} of sender {sender} is damaged", head & SEQUENCE)
}

fn word(bytes: &[u8]) -> u64 {
    u64::from_le_bytes(bytes[..8].try_into().expect("eight bytes"))
}

#[inline]
fn fill(body: &mut [u8], head: u64) {
    let mut value = head.wrapping_mul(FACTOR);
    let (first, rest) = body.split_at_mut(8);
    first.copy_from_slice(&head.to_le_bytes());
    for bytes in rest.chunks_exact_mut(8) {
        value = value.wrapping_add(STEP);
        bytes.copy_from_slice(&value.to_le_bytes());
    }
}

/// Whether the words behind the first follow from `value`, the first one times `FACTOR`.
#[inline]
fn intact(body: &[u8], mut value: u64) -> bool {
    if body.len() == 16 {
        // The loop below is made for long bodies; its preparation would cost more than this word.
        return word(&body[8..]) == value.wrapping_add(STEP);
    }
    let mut difference = 0;
    for bytes in body[8..].chunks_exact(8) {
        value = value.wrapping_add(STEP);
        difference |= word(bytes) ^ value;
    }
    difference == 0
}

/// Shows that the check refuses what it must: a run that cannot fail proves nothing.
pub fn prove_checker(size: usize) -> Result<(), String> {
    let bodies: Vec<Vec<u8>> = two_messages(size);
    let mut damaged = bodies[0].clone();
    damaged[size - 1] ^= 1;
    refuses(&damaged, size, "a flipped bit")?;
    refuses(&bodies[1], size, "a gap")?;
    refuses(&bodies[0][..size - 8], size, "a short body")?;
    let mut good = Checker::new(1, size);
    good.accept(&bodies[0])?;
    match good.accept(&bodies[0]) {
        Ok(_) => Err("the checker took a repeated message".to_owned()),
        Err(_) => good.accept(&bodies[1]).map(|_| ()),
    }
}

fn two_messages(size: usize) -> Vec<Vec<u8>> {
    let mut stream = Stream::new(0, size, 1, Duration::from_secs(1));
    let mut bodies = vec![vec![0; size]; 2];
    bodies.iter_mut().for_each(|body| stream.fill(body));
    bodies
}

fn refuses(body: &[u8], size: usize, what: &str) -> Result<(), String> {
    match Checker::new(1, size).accept(body) {
        Ok(_) => Err(format!("the checker took {what}")),
        Err(_) => Ok(()),
    }
}
