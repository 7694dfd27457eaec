// The page's side of the conversation: one WebSocket to one worker, and what to
// do when that worker dies. See wire.rs for the frames.

import * as view from "/view.js";

const $ = (id) => document.getElementById(id);
const SILENCE_MS = 6000; // counters come twice a second
const FIRST_RETRY_MS = 60;
const LONGEST_RETRY_MS = 3000;
const MOVES = 6;

const me = {
  // One for each load of the page: a duplicated window is another visitor.
  id: randomHex(12),
  name: sessionStorage.getItem("name") || randomName(),
};
let room = roomFromHash();
let socket = null; // the one that counts; others are ignored
let server = null; // its worker: { seat, pid }
let lost = null; // the worker that was lost, and when
let asked = null; // "kill" while our own request to die is under way
let entered = false; // the worker has shown us the room
let retries = 0;
let heardAt = 0;
let hub = null; // which run of the server: places of two runs do not compare
let total = 0; // workers
let loads = [];
let roomList = [];
let stats = null;
const seen = new Set(); // ids of lines shown in this room
const pending = new Map(); // own lines not seen back yet: id -> { text, item }
let sent = 0;

function randomHex(bytes) {
  const numbers = crypto.getRandomValues(new Uint8Array(bytes));
  return Array.from(numbers, (n) => n.toString(16).padStart(2, "0")).join("");
}

function randomName() {
  const pick = (words) => words[Math.floor(Math.random() * words.length)];
  const first = pick(["Amber", "Brisk", "Calm", "Dusty", "Early", "Fair", "Gentle", "Hazel", "Ivory", "Jolly", "Keen", "Lucky"]);
  const second = pick(["Badger", "Crane", "Dolphin", "Finch", "Heron", "Lynx", "Marten", "Otter", "Puffin", "Raven", "Stork", "Wren"]);
  return `${first} ${second}`;
}

function roomFromHash() {
  try {
    return cleanRoom(decodeURIComponent(location.hash.slice(1))) || "lobby";
  } catch {
    return "lobby";
  }
}

/** As the worker does it, so that both mean the same room. */
function cleanRoom(name) {
  const flat = name.replace(/\p{Cc}/gu, " ").trim();
  return [...flat].slice(0, 40).join("").trimEnd();
}

/** Whether place a comes after place b ("TICKET.SEQ"; 64 bits each). */
function after(a, b) {
  if (!a || !b) return false;
  const [ta, sa] = a.split(".").map(BigInt);
  const [tb, sb] = b.split(".").map(BigInt);
  return ta > tb || (ta === tb && sa > sb);
}

// ---- connection

function open(onFrame, onClose) {
  const scheme = location.protocol === "https:" ? "wss" : "ws";
  const query = new URLSearchParams({ id: me.id, name: me.name });
  const ws = new WebSocket(`${scheme}://${location.host}/ws?${query}`);
  ws.onmessage = (event) => onFrame(ws, JSON.parse(event.data));
  ws.onclose = () => onClose(ws);
  return ws;
}

function connect() {
  heardAt = performance.now();
  socket = open(take, closed);
}

function tell(request) {
  if (socket?.readyState !== WebSocket.OPEN) return false;
  socket.send(JSON.stringify(request));
  return true;
}

function closed(ws) {
  if (ws !== socket) return;
  socket = null;
  entered = false;
  view.connected(false);
  if (server) lost = { ...server, at: performance.now(), killed: asked === "kill" };
  server = null;
  asked = null;
  if (lost && retries === 0) view.status("wait", `worker ${lost.seat.worker} is gone, reconnecting…`);
  else view.status("off", "no server; trying again…");
  // Spread out: all pages of a dead worker come back at once.
  const delay = Math.min(FIRST_RETRY_MS * 2 ** retries, LONGEST_RETRY_MS);
  retries += 1;
  setTimeout(() => socket ?? connect(), delay * (0.5 + Math.random()));
}

function checkSilence() {
  if (socket && performance.now() - heardAt > SILENCE_MS) {
    const ws = socket;
    ws.close(); // may take long if the worker does not answer
    closed(ws);
  }
}

/** Opens a second connection before it gives up the first; the worker that has
    us already counts us, so another one is likely to take it. */
function move(left = MOVES) {
  const from = server?.seat.worker;
  const next = open((ws, frame) => {
    if (ws === socket) return take(ws, frame);
    if (frame.t !== "hello") return;
    if (frame.seat.worker === from && left > 1) {
      ws.close();
      move(left - 1);
    } else if (frame.seat.worker === from) {
      ws.close();
      view.notice("No other worker took the connection.");
    } else {
      const old = socket;
      socket = ws;
      old?.close();
      take(ws, frame);
      view.notice(`Moved from worker ${from} to worker ${frame.seat.worker}.`);
    }
  }, closed);
  return next;
}

// ---- frames from the worker

