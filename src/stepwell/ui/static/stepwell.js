// What a page does by itself: it stays as the file is, shows times as they are wanted, and can be used without a mouse.
// Everything works without it but that. No number of a payload passes here: what is shown comes as text.
"use strict";

const base = document.body.dataset.base || "";
const pick = (selector, within = document) => within.querySelector(selector);
const all = (selector, within = document) => [...within.querySelectorAll(selector)];

// --- what somebody chose, kept in the browser -------------------------------------------------------------------------

const store = {
  get(name) { try { return localStorage.getItem("stepwell-" + name); } catch { return null; } },
  set(name, value) { try { localStorage.setItem("stepwell-" + name, value); } catch { /* a browser that keeps nothing */ } },
};

function switchTheme() {
  const root = document.documentElement;
  const isDark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  root.dataset.theme = isDark ? "light" : "dark";
  // A cookie, so that the next page comes in these colours and does not flash in others first.
  document.cookie = `stepwell-theme=${root.dataset.theme}; path=${base || "/"}; max-age=31536000; samesite=strict`;
}

// --- times ------------------------------------------------------------------------------------------------------------

const zones = ["local", "utc", "ago"];
const zoneNames = { local: "Local time", utc: "UTC", ago: "How long ago" };
let zone = zones.includes(store.get("zone")) ? store.get("zone") : "local";
const two = (number) => String(number).padStart(2, "0");

function span(seconds) {
  const size = Math.abs(seconds);
  if (size < 1) return `${Math.round(size * 1000)} ms`;
  if (size < 60) return `${size.toFixed(size < 10 ? 1 : 0)} s`;
  if (size < 3600) return `${Math.floor(size / 60)} min ${Math.floor(size % 60)} s`;
  if (size < 86400) return `${Math.floor(size / 3600)} h ${Math.floor((size % 3600) / 60)} min`;
  return `${Math.floor(size / 86400)} d ${Math.floor((size % 86400) / 3600)} h`;
}

// One unit is enough to tell how far away something is; the title has it to the microsecond.
function away(at) {
  const seconds = (Date.now() - at) / 1000;
  const size = Math.abs(seconds);
  const [unit, length] = size < 60 ? ["s", 1] : size < 3600 ? ["min", 60] : size < 172800 ? ["h", 3600] : ["d", 86400];
  const words = `${Math.floor(size / length)} ${unit}`;
  return seconds < 0 ? `in ${words}` : `${words} ago`;
}

// Of today the clock only, of this year no year: what all rows of a list share need not be read in each.
const months = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
function written(at, exact, fine) {
  if (zone === "ago") return away(at);
  const utc = zone === "utc";
  const part = (name, from = at) => (utc ? from["getUTC" + name]() : from["get" + name]());
  const clock = `${two(part("Hours"))}:${two(part("Minutes"))}:${two(part("Seconds"))}${fine ? `.${exact.slice(20, 23)}` : ""}${utc ? "Z" : ""}`;
  const now = new Date();
  if (part("FullYear") !== part("FullYear", now)) return `${part("FullYear")}-${two(part("Month") + 1)}-${two(part("Date"))} ${clock}`;
  const today = part("Month") === part("Month", now) && part("Date") === part("Date", now);
  return today ? clock : `${part("Date")} ${months[part("Month")]} ${clock}`;
}

function showTimes(within = document) {
  for (const each of all("time[data-at]", within)) {
    const exact = each.getAttribute("datetime");
    const at = new Date(exact);
    const text = written(at, exact, each.dataset.at === "fine");
    if (each.textContent !== text) each.textContent = text;
    const title = zone === "ago" ? exact : `${exact}, ${away(at)}`;
    if (each.title !== title) each.title = title;
  }
  for (const each of all("[data-ago]", within)) {
    const text = zone === "ago" ? "" : away(new Date(each.dataset.ago));
    if (each.textContent !== text) each.textContent = text;
  }
  for (const each of all("time[data-left]", within)) {
    const left = (new Date(each.getAttribute("datetime")) - Date.now()) / 1000;
    const text = left > 0 ? `${away(Date.now() + left * 1000).slice(3)} left` : "due";
    if (each.textContent !== text) each.textContent = text;
  }
  for (const each of all("time[data-since]", within)) {
    each.textContent = span((Date.now() - new Date(each.getAttribute("datetime"))) / 1000);
  }
}

