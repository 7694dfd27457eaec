// What is seen. Text from others enters the page as text only, never as markup.

const $ = (id) => document.getElementById(id);
const LINES_SHOWN = 500;

/** An element with a class and children (strings become text). */
function make(tag, className, ...children) {
  const element = document.createElement(tag);
  if (className) element.className = className;
  element.append(...children);
  return element;
}

/** Spreads small numbers over the colour circle. */
const workerHue = (worker) => Math.round((worker * 137.5 + 220) % 360);

function nameHue(id) {
  let hash = 0;
  for (const c of id) hash = (hash * 31 + c.codePointAt(0)) % 360;
  return hash;
}

function withHue(element, hue) {
  element.style.setProperty("--hue", hue);
  return element;
}

function seatTag(seat) {
  const tag = make("span", "seat", `w${seat.worker}`);
  tag.title = `worker ${seat.worker}, core ${seat.core}`;
  return withHue(tag, workerHue(seat.worker));
}

function bdi(text, className) {
  return make("bdi", className, text);
}

export function status(state, text) {
  $("status").dataset.state = state;
  $("status").textContent = text;
}

export function served(seat, pid) {
  $("seat").replaceChildren(
    make("strong", "", `worker ${seat.worker}`),
    make("span", "", `core ${seat.core} · pid ${pid}`),
  );
}

export function connected(yes) {
  $("kill").disabled = $("move").disabled = !yes;
}

export function rooms(list, current, choose) {
  const entry = ({ name, people }) => {
    const label = make("span", "", "# ", bdi(name));
    const button = make("button", "", label, make("span", "", String(people || "")));
    button.type = "button";
    if (name === current) button.setAttribute("aria-current", "true");
    button.addEventListener("click", () => choose(name));
    return make("li", "", button);
  };
  const focused = document.activeElement?.closest("#rooms li");
  const index = focused ? [...$("rooms").children].indexOf(focused) : -1;
  $("rooms").replaceChildren(...list.map(entry));
  $("rooms").children[index]?.firstChild.focus();
}

export function people(list, me) {
  const entry = ({ id, name, seat, away }) => {
    const label = bdi(name, "name");
    label.title = name;
    const note = id === me ? "you" : away ? "reconnecting…" : "";
    return make("li", away ? "away" : "", withHue(label, nameHue(id)), note, seatTag(seat));
  };
  $("people").replaceChildren(...list.map(entry));
}

export function workers(list, total, mine) {
  const entry = (worker) => {
    const load = list.find((l) => l.seat.worker === worker);
    const seat = load?.seat ?? { worker, core: 0 };
    const pages = load && `${load.users} ${load.users === 1 ? "page" : "pages"}`;
    const detail = make("span", "detail", load ? `pid ${load.pid} · ${pages}` : "restarting…");
    const you = make("span", "you", mine?.worker === worker ? "you" : "");
    return make("li", load ? "" : "gone", seatTag(seat), detail, you);
  };
  $("workers").replaceChildren(...Array.from({ length: total }, (_, worker) => entry(worker)));
}

const COUNTERS = [
  ["messages", "messages sent", true],
  ["deliveries", "deliveries", true],
  ["wakes", "wakes", true],
  ["lost", "lost (lag)", false],
  ["cores", "cores attached", false],
  ["reaped", "workers reaped", false],
  ["channels", "channels", false],
  ["subscriptions", "subscriptions", false],
];

export function counters(now, before, seconds) {
  const rows = COUNTERS.flatMap(([key, label, rated]) => {
    const rate = rated && before && seconds > 0 ? (now[key] - before[key]) / seconds : null;
    const alarm = key === "lost" && now.lost > 0 ? "alarm" : "";
    return [
      make("dt", "", label),
      make("dd", alarm, now[key].toLocaleString()),
      make("dd", "rate", rate === null ? "" : `${Math.round(rate).toLocaleString()}/s`),
    ];
  });
  $("counters").replaceChildren(...rows);
}

/** Runs `change`, and keeps the newest line in view if it was. */
function following(change) {
  const [log, list] = [$("log"), $("lines")];
  const atEnd = log.scrollHeight - log.scrollTop - log.clientHeight < 40;
  change(list);
  while (list.childElementCount > LINES_SHOWN) list.firstElementChild.remove();
  if (atEnd) log.scrollTop = log.scrollHeight;
}

export function emptyLines(room) {
  $("room-title").textContent = `# ${room}`;
  $("lines").replaceChildren();
  document.title = `#${room} · corecast demo`;
}

/** Puts a line where it belongs; `after(a, b)` compares places. */
export function line({ place, at, seat, user, name, text }, me, after) {
  const time = make("time", "", new Date(at).toLocaleTimeString());
  time.dateTime = new Date(at).toISOString();
  time.title = `ticket ${place}`;
  const who = withHue(bdi(name, "who"), nameHue(user));
  const item = make("li", user === me ? "mine" : "", time, seatTag(seat), who, bdi(text));
  item.dataset.place = place;
  following((list) => {
    let before = list.lastElementChild;
    while (before && (before.classList.contains("pending") || after(before.dataset.place, place))) {
      before = before.previousElementSibling;
    }
    if (before) before.after(item);
    else list.prepend(item);
  });
}

export function pendingLine(name, text) {
  const item = make("li", "mine pending", bdi(name, "who"), bdi(text));
  following((list) => list.append(item));
  return item;
}

export function notice(text) {
  following((list) => list.append(make("li", "notice", text)));
}
