//! What a browser's page does, without the browser.

use std::net::TcpStream;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tungstenite::client::IntoClientRequest;
use tungstenite::{Error, Message, WebSocket};

use super::server::{Demo, PATIENCE};

/// A line as the page shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    pub text: String,
    pub user: String,
    mid: String,
    place: (u64, u64),
}

impl Line {
    fn from(value: &Value) -> Line {
        let field = |name: &str| value[name].as_str().expect(name).to_owned();
        let place = field("place");
        let (ticket, seq) = place.split_once('.').expect("TICKET.SEQ");
        Line {
            text: field("text"),
            user: field("user"),
            mid: field("mid"),
            place: (ticket.parse().unwrap(), seq.parse().unwrap()),
        }
    }
}

/// A page in one room, and what it has been told.
pub struct Page {
    pub id: String,
    pub worker: u64,
    pub pid: u32,
    socket: WebSocket<TcpStream>,
    ended: bool,
    goodbye: bool,
    room: String,
    shown: bool,
    lines: Vec<Line>,
    said: usize,
    people: Value,
    places: Value,
    pub stats: Value,
    /// Notices, if they are expected.
    pub notices: Vec<String>,
    keep_notices: bool,
}

impl Page {
    /// Connects to whichever worker takes the connection.
    pub fn open(demo: &Demo, id: &str) -> Page {
        let start = Instant::now();
        loop {
            // A worker may die with a connection that it has just taken.
            if let Some(page) = Page::try_open(demo.port, id) {
                return page;
            }
            assert!(start.elapsed() < PATIENCE, "no worker takes {id}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Connects until the worker is none of `others`.
    pub fn open_elsewhere(demo: &Demo, id: &str, others: &[u64]) -> Page {
        let start = Instant::now();
        loop {
            let page = Page::open(demo, id);
            if !others.contains(&page.worker) {
                return page;
            }
            assert!(start.elapsed() < PATIENCE, "always the same worker");
        }
    }

    fn try_open(port: u16, id: &str) -> Option<Page> {
        let stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
        let url = format!("ws://127.0.0.1:{port}/ws?id={id}&name={id}");
        let (socket, _) = tungstenite::client(url.into_client_request().unwrap(), stream).ok()?;
        socket
            .get_ref()
            .set_read_timeout(Some(Duration::from_millis(50)))
            .ok()?;
        let mut page = Page {
            id: id.to_owned(),
            worker: u64::MAX,
            pid: 0,
            socket,
            ended: false,
            goodbye: false,
            room: String::new(),
            shown: false,
            lines: Vec::new(),
            said: 0,
            people: Value::Null,
            places: Value::Null,
            stats: Value::Null,
            notices: Vec::new(),
            keep_notices: false,
        };
        let start = Instant::now();
        while page.pid == 0 && !page.ended && start.elapsed() < PATIENCE {
            page.read();
        }
        (page.pid != 0).then_some(page)
    }

    /// Reads one frame, or waits a moment in vain.
    fn read(&mut self) {
        if self.ended {
            return;
        }
        match self.socket.read() {
            Ok(Message::Text(text)) => {
                let frame = serde_json::from_str(&text).expect("frames are JSON");
                self.take(frame);
            }
            Ok(Message::Close(_)) => self.ended = true,
            Ok(_) => {}
            Err(Error::Io(e))
                if matches!(
                    e.kind(),
                    std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut
                ) => {}
            Err(_) => self.ended = true,
        }
    }

    fn take(&mut self, frame: Value) {
        let ours = frame["room"] == self.room.as_str();
        match frame["t"].as_str().expect("a kind") {
            "hello" => {
                self.worker = frame["seat"]["worker"].as_u64().expect("a worker");
                self.pid = frame["pid"].as_u64().expect("a pid") as u32;
            }
            "room" if ours => {
                self.shown = true;
                for line in frame["lines"].as_array().unwrap() {
                    self.show(Line::from(line));
                }
            }
            "line" if ours => self.show(Line::from(&frame["line"])),
            "people" if ours => self.people = frame["people"].clone(),
            "places" => self.places = frame,
            "stats" => self.stats = frame,
            "bye" => self.goodbye = true,
            "notice" if self.keep_notices => {
                let text = frame["text"].as_str().unwrap();
                self.notices.push(text.to_owned());
            }
            "notice" | "refused" => panic!("{}: {frame}", self.id),
            _ => {}
        }
    }

    /// As the page does: a line that it has already is not shown again.
    fn show(&mut self, line: Line) {
        let same = |l: &Line| (&l.user, &l.mid) == (&line.user, &line.mid);
        if !self.lines.iter().any(same) {
            self.lines.push(line);
        }
    }

    /// Notices are expected from here on; before, one fails the test.
    pub fn keep_notices(&mut self) {
        self.keep_notices = true;
    }

    /// Reads until `probe` gives something.
    pub fn wait<T>(&mut self, what: &str, probe: impl Fn(&Page) -> Option<T>) -> T {
        let start = Instant::now();
        loop {
            if let Some(found) = probe(self) {
                return found;
            }
            assert!(
                start.elapsed() < PATIENCE,
                "{} waited in vain for {what}; ended: {}; lines: {:#?}; people: {}; places: {}; stats: {}",
                self.id,
                self.ended,
                self.lines,
                self.people,
                self.places,
                self.stats
            );
            self.read();
        }
    }

    /// Sends anything.
    pub fn send_raw(&mut self, text: &str) {
        self.socket
            .send(Message::text(text))
            .expect("the worker listens");
    }

    fn send(&mut self, request: &Value) {
        self.send_raw(&request.to_string());
    }

    /// Goes to a room, and waits until it is shown.
    pub fn enter(&mut self, room: &str) {
        self.room = room.to_owned();
        self.lines.clear();
        self.shown = false;
        self.people = Value::Null;
        self.send(&json!({"t": "enter", "room": room}));
        self.wait("the room", |page| page.shown.then_some(()));
    }

    /// Says something, without waiting for it to be seen.
    pub fn say(&mut self, text: &str) {
        self.said += 1;
        self.send(&json!({"t": "say", "mid": self.said.to_string(), "text": text}));
    }

    /// Presses the button.
    pub fn kill_worker(&mut self) {
        self.send(&json!({"t": "kill"}));
    }

    /// Connects again and asks for what was missed.
    pub fn reconnect(&mut self, demo: &Demo) {
        self.adopt(Page::open(demo, &self.id.clone()));
    }

    /// Connects to another worker before it lets go of this one.
    pub fn move_elsewhere(&mut self, demo: &Demo, from: u64) {
        self.adopt(Page::open_elsewhere(demo, &self.id.clone(), &[from]));
    }

    fn adopt(&mut self, next: Page) {
        let old = std::mem::replace(self, next);
        (self.room, self.lines, self.said) = (old.room, old.lines, old.said);
        self.send(&json!({"t": "enter", "room": self.room}));
        self.wait("the room", |page| page.shown.then_some(()));
    }

    /// Leaves as a closed window does.
    pub fn close(mut self) {
        let _ = self.socket.close(None);
        let _ = self.socket.flush();
    }

    /// Lines so far, in the order in which they came.
    pub fn arrived(&self) -> &[Line] {
        &self.lines
    }

    /// Lines so far, in the order in which they are shown.
    pub fn lines(&self) -> Vec<Line> {
        let mut lines = self.lines.clone();
        lines.sort_by_key(|line| line.place);
        lines
    }

    /// Waits until there are `count` lines; there must not be more.
    pub fn wait_for_lines(&mut self, count: usize) -> Vec<Line> {
        self.wait("lines", |page| (page.lines.len() >= count).then_some(()));
        assert_eq!(self.lines.len(), count, "{:#?}", self.lines);
        self.lines()
    }

    /// Waits until exactly these are in the room and none of them is away.
    pub fn wait_for_people(&mut self, ids: &[&str]) {
        self.wait("people", |page| {
            let people = page.people.as_array()?;
            let here = people.iter().filter(|p| p["away"] == false);
            (people.len() == ids.len()
                && here
                    .map(|p| p["id"].as_str().unwrap())
                    .eq(ids.iter().copied()))
            .then_some(())
        });
    }

    /// Waits until exactly these rooms have so many people.
    pub fn wait_for_rooms(&mut self, rooms: &[(&str, u64)]) {
        let wanted: Value = rooms
            .iter()
            .map(|(name, people)| json!({"name": name, "people": people}))
            .collect();
        self.wait("rooms", |page| {
            (page.places["rooms"] == wanted).then_some(())
        });
    }

    /// Waits until a worker is there whose pid is right.
    pub fn wait_for_worker(&mut self, worker: u64, right: impl Fn(u32) -> bool) {
        self.wait("a worker", |page| {
            let workers = page.places["workers"].as_array()?;
            let found = workers.iter().find(|w| w["seat"]["worker"] == worker)?;
            right(found["pid"].as_u64()? as u32).then_some(())
        });
    }

    /// Waits for counters that are right.
    pub fn wait_for_stats(&mut self, right: impl Fn(&Value) -> bool) -> Value {
        self.wait("counters", |page| {
            right(&page.stats).then(|| page.stats.clone())
        })
    }

    /// Waits until the connection has ended.
    pub fn wait_for_end(&mut self) {
        self.wait("the end of the connection", |page| page.ended.then_some(()));
    }

    /// Waits until the server has said goodbye and closed the connection.
    pub fn wait_for_goodbye(&mut self) {
        self.wait("goodbye", |page| (page.goodbye && page.ended).then_some(()));
    }

    /// Whether the connection has ended, as far as has been read.
    pub fn ended(&self) -> bool {
        self.ended
    }

    /// Waits until no worker announces anybody.
    pub fn wait_until_nobody_is_left(demo: &Demo) {
        let mut page = Page::open(demo, "observer");
        page.wait("empty rooms", |p| {
            p.places["rooms"]
                .as_array()
                .filter(|r| r.is_empty())
                .map(drop)
        });
        page.close();
    }
}
