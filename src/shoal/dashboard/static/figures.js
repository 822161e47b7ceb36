// Figures: drawn when they come into view, and again when there is something new and they are in view.

const data = document.body.dataset;
const panels = [...document.querySelectorAll("[data-plot]")].map((place) => ({
  place,
  name: place.dataset.plot,
  said: place.parentElement.querySelector("[data-said]"),
  visible: false,
  busy: false,
  again: false,
  shown: null, // which figure: axis and theme
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
  const plotly = await load_library();
  const began = performance.now();
  sayAbove(panel, spec.layout.meta || {});
  const first = !panel.place.classList.contains("drawn");
  if (first) panel.place.replaceChildren();
  const config = {
    responsive: true,
    displaylogo: false,
    showTips: false,
    modeBarButtonsToRemove: ["select2d", "lasso2d", "autoScale2d"],
    scrollZoom: false,
  };
  await plotly.react(panel.place, spec.data, spec.layout, config);
  if (first) {
    panel.place.classList.add("drawn");
    panel.place.on("plotly_click", (event) => open(event.points && event.points[0]));
  }
  performance.measure(`shoal-figure-${panel.name}`, { start: began, end: performance.now() });
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

function load_library() {
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
