// Keeps an open page as new as what it shows. The server sends only what has changed.

import * as figures from "./figures.js";
import { isSelected, morph, parse } from "./morph.js";
import * as tables from "./tables.js";

const PACE = { running: 1000, reading: 150, ended: 4000 };
const data = document.body.dataset;
const badge = document.getElementById("live");
const words = document.getElementById("live-text");
const waiting = new Map(); // blocks that come later, because something in them is selected
let have = data.have || "";
let timer = 0;
let asking = false;
let failures = 0;
let newest = null;

function show(kind, text) {
  if (badge.dataset.kind !== kind) {
    badge.dataset.kind = kind;
    badge.setAttribute("aria-live", kind === "lost" ? "polite" : "off"); // not each second
  }
  if (words.textContent !== text) words.textContent = text;
}

async function ask() {
  clearTimeout(timer);
  if (asking || document.hidden) return;
  asking = true;
  let pace = PACE.ended;
  try {
    const url = new URL(data.live, location.href);
    url.searchParams.set("have", have);
    if (data.complete === "0") url.searchParams.set("soon", "1");
    const answer = await fetch(url, { signal: AbortSignal.timeout(15000) });
    if (answer.status === 404) {
      show("lost", "gone");
      gone((await answer.json()).problem);
      return;
    }
    if (!answer.ok) throw new Error(`status ${answer.status}`);
    const state = answer.headers.get("X-Shoal-State");
    pace = PACE[state] || PACE.ended;
    if (data.frame && answer.headers.get("X-Shoal-Frame") !== data.frame) {
      location.reload(); // another experiment has taken its place
      return;
    }
    if (answer.status === 200) {
      const update = await answer.json();
      if (data.complete === "0" && update.blocks.facts !== undefined) {
        location.reload();
        return;
      }
      apply(update);
      have = update.version;
      newest = new Date();
    }
    document.getElementById("gone")?.remove();
    flush();
    failures = 0;
    const time = newest ? newest.toLocaleTimeString() : "";
    show(state === "running" ? "live" : "idle", time ? `${state === "running" ? "live, " : ""}changed ${time}` : state === "running" ? "live" : "up to date");
    figures.setVersion(answer.headers.get("X-Shoal-Version") || "");
  } catch {
    failures += 1;
    pace = Math.min(10000, 1000 * failures);
    show("lost", "connection lost, trying again");
  } finally {
    asking = false;
    timer = setTimeout(ask, pace);
  }
}

function apply(update) {
  const began = performance.now();
  for (const [list, children] of Object.entries(update.lists)) {
    const keep = new Set(children);
    const place = document.getElementById(list);
    if (place) for (const child of [...place.children]) if (!keep.has(child.id)) child.remove();
  }
  const lists = listsOf(update);
  for (const [id, html] of Object.entries(update.blocks)) {
    const element = document.getElementById(id);
    if (element && isSelected(element)) waiting.set(id, html);
    else put(id, html, element, lists.get(id));
  }
  for (const [list, children] of Object.entries(update.lists)) arrange(document.getElementById(list), children);
  refreshTables();
  performance.measure("shoal-update", { start: began, end: performance.now() });
}

function listsOf(update) {
  const found = new Map();
  for (const [list, children] of Object.entries(update.lists)) for (const child of children) found.set(child, list);
  return found;
}

function put(id, html, element, list) {
  waiting.delete(id);
  const place = element ? element.parentElement : document.getElementById(list || "");
  if (!place) return;
  const fresh = parse(html, place);
  if (!fresh) return;
  if (element) morph(element, fresh);
  else place.append(document.importNode(fresh, true));
}

// The order of the server, unless the reader has chosen another.
function arrange(place, children) {
  if (!place) return;
  const table = place.closest("table");
  if (table && tables.isSorted(table)) return;
  children.forEach((id, index) => {
    const child = document.getElementById(id);
    if (child && place.children[index] !== child) place.insertBefore(child, place.children[index] || null);
  });
  const panel = document.getElementById("overview-panel");
  if (panel) panel.hidden = !children.length;
}

function flush() {
  for (const [id, html] of [...waiting]) {
    const element = document.getElementById(id);
    if (!element || !isSelected(element)) put(id, html, element, null);
  }
}

function refreshTables() {
  for (const table of document.querySelectorAll("table.sortable")) if (!isSelected(table)) tables.refresh(table);
}

function gone(problem) {
  if (document.getElementById("gone")) return;
  const note = document.createElement("p");
  note.id = "gone";
  note.className = "note bad";
  note.setAttribute("role", "alert");
  note.textContent = `${problem || "It is not there any more."} What is shown is how it was last. `;
  const link = document.createElement("a");
  link.href = "/";
  link.textContent = "All experiments";
  note.append(link);
  document.getElementById("main").prepend(note);
}

function themes() {
  const button = document.getElementById("theme");
  const name = () => (button.textContent = figures.theme() === "dark" ? "Light" : "Dark");
  name();
  button.addEventListener("click", () => {
    const now = figures.theme() === "dark" ? "light" : "dark";
    document.documentElement.dataset.theme = now;
    try {
      localStorage.setItem("shoal-theme", now);
    } catch {
      // it holds for this page
    }
    name();
    figures.update();
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
    name();
    figures.update();
  });
}

themes();
document.querySelectorAll("table.sortable").forEach(tables.prepare);
refreshTables();
document.querySelectorAll(".follow").forEach((place) => (place.scrollTop = place.scrollHeight));
figures.begin();
if (data.live) {
  document.addEventListener("visibilitychange", () => !document.hidden && ask());
  ask();
}
