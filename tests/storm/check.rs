//! Judges what the cores have written down.
//!
//! For each core: no duplicate, nothing torn, nothing outside a membership, every sender's
//! messages in order, nothing missing between a join and a leave. For all of them together: one
//! order explains everything that anybody saw. That is so exactly if this graph has no cycle:
//!
//! ```text
//! clock t ──► clock t+1          time goes on
//! clock begin(m) ──► m           a message comes after what had happened when its send began
//! m ──► clock returned(m)        and before whatever began after its send had returned
//! m ──► n                        some core received m and next n
//! ```

use std::collections::HashMap;

use super::log::{Event, Id};

/// What was found. Everything from `lost` on must be zero.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    /// Messages whose send has returned.
    pub messages: u64,
    pub deliveries: u64,
    /// Attachments to a slot, and how many of them were cut short.
    pub lives: u64,
    pub killed: u64,
    /// Memberships that were checked from join to leave.
    pub memberships: u64,
    /// Times a ticket was smaller than the one received before it.
    pub falling_tickets: u64,
    pub lost: u64,
    pub duplicates: u64,
    /// Bodies or headers that do not match, and messages nobody sent.
    pub torn: u64,
    /// Messages of channels that the receiver was not in.
    pub strays: u64,
    /// A sender's messages in another order than sent.
    pub overtaken: u64,
    /// A core received n before m, though the send of m had returned before that of n began.
    pub inversions: u64,
    /// Messages that no common order has a place for.
    pub order_violations: u64,
    /// The first few findings in words.
    pub findings: Vec<String>,
}

impl Verdict {
    pub fn is_clean(&self) -> bool {
        let bad = [
            self.lost,
            self.duplicates,
            self.torn,
            self.strays,
            self.overtaken,
            self.inversions,
            self.order_violations,
        ];
        bad == [0; 7]
    }
}

/// A message as its sender wrote it down.
#[derive(Clone, Copy, Debug)]
struct Sent {
    id: Id,
    channel: u32,
    begin: u64,
    /// 0: the send did not return.
    returned: u64,
}

/// One life's stretch of a slot's log.
struct Life<'a> {
    slot: usize,
    events: &'a [Event],
}

/// Where a core stands with a channel.
#[derive(Clone, Copy, Debug, Default)]
struct Membership {
    /// Stamp of the join's return; 0: not answered.
    joined: u64,
    /// The message of the channel received last in this membership.
    last: Option<u32>,
    /// The latest beginning among those received.
    newest: u64,
}

const NONE: u32 = u32::MAX;

struct Checker {
    sent: Vec<Sent>,
    /// Index into `sent` of the first message of each (slot, incarnation).
    first: HashMap<(u32, u32), u32>,
    /// Per channel: its messages by the time their sends began.
    by_begin: Vec<Vec<u32>>,
    /// The next message of the same channel, for whoever was in it all the time.
    next_in_channel: Vec<u32>,
    /// (m, n): somebody received n right after m.
    edges: Vec<(u32, u32)>,
    /// Per slot and message: received.
    seen: Vec<Vec<bool>>,
    verdict: Verdict,
}

/// Judges the logs of all slots.
pub fn check(logs: &[Vec<Event>]) -> Verdict {
    let lives: Vec<Life<'_>> = logs.iter().enumerate().flat_map(lives).collect();
    let mut checker = Checker::new(&lives, logs.len());
    for life in &lives {
        checker.life(life);
    }
    checker.common_order();
    checker.verdict
}

fn lives((slot, events): (usize, &Vec<Event>)) -> impl Iterator<Item = Life<'_>> {
    let is_start = |e: &Event| matches!(e, Event::Attached { .. });
    let starts: Vec<usize> = (0..events.len())
        .filter(|&i| is_start(&events[i]))
        .collect();
    let ends: Vec<usize> = starts
        .iter()
        .skip(1)
        .copied()
        .chain([events.len()])
        .collect();
    starts.into_iter().zip(ends).map(move |(start, end)| Life {
        slot,
        events: &events[start..end],
    })
}

impl Life<'_> {
    fn incarnation(&self) -> u32 {
        match self.events[0] {
            Event::Attached { incarnation } => incarnation,
            _ => unreachable!("a life starts with its attachment"),
        }
    }

    fn is_complete(&self) -> bool {
        self.events.last() == Some(&Event::Done)
    }

    fn sent(&self) -> impl Iterator<Item = Sent> {
        let (slot, incarnation) = (self.slot as u32, self.incarnation());
        let sends = self.events.iter().filter_map(|&e| match e {
            Event::Sent {
                channel,
                begin,
                returned,
            } => Some((channel, begin, returned)),
            _ => None,
        });
        sends
            .zip(0..)
            .map(move |((channel, begin, returned), seq)| Sent {
                id: Id {
                    slot,
                    incarnation,
                    seq,
                },
                channel,
                begin,
                returned,
            })
    }
}

