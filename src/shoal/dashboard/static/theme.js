// Before anything is painted, so that a dark page does not flash up in white.
"use strict";
(() => {
  let chosen = null;
  try {
    chosen = localStorage.getItem("shoal-theme");
  } catch {
    // without storage the system's choice holds
  }
  if (chosen === "light" || chosen === "dark") document.documentElement.dataset.theme = chosen;
})();
