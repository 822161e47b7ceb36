// Tables that can be sorted by a click on a column's title, and filtered by what is typed.

export function prepare(table) {
  const titles = [...table.tHead.rows[0].cells];
  titles.forEach((cell, place) => {
    if (cell.classList.contains("plain")) return;
    const button = document.createElement("button");
    button.type = "button";
    button.append(...cell.childNodes);
    cell.append(button);
    button.addEventListener("click", () => {
      const down = cell.getAttribute("aria-sort") === "descending";
      const first = cell.classList.contains("n") && place > 0 ? "descending" : "ascending";
      const now = cell.hasAttribute("aria-sort") ? (down ? "ascending" : "descending") : first;
      titles.forEach((each) => each.removeAttribute("aria-sort"));
      cell.setAttribute("aria-sort", now);
      sort(table);
    });
  });
  const input = document.getElementById(table.dataset.filter);
  if (input) input.addEventListener("input", () => filter(table));
}

export function refresh(table) {
  sort(table);
  filter(table);
}

export function isSorted(table) {
  return Boolean(table.tHead.querySelector("[aria-sort]"));
}

function sort(table) {
  const title = table.tHead.querySelector("[aria-sort]");
  if (!title) return;
  const place = title.cellIndex;
  const sign = title.getAttribute("aria-sort") === "ascending" ? 1 : -1;
  const body = table.tBodies[0];
  const rows = [...body.rows].map((row) => ({ row, key: keyOf(row.cells[place]) }));
  const sorted = [...rows].sort((a, b) => compare(a.key, b.key, sign));
  if (sorted.every((each, index) => each.row === rows[index].row)) return;
  const focused = body.contains(document.activeElement) ? document.activeElement : null;
  body.append(...sorted.map((each) => each.row));
  if (focused) focused.focus({ preventScroll: true });
}

function keyOf(cell) {
  const given = cell.dataset.sort;
  if (given !== undefined && given !== "") return Number(given);
  return cell.textContent.trim();
}

function compare(a, b, sign) {
  // What has no value comes last, whichever way.
  if (a === "" || b === "") return (a === "") - (b === "");
  if (typeof a === "number" && typeof b === "number") return sign * (a - b);
  if (typeof a !== typeof b) return typeof a === "number" ? -1 : 1;
  return sign * a.localeCompare(b, undefined, { numeric: true });
}

function filter(table) {
  const input = document.getElementById(table.dataset.filter);
  if (!input) return;
  const words = input.value.toLowerCase().split(/\s+/).filter(Boolean);
  for (const row of table.tBodies[0].rows) {
    const text = words.length ? row.textContent.toLowerCase() : "";
    const hide = !words.every((word) => text.includes(word));
    if (row.hidden !== hide) row.hidden = hide;
  }
}