function switchZone() {
  zone = zones[(zones.indexOf(zone) + 1) % zones.length];
  store.set("zone", zone);
  pick("[data-zone]").textContent = zoneNames[zone];
  showTimes();
}

// --- staying as the file is -------------------------------------------------------------------------------------------
// The page asks for itself again. Where something is another, only that is changed in the tree: nothing flickers, what is
// selected, open or being typed stays.

const isOwn = (node) => node.nodeType === 1 && node.matches("input, textarea, select, datalist, dialog, [data-own]");
const keyOf = (node) => (node.nodeType === 1 ? node.dataset.key || node.dataset.id || "" : "");

function alike(one, other) {
  return one.nodeType === other.nodeType && one.nodeName === other.nodeName && keyOf(one) === keyOf(other);
}

function become(old, fresh) {
  if (old.nodeType !== 1) {
    if (old.nodeValue !== fresh.nodeValue) old.nodeValue = fresh.nodeValue;
    return;
  }
  if (isOwn(old)) {
    // What nobody has typed into yet follows what the page says.
    if (old.nodeName === "INPUT" && old !== document.activeElement && old.value === old.defaultValue && old.defaultValue !== fresh.defaultValue) old.defaultValue = fresh.defaultValue;
    return;
  }
  if (old.nodeName === "TIME" && old.getAttribute("datetime") === fresh.getAttribute("datetime")) return;
  if (old.dataset?.ago && old.dataset.ago === fresh.dataset.ago) return;
  for (const { name, value } of [...fresh.attributes]) {
    if (name === "open" && old.dataset.id) continue;
    if (old.getAttribute(name) !== value) old.setAttribute(name, value);
  }
  for (const { name } of [...old.attributes]) {
    if (!fresh.hasAttribute(name) && name !== "open" && name !== "style" && name !== "data-here" && name !== "title") old.removeAttribute(name);
  }
  children(old, fresh);
}

function children(old, fresh) {
  const keyed = new Map();
  for (const child of old.children) if (keyOf(child)) keyed.set(keyOf(child), child);
  let at = old.firstChild;
  for (const next of [...fresh.childNodes]) {
    const key = keyOf(next);
    const kept = key ? keyed.get(key) : null;
    if (kept && kept !== at && kept.nodeName === next.nodeName) {
      old.insertBefore(kept, at);
      become(kept, next);
    } else if (at && alike(at, next)) {
      const following = at.nextSibling;
      become(at, next);
      at = following;
    } else {
      old.insertBefore(next, at);
    }
  }
  while (at) {
    const following = at.nextSibling;
    at.remove();
    at = following;
  }
}

const live = { mark: null, wait: 2000, timer: 0, failures: 0 };

async function refresh() {
  clearTimeout(live.timer);
  if (!document.hidden && !pick("main [data-still]")) {
    const began = performance.now();
    try {
      const headers = { "X-Stepwell-Live": "1" };
      if (live.mark) headers["If-None-Match"] = live.mark;
      const answer = await fetch(location.href, { headers, cache: "no-store" });
      if (answer.status === 401) return void location.reload();
      if (answer.status === 200) {
        live.mark = answer.headers.get("ETag");
        const fresh = new DOMParser().parseFromString(await answer.text(), "text/html").querySelector("main");
        if (fresh) {
          const said = pick("main > .said");
          if (said) fresh.querySelector(":scope > .said")?.remove(), fresh.prepend(said.cloneNode(true));
          children(pick("main"), fresh);
          showTimes(pick("main"));
          mark(here);
        }
      }
      live.failures = answer.ok || answer.status === 304 ? 0 : live.failures + 1;
    } catch {
      live.failures += 1;
    }
    // A page that is dear to make is asked for less often: at most a twentieth of the time goes into it.
    live.wait = Math.min(60000, Math.max(2000, (performance.now() - began) * 20) * (1 + live.failures));
  }
  live.timer = setTimeout(refresh, live.wait);
}