function take(ws, frame) {
  if (ws !== socket) return;
  heardAt = performance.now();
  takers[frame.t]?.(frame);
}

const takers = {
  hello({ seat, pid, workers, hub: run, name }) {
    if (hub !== null && hub !== run) {
      startRoom();
      view.notice("The server has been started anew.");
      lost = stats = null;
    }
    hub = run;
    server = { seat, pid };
    total = workers;
    entered = false;
    retries = 0;
    me.name = name;
    view.served(seat, pid);
    view.status("on", `connected to worker ${seat.worker}`);
    view.connected(true);
    tell({ t: "enter", room });
  },

  // The last lines of the room, seen or not. By what is new among them a page
  // that was away is up to date; by none being old it knows that more is lost.
  room({ room: name, lines, full }) {
    if (name !== room) return;
    entered = true;
    const missed = full && seen.size > 0 && !lines.some((line) => seen.has(keyOf(line)));
    if (missed) view.notice("Some lines are missing here.");
    lines.forEach(show);
    if (lost) {
      const ms = Math.round(performance.now() - lost.at);
      const what = lost.killed ? "was killed" : "is gone";
      view.notice(
        `Worker ${lost.seat.worker} (pid ${lost.pid}) ${what}. ` +
          `Back after ${ms} ms on worker ${server.seat.worker} (pid ${server.pid}).`,
      );
      lost = null;
    }
    sendPending();
  },

  line({ room: name, line }) {
    if (name === room) show(line);
  },

  people({ room: name, people }) {
    if (name === room) view.people(people, me.id);
  },

  places(frame) {
    roomList = frame.rooms;
    loads = frame.workers;
    showPlaces();
  },

  stats({ t, ...counters }) {
    const now = performance.now();
    view.counters(counters, stats?.counters, (now - stats?.at) / 1000);
    stats = { counters, at: now };
  },

  notice: ({ text }) => view.notice(text),

  refused({ mid, text }) {
    if (!pending.has(mid)) return view.notice(text);
    view.notice(`Not sent: ${text}`);
    pending.get(mid).item.remove();
    const draft = pending.get(mid).text;
    pending.delete(mid);
    $("text").value ||= draft;
  },

  bye() {
    server = null;
    view.status("off", "the server stops");
  },
};

// ---- lines

const keyOf = (line) => `${line.user} ${line.mid}`;

function show(line) {
  if (line.user === me.id) {
    pending.get(line.mid)?.item.remove();
    pending.delete(line.mid);
  }
  if (seen.has(keyOf(line))) return;
  seen.add(keyOf(line));
  view.line(line, me.id, after);
}

function say(text) {
  const mid = `${++sent}`;
  pending.set(mid, { text, item: view.pendingLine(me.name, text) });
  if (entered) tell({ t: "say", mid, text });
}

/** What the worker may not have passed on before it died. Lines that it did pass
    on were in the room's history and are no longer pending. */
function sendPending() {
  for (const [mid, { text }] of pending) tell({ t: "say", mid, text });
}

// ---- rooms

function showPlaces() {
  const list = [...roomList];
  for (const name of ["lobby", room]) {
    if (!list.some((r) => r.name === name)) list.push({ name, people: 0 });
  }
  view.rooms(list, room, enter);
  view.workers(loads, total, server?.seat);
}

function enter(name) {
  name = cleanRoom(name);
  if (name === "" || name === room) return;
  room = name;
  location.hash = encodeURIComponent(name);
  startRoom();
  tell({ t: "enter", room });
}

function startRoom() {
  entered = false;
  seen.clear();
  pending.clear();
  view.emptyLines(room);
  view.people([], me.id);
  showPlaces();
}

// ---- controls

function onSubmit(form, input, act) {
  $(form).addEventListener("submit", (event) => {
    event.preventDefault();
    const text = $(input).value.trim();
    if (text) act(text);
  });
}

onSubmit("say-form", "text", (text) => {
  $("text").value = "";
  say(text);
});

onSubmit("room-form", "new-room", (name) => {
  $("new-room").value = "";
  enter(name);
  $("text").focus();
});

onSubmit("name-form", "name", (name) => {
  me.name = name;
  sessionStorage.setItem("name", name);
  tell({ t: "name", name });
  $("text").focus();
});

$("kill").addEventListener("click", () => {
  asked = "kill";
  tell({ t: "kill" });
});
$("move").addEventListener("click", () => move());
window.addEventListener("hashchange", () => enter(roomFromHash()));
// Timers of a hidden window may be held back: do not wait for them.
document.addEventListener("visibilitychange", () => {
  if (!document.hidden && !socket) connect();
});
setInterval(checkSilence, 1000);

sessionStorage.setItem("name", me.name);
$("name").value = me.name;
view.connected(false);
startRoom();
connect();
if (matchMedia("(min-width: 901px)").matches) $("text").focus();
