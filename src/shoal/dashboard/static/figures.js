// Figures: drawn when they come into view, and again when there is something new and they are in view.

const DOUBLE_CLICK = 320; // milliseconds for which a click may be the first of two
const data = document.body.dataset;
const panels = [...document.querySelectorAll("[data-plot]")].map((place) => ({
  place,
  name: place.dataset.plot,
  said: place.parentElement.querySelector("[data-said]"),
  visible: false,
  busy: false,
  again: false,
  shown: null, // which figure: axis and theme
  zoomed: new Set(), // axes whose range the reader has chosen
  version: "",
}));
let library = null;
let version = data.version || "";
let x = "training_iteration";

export function begin() {
  if (!panels.length || data.complete !== "1") return;
  for (const input of document.querySelectorAll('input[name="x"]')) {
    if (input.checked) x = input.value;
    input.addEventListener("change", () => {
      x = input.value;
      for (const panel of panels) panel.zoomed.clear();
      update();
    });
  }
  const byPlace = new Map(panels.map((panel) => [panel.place.closest(".plot"), panel]));
  const observer = new IntersectionObserver(
    (entries) => {
      for (const entry of entries) byPlace.get(entry.target).visible = entry.isIntersecting;
      update();
    },
    { rootMargin: "150px" },
  );
  for (const section of byPlace.keys()) observer.observe(section);
  // The library is large: it is ready when somebody comes to the plots.
  const idle = window.requestIdleCallback || ((call) => setTimeout(call, 300));
  idle(() => loadLibrary().catch(() => {}));
}

export function setVersion(now) {
  version = now;
  update();
}

export function update() {
  for (const panel of panels) if (panel.visible) load(panel);
}

export function theme() {
  const chosen = document.documentElement.dataset.theme;
  if (chosen) return chosen;
  return matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light";
}

async function load(panel) {
  const axis = panel.place.hasAttribute("data-by-x") ? x : "training_iteration";
  const shown = `${axis} ${theme()}`;
  if (panel.shown === shown && panel.version === version) return;
  if (panel.busy) {
    panel.again = true;
    return;
  }
  panel.busy = true;
  try {
    const query = new URLSearchParams(data.pair || "");
    query.set("x", axis);
    query.set("theme", theme());
    if (panel.shown === shown) query.set("have", panel.version);
    if (data.trial) query.set("trial", data.trial);
    const answer = await fetch(`${data.figures}${encodeURIComponent(panel.name)}.json?${query}`);
    if (answer.status === 200) {
      const spec = await answer.json();
      await draw(panel, spec);
      panel.shown = shown;
    } else if (answer.status !== 204) {
      say(panel, "This plot could not be loaded.");
    }
    if (answer.ok) panel.version = answer.headers.get("X-Shoal-Version") || "";
  } catch {
    // The connection is lost: the page says so, and asks again.
  } finally {
    panel.busy = false;
    if (panel.again) {
      panel.again = false;
      load(panel);
    }
  }
}

function say(panel, text) {
  if (library) library.purge(panel.place);
  panel.place.classList.remove("drawn");
  panel.place.style.removeProperty("min-height");
  const note = document.createElement("p");
  note.className = "wait";
  note.textContent = text;
  panel.place.replaceChildren(note);
}

async function draw(panel, spec) {
  if (spec.message !== undefined) {
    if (panel.said) panel.said.textContent = "";
    say(panel, spec.message);
    return;
  }
  const plotly = await loadLibrary();
  const began = performance.now();
  sayAbove(panel, spec.layout.meta || {});
  const first = !panel.place.classList.contains("drawn");
  if (first) panel.place.replaceChildren();
  panel.config ??= configOf(panel, plotly);
  // Its range follows the data where the reader has not chosen another.
  for (const axis of panel.zoomed) {
    const range = panel.place.layout?.[axis]?.range;
    if (range && spec.layout[axis]) Object.assign(spec.layout[axis], { range: [...range], autorange: false });
  }
  await plotly.react(panel.place, spec.data, spec.layout, panel.config);
  if (first) {
    panel.place.classList.add("drawn");
    let going = 0;
    panel.place.on("plotly_click", (event) => {
      clearTimeout(going);
      going = setTimeout(() => open(event.points && event.points[0]), DOUBLE_CLICK);
    });
    panel.place.on("plotly_doubleclick", () => {
      clearTimeout(going);
      reset(panel);
    });
    panel.place.on("plotly_relayout", (changes) => {
      for (const name of Object.keys(changes)) {
        const axis = /^([xy]axis\d*)\.range/.exec(name);
        if (axis) panel.zoomed.add(axis[1]);
      }
    });
  }
  performance.measure(`shoal-figure-${panel.name}`, { start: began, end: performance.now() });
}

// The same object each time: with another one, Plotly would begin from nothing.
function configOf(panel, plotly) {
  return {
    responsive: true,
    doubleClick: false,
    displaylogo: false,
    showTips: false,
    modeBarButtonsToRemove: ["select2d", "lasso2d", "autoScale2d", "resetScale2d"],
    modeBarButtonsToAdd: [
      { name: "reset", title: "Show all again", icon: plotly.Icons.home, click: () => reset(panel) },
    ],
    scrollZoom: false,
  };
}

function reset(panel) {
  panel.zoomed.clear();
  panel.shown = null;
  load(panel);
}

// What the figure says stands above it as text, which wraps.
function sayAbove(panel, { title = "", note = "" }) {
  if (!panel.said || panel.said.textContent === `${title} ${note}`) return;
  const head = document.createElement("b");
  head.textContent = title;
  panel.said.replaceChildren(head, ` ${note}`);
}

function open(point) {
  if (!point || !data.members) return;
  const found = Array.isArray(point.customdata) ? point.customdata[0] : point.customdata;
  if (Number.isInteger(found)) location.assign(`${data.members}${found}`);
}

function loadLibrary() {
  if (library) return Promise.resolve(library);
  return new Promise((resolve, reject) => {
    const known = document.querySelector("script[data-library]");
    const script = known || document.createElement("script");
    script.addEventListener("load", () => {
      library = window.Plotly;
      resolve(library);
    });
    script.addEventListener("error", () => {
      script.remove();
      reject(new Error("plotly.js could not be loaded"));
    });
    if (!known) {
      script.dataset.library = "";
      script.src = data.plotly;
      document.head.append(script);
    }
  });
}