async function counts() {
  const chips = pick("[data-counts]");
  if (!chips || document.hidden) return;
  const began = performance.now();
  if (chips.hasAttribute("data-unknown")) {
    try {
      const answer = await fetch(chips.dataset.counts, { headers: { "X-Stepwell-Live": "1" } });
      if (answer.ok) {
        const found = await answer.json();
        for (const each of all("[data-count]", chips)) {
          const text = found[each.dataset.count] ?? "";
          if (each.textContent !== text) each.textContent = text;
        }
      }
    } catch { /* the next time */ }
  }
  announce(chips);
  setTimeout(counts, Math.max(5000, (performance.now() - began) * 40));
}

// What needs somebody is said to who listens instead of looking, when it changes.
let announced = null;
function announce(chips) {
  const text = ["failed", "halted", "paused"].map((name) => `${pick(`[data-count="${name}"]`, chips)?.textContent || 0} ${name}`).join(", ");
  if (announced !== null && announced !== text) pick("#announcer").textContent = `Runs: ${text}`;
  announced = text;
}

// --- keys -------------------------------------------------------------------------------------------------------------

let here = null;
const rows = () => all("main [data-keys] > tbody > tr[data-key], main ol[data-keys] > li[data-key]");

function mark(key, scroll = false) {
  here = key;
  for (const each of rows()) {
    each.toggleAttribute("data-here", each.dataset.key === key);
    if (scroll && each.dataset.key === key) each.scrollIntoView({ block: "nearest" });
  }
}

function move(step) {
  const found = rows();
  if (!found.length) return;
  const at = found.findIndex((each) => each.dataset.key === here);
  const next = found[Math.min(found.length - 1, Math.max(0, at < 0 ? 0 : at + step))];
  mark(next.dataset.key, true);
  pick("a", next)?.focus({ preventScroll: true });
}

function onKey(event) {
  if ((event.ctrlKey || event.metaKey) && event.key === "k") {
    event.preventDefault();
    return void palette();
  }
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.closest("input, textarea, select, dialog")) return;
  if (event.key === "j" || event.key === "k") move(event.key === "j" ? 1 : -1);
  else if (event.key === "/") {
    const box = pick("[data-filter]");
    event.preventDefault();
    if (box) box.select();
    else location.href = `${base}/runs`;
  } else if (event.key === "g") palette();
  else if (event.key === "?") palette("?");
}

// --- the palette: pages, acts of this page, runs by the beginning of their ids -----------------------------------------

function palette(begun = "") {
  let box = pick("dialog.palette");
  if (!box) {
    box = document.createElement("dialog");
    box.className = "palette";
    box.setAttribute("aria-label", "Go to");
    box.innerHTML = '<input aria-label="Where to, or the beginning of a run\'s id" placeholder="A page, an act, the beginning of a run\'s id" autocomplete="off" spellcheck="false" role="combobox" aria-expanded="true" aria-controls="offered" aria-autocomplete="list"><ul id="offered" role="listbox" aria-label="Places and acts"></ul><p role="status"></p>';
    document.body.append(box);
    const input = pick("input", box);
    input.addEventListener("input", () => offer(box, input.value));
    input.addEventListener("keydown", (event) => {
      const found = all("li", box);
      const at = found.findIndex((each) => each.getAttribute("aria-selected") === "true");
      if (event.key === "ArrowDown" || event.key === "ArrowUp") {
        event.preventDefault();
        found[at]?.setAttribute("aria-selected", "false");
        const next = found[(at + (event.key === "ArrowDown" ? 1 : -1) + found.length) % found.length];
        next?.setAttribute("aria-selected", "true");
        next?.scrollIntoView({ block: "nearest" });
        if (next) input.setAttribute("aria-activedescendant", next.id);
      } else if (event.key === "Enter") {
        event.preventDefault();
        found[at]?.click();
      }
    });
    box.addEventListener("click", (event) => { if (event.target === box) box.close(); });
  }
  if (!box.open) box.showModal();
  const input = pick("input", box);
  input.value = begun === "?" ? "" : begun;
  offer(box, input.value);
}