impl Checker {
    fn new(lives: &[Life<'_>], slots: usize) -> Self {
        let (mut sent, mut first) = (Vec::new(), HashMap::new());
        for life in lives {
            first.insert((life.slot as u32, life.incarnation()), sent.len() as u32);
            sent.extend(life.sent());
        }
        let mut by_begin: Vec<Vec<u32>> = Vec::new();
        for (i, m) in (0u32..).zip(&sent) {
            let channel = m.channel as usize;
            by_begin.resize(by_begin.len().max(channel + 1), Vec::new());
            by_begin[channel].push(i);
        }
        for channel in &mut by_begin {
            channel.sort_by_key(|&m| sent[m as usize].begin);
        }
        Self {
            next_in_channel: vec![NONE; sent.len()],
            seen: vec![vec![false; sent.len()]; slots],
            verdict: Verdict {
                messages: sent.iter().filter(|m| m.returned != 0).count() as u64,
                lives: lives.len() as u64,
                ..Verdict::default()
            },
            edges: Vec::new(),
            sent,
            first,
            by_begin,
        }
    }

    /// One core from attach to detach or death.
    fn life(&mut self, life: &Life<'_>) {
        let mut walk = Walk::new(life.slot, self.by_begin.len());
        for &event in life.events {
            self.event(&mut walk, event);
        }
        if !life.is_complete() {
            self.verdict.killed += 1;
            for channel in 0..self.by_begin.len() {
                if let Some(Some(m)) = walk.memberships.get(channel) {
                    // It had received whatever comes before the last that it wrote down.
                    self.nothing_missing(life.slot, channel, m.joined, m.newest);
                }
            }
        }
    }

    fn event(&mut self, walk: &mut Walk, event: Event) {
        match event {
            Event::Got {
                id,
                channel,
                ticket,
            } => self.got(walk, id, channel, ticket),
            Event::Torn => self.verdict.torn += 1,
            Event::Lagged { count } => self.verdict.lost += count,
            Event::Asked { channel } => *walk.at(channel) = Some(Membership::default()),
            Event::Joined { channel, stamp } => {
                if let Some(m) = walk.at(channel) {
                    m.joined = stamp;
                }
            }
            Event::Leaving { channel, stamp } => {
                if let Some(m) = *walk.at(channel) {
                    self.verdict.memberships += 1;
                    self.nothing_missing(walk.slot, channel as usize, m.joined, stamp);
                }
            }
            Event::Left { channel } => *walk.at(channel) = None,
            Event::Attached { .. } | Event::Sent { .. } | Event::Done => {}
        }
    }

    fn got(&mut self, walk: &mut Walk, id: Id, channel: u32, ticket: u64) {
        self.verdict.deliveries += 1;
        let Some(m) = self.find(id) else {
            return self.note(|v| &mut v.torn, || format!("{id:?} was never sent"));
        };
        let sent = self.sent[m as usize];
        let to = walk.slot;
        if sent.channel != channel {
            self.note(|v| &mut v.torn, || format!("{sent:?} came as of {channel}"));
        }
        if std::mem::replace(&mut self.seen[to][m as usize], true) {
            self.note(|v| &mut v.duplicates, || format!("{to} got {id:?} twice"));
        }
        self.in_order(walk, m, ticket);
        match walk.at(channel) {
            None => self.note(|v| &mut v.strays, || format!("{to} got {sent:?} outside")),
            Some(membership) => {
                membership.newest = membership.newest.max(sent.begin);
                if let Some(before) = membership.last.replace(m) {
                    self.follows(to, before, m);
                }
            }
        }
    }

    fn find(&self, id: Id) -> Option<u32> {
        let first = *self.first.get(&(id.slot, id.incarnation))?;
        let sent = self.sent.get((first + id.seq) as usize)?;
        (sent.id == id).then_some(first + id.seq)
    }

    /// What one core alone can tell about order.
    fn in_order(&mut self, walk: &mut Walk, m: u32, ticket: u64) {
        let (sent, to) = (self.sent[m as usize], walk.slot);
        let key = (sent.id.slot, sent.id.incarnation);
        if let Some(seq) = walk.last_of.insert(key, sent.id.seq) {
            if seq >= sent.id.seq {
                self.note(
                    |v| &mut v.overtaken,
                    || format!("{to} got {sent:?} after seq {seq}"),
                );
            }
        }
        if sent.returned != 0 && sent.returned <= walk.newest {
            let newest = walk.newest;
            let say = || format!("{to} got {sent:?} after one whose send began at {newest}");
            self.note(|v| &mut v.inversions, say);
        }
        walk.newest = walk.newest.max(sent.begin);
        self.verdict.falling_tickets += u64::from(ticket < walk.ticket);
        walk.ticket = ticket;
        if let Some(before) = walk.last.replace(m) {
            self.edges.push((before, m));
        }
    }

    /// A core received `next` right after `m` among the messages of their channel: everybody who
    /// was in it must have.
    fn follows(&mut self, to: usize, m: u32, next: u32) {
        let known = std::mem::replace(&mut self.next_in_channel[m as usize], next);
        if known != NONE && known != next {
            let name = |m: u32| self.sent[m as usize].id;
            let text = format!(
                "{to} got {:?} after {:?}, another got {:?} there",
                name(next),
                name(m),
                name(known)
            );
            self.note(|v| &mut v.lost, || text);
        }
    }

    /// Everything sent to `channel` between two stamps must have arrived.
    fn nothing_missing(&mut self, slot: usize, channel: usize, from: u64, to: u64) {
        if from == 0 {
            return; // the join was never answered
        }
        let list = std::mem::take(&mut self.by_begin[channel]);
        let start = list.partition_point(|&m| self.sent[m as usize].begin < from);
        for &m in &list[start..] {
            let sent = self.sent[m as usize];
            if sent.begin > to {
                break;
            }
            if sent.returned != 0 && sent.returned <= to && !self.seen[slot][m as usize] {
                self.note(|v| &mut v.lost, || format!("{slot} missed {sent:?}"));
            }
        }
        self.by_begin[channel] = list;
    }

    /// Counts the messages on a cycle of the graph, or behind one.
    fn common_order(&mut self) {
        let placed = Graph::new(&self.sent, &self.edges).sort();
        self.verdict.order_violations = self.sent.len() as u64 - placed;
    }

    fn note(&mut self, counter: fn(&mut Verdict) -> &mut u64, text: impl FnOnce() -> String) {
        *counter(&mut self.verdict) += 1;
        if self.verdict.findings.len() < 8 {
            self.verdict.findings.push(text());
        }
    }
}

/// What is known while walking through one life.
struct Walk {
    slot: usize,
    memberships: Vec<Option<Membership>>,
    /// The last sequence number received of each sender's life.
    last_of: HashMap<(u32, u32), u32>,
    last: Option<u32>,
    newest: u64,
    ticket: u64,
}

impl Walk {
    fn new(slot: usize, channels: usize) -> Self {
        Self {
            slot,
            memberships: vec![None; channels],
            last_of: HashMap::new(),
            last: None,
            newest: 0,
            ticket: 0,
        }
    }