let offering = 0;
async function offer(box, text) {
  const number = ++offering;
  const low = text.toLowerCase();
  const found = all(".top nav a").map((each) => ({ name: each.textContent.trim(), hint: "page", go: () => (location.href = each.href) }));
  for (const { name, filter } of views.all()) found.push({ name, hint: "view", go: () => (location.href = `${base}/runs?filter=${encodeURIComponent(filter)}`) });
  for (const each of all("details.act > summary")) {
    found.push({ name: each.textContent.trim(), hint: "this run", go: () => { box.close(); each.parentElement.open = true; pick("input:not([type=hidden]), textarea, button", each.parentElement)?.focus(); } });
  }
  found.push({ name: "Light or dark", hint: "", go: () => { switchTheme(); box.close(); } }, { name: "How times are shown", hint: zoneNames[zone], go: () => { switchZone(); box.close(); } });
  let shown = found.filter((each) => each.name.toLowerCase().includes(low));
  list(box, shown);
  if (text.trim()) {
    try {
      const answer = await fetch(`${base}/runs/complete?word=${encodeURIComponent("id:" + text.trim())}`);
      const ids = answer.ok ? await answer.json() : [];
      if (number !== offering) return;
      shown = [...shown, ...ids.map((word) => word.slice(3).replace(/^"|"$/g, "").replace(/\\(.)/g, "$1")).map((id) => ({ name: id, hint: "run", go: () => (location.href = `${base}/run?id=${encodeURIComponent(id)}`) }))];
      list(box, shown);
    } catch { /* what is there already is enough */ }
  }
}

function list(box, shown) {
  const input = pick("input", box);
  pick("ul", box).replaceChildren(...shown.map(({ name, hint, go }, number) => {
    const item = document.createElement("li");
    const note = document.createElement("small");
    item.id = `offered-${number}`;
    item.setAttribute("role", "option");
    item.setAttribute("aria-selected", String(number === 0));
    item.append(name, note);
    note.textContent = hint;
    item.addEventListener("click", go);
    return item;
  }));
  pick("ul", box).hidden = !shown.length; // a list of nothing is none
  input.setAttribute("aria-expanded", String(shown.length > 0));
  if (shown.length) input.setAttribute("aria-activedescendant", "offered-0");
  else input.removeAttribute("aria-activedescendant");
  pick("p", box).textContent = shown.length ? "" : "Nothing has that name, and no run an id that begins so.";
}

// --- the filter's completion --------------------------------------------------------------------------------------------

let completing = 0;
async function complete(event) {
  const number = ++completing;
  const box = event.target;
  const before = box.value.slice(0, box.selectionStart ?? box.value.length);
  const word = /\S*$/.exec(before)[0];
  const rest = before.slice(0, before.length - word.length);
  try {
    const answer = await fetch(`${base}/runs/complete?word=${encodeURIComponent(word)}`);
    if (!answer.ok) return;
    const offered = await answer.json();
    if (number !== completing) return; // more was typed meanwhile
    pick("#completions").replaceChildren(...offered.map((each) => Object.assign(document.createElement("option"), { value: rest + each })));
  } catch { /* typing works without */ }
}

// --- saved views: filters that somebody gave a name, kept in this browser ------------------------------------------------

const views = {
  all() { try { return JSON.parse(store.get("views") || "[]").filter((each) => each && typeof each.name === "string" && typeof each.filter === "string"); } catch { return []; } },
  keep(list) { store.set("views", JSON.stringify(list)); showViews(); },
};

function showViews() {
  const place = pick("[data-views]");
  if (!place) return;
  const filter = place.dataset.views;
  const shown = views.all().map(({ name, filter: its }) => {
    const item = document.createElement("span");
    const link = document.createElement("a");
    const drop = document.createElement("button");
    item.className = "view";
    link.textContent = name;
    link.href = `${base}/runs?filter=${encodeURIComponent(its)}`;
    if (its === filter) link.setAttribute("aria-current", "true");
    drop.type = "button";
    drop.textContent = "×";
    drop.setAttribute("aria-label", `Forget the view ${name}`);
    drop.addEventListener("click", () => views.keep(views.all().filter((each) => each.name !== name)));
    item.append(link, drop);
    return item;
  });
  if (filter && !views.all().some((each) => each.filter === filter)) shown.push(saver(filter));
  place.replaceChildren(...shown);
}

function saver(filter) {
  const form = document.createElement("form");
  const name = document.createElement("input");
  const save = document.createElement("button");
  form.className = "saver";
  name.placeholder = "Save this view as…";
  name.setAttribute("aria-label", "Name of the view");
  name.maxLength = 40;
  name.required = true;
  save.textContent = "Save";
  form.append(name, save);
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    const called = name.value.trim();
    if (called) views.keep([...views.all().filter((each) => each.name !== called), { name: called, filter }]);
  });
  return form;
}

// --- the divider --------------------------------------------------------------------------------------------------------

function divide() {
  const handle = pick("[data-divider]");
  if (!handle) return;
  const panes = handle.parentElement;
  const set = (share) => {
    const bounded = Math.min(80, Math.max(25, share));
    panes.style.setProperty("--left", `${bounded}%`);
    handle.setAttribute("aria-valuenow", String(Math.round(bounded)));
    store.set("left", String(bounded));
  };
  set(Number(store.get("left")) || 62);
  handle.addEventListener("pointerdown", (event) => {
    handle.setPointerCapture(event.pointerId);
    const drag = (moved) => set(((moved.clientX - panes.getBoundingClientRect().left) / panes.clientWidth) * 100);
    handle.addEventListener("pointermove", drag);
    handle.addEventListener("pointerup", () => handle.removeEventListener("pointermove", drag), { once: true });
  });
  handle.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: -3, ArrowRight: 3 }[event.key];
    if (step) set((Number(store.get("left")) || 62) + step);
  });
}

// --- zoom: the part of the waterfall that is drawn across --------------------------------------------------------------

function timeAt(scale, place) {
  const marks = scale.split(" ").map((each) => each.split(":").map(Number));
  const next = Math.max(1, marks.findIndex(([at]) => at >= place));
  const [[x0, t0], [x1, t1]] = [marks[next - 1], marks[next]];
  return Math.max(0, Math.round(t0 + ((place - x0) / (x1 - x0 || 1)) * (t1 - t0)));
}

document.addEventListener("pointerdown", (event) => {
  const scale = event.target.closest?.("[data-zoom]");
  if (!scale || event.button) return;
  const box = scale.getBoundingClientRect();
  const place = (moved) => Math.min(1, Math.max(0, (moved.clientX - box.left) / box.width));
  const from = place(event);
  const picked = document.createElement("span");
  picked.className = "picked";
  scale.append(picked);
  scale.setPointerCapture(event.pointerId);
  const drag = (moved) => {
    const [low, high] = [from, place(moved)].sort((one, other) => one - other);
    picked.style.setProperty("left", `${low * 100}%`);
    picked.style.setProperty("width", `${(high - low) * 100}%`);
  };
  scale.addEventListener("pointermove", drag);
  scale.addEventListener("pointerup", (ended) => {
    scale.removeEventListener("pointermove", drag);
    picked.remove();
    const [low, high] = [from, place(ended)].sort((one, other) => one - other).map((share) => timeAt(scale.dataset.zoom, share * 1000));
    if (high - low < 1 || Math.abs(from - place(ended)) < 0.01) return;
    const to = new URL(location.href);
    to.searchParams.set("zoom", `${low}-${high}`);
    to.searchParams.delete("from");
    location.href = to;
  }, { once: true });
});

// --- begin --------------------------------------------------------------------------------------------------------------

for (const [name, act] of [["palette", () => palette()], ["zone", switchZone], ["theme-switch", switchTheme]]) {
  const button = pick(`[data-${name}]`);
  if (!button) continue;
  button.hidden = false;
  button.addEventListener("click", act);
}
if (pick("[data-zone]")) pick("[data-zone]").textContent = zoneNames[zone];
pick("[data-filter]")?.addEventListener("input", complete);
document.addEventListener("keydown", onKey);
document.addEventListener("visibilitychange", () => { if (!document.hidden) refresh(); });
showTimes();
divide();
showViews();
// On a phone the row of pages is wider than the screen; the present one is seen.
const tab = pick(".top nav [aria-current]");
if (tab) tab.parentElement.scrollLeft = tab.offsetLeft - tab.parentElement.offsetLeft - (tab.parentElement.clientWidth - tab.clientWidth) / 2;
setInterval(showTimes, 1000);
if (pick("#announcer")) {
  live.timer = setTimeout(refresh, live.wait);
  counts();
}