    fn at(&mut self, channel: u32) -> &mut Option<Membership> {
        let needed = self.memberships.len().max(channel as usize + 1);
        self.memberships.resize(needed, None);
        &mut self.memberships[channel as usize]
    }
}

/// The graph of the module's header: nodes `0..messages` are messages, then one per clock stamp.
struct Graph {
    messages: usize,
    /// Targets of node `n`: `targets[start[n]..start[n + 1]]`.
    start: Vec<u32>,
    targets: Vec<u32>,
    incoming: Vec<u32>,
}

impl Graph {
    fn new(sent: &[Sent], received: &[(u32, u32)]) -> Self {
        let messages = sent.len();
        let end = sent.iter().map(|m| m.begin.max(m.returned)).max();
        let clock = |stamp: u64| (messages as u64 + stamp) as u32;
        let nodes = messages + 1 + end.unwrap_or(0) as usize;
        let ticks = (messages as u32..nodes as u32 - 1).map(|n| (n, n + 1));
        let sends = (0u32..).zip(sent).flat_map(|(m, s)| {
            let returned = (s.returned != 0).then(|| (m, clock(s.returned)));
            [Some((clock(s.begin), m)), returned].into_iter().flatten()
        });
        let edges: Vec<(u32, u32)> = received.iter().copied().chain(ticks).chain(sends).collect();
        Self::from_edges(messages, nodes, &edges)
    }

    fn from_edges(messages: usize, nodes: usize, edges: &[(u32, u32)]) -> Self {
        let (mut start, mut incoming) = (vec![0u32; nodes + 1], vec![0u32; nodes]);
        for &(from, to) in edges {
            start[from as usize + 1] += 1;
            incoming[to as usize] += 1;
        }
        for n in 0..nodes {
            start[n + 1] += start[n];
        }
        let (mut at, mut targets) = (start.clone(), vec![0; edges.len()]);
        for &(from, to) in edges {
            targets[at[from as usize] as usize] = to;
            at[from as usize] += 1;
        }
        Self {
            messages,
            start,
            targets,
            incoming,
        }
    }

    /// How many messages find a place when nodes are taken in order.
    fn sort(mut self) -> u64 {
        let nodes = 0..self.incoming.len() as u32;
        let mut ready: Vec<u32> = nodes.filter(|&n| self.incoming[n as usize] == 0).collect();
        let mut placed = 0;
        while let Some(node) = ready.pop() {
            let node = node as usize;
            placed += u64::from(node < self.messages);
            for &next in &self.targets[self.start[node] as usize..self.start[node + 1] as usize] {
                self.incoming[next as usize] -= 1;
                if self.incoming[next as usize] == 0 {
                    ready.push(next);
                }
            }
        }
        placed
    }
}
