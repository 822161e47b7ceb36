// Makes a part of the page like a newer rendering of it, and touches only what differs: scroll positions, selections,
// focus and open details stay. What the server sends was escaped there; it is parsed without running anything.

const parser = new DOMParser();

export function parse(html, list) {
  const inTable = list && list.tagName === "TBODY";
  const text = inTable ? `<table><tbody>${html}</tbody></table>` : html;
  const body = parser.parseFromString(text, "text/html").body;
  return (inTable ? body.querySelector("tbody") : body).firstElementChild;
}

export function isSelected(element) {
  const selection = document.getSelection();
  return Boolean(selection) && !selection.isCollapsed && selection.containsNode(element, true);
}

export function morph(old, fresh) {
  if (old.isEqualNode(fresh)) return;
  if (old.nodeType !== fresh.nodeType || old.nodeName !== fresh.nodeName) {
    old.replaceWith(document.importNode(fresh, true));
    return;
  }
  if (old.nodeType !== Node.ELEMENT_NODE) {
    if (old.nodeValue !== fresh.nodeValue) old.nodeValue = fresh.nodeValue;
    return;
  }
  attributes(old, fresh);
  if (old.classList.contains("follow") && fresh.classList.contains("follow")) {
    lines(old, fresh);
    return;
  }
  const before = [...old.childNodes];
  const after = [...fresh.childNodes];
  after.forEach((node, place) => {
    if (place < before.length) morph(before[place], node);
    else old.append(document.importNode(node, true));
  });
  before.slice(after.length).forEach((node) => node.remove());
}

// The lines of a file that grows: each is told by its place in the file. Who is at the end stays there, and who reads
// further up keeps the line that he reads where it is.
function lines(old, fresh) {
  const atEnd = old.scrollHeight - old.scrollTop - old.clientHeight < 8;
  const edge = old.getBoundingClientRect().top;
  const read = atEnd ? null : [...old.children].find((line) => line.getBoundingClientRect().bottom > edge + 1);
  const top = read ? read.getBoundingClientRect().top : 0;
  const keep = new Set([...fresh.children].map((line) => line.dataset.at));
  for (const line of [...old.children]) if (!keep.has(line.dataset.at)) line.remove();
  const known = new Map([...old.children].map((line) => [line.dataset.at, line]));
  [...fresh.children].forEach((line, place) => {
    const was = known.get(line.dataset.at);
    if (was) morph(was, line);
    const now = was || document.importNode(line, true);
    if (old.children[place] !== now) old.insertBefore(now, old.children[place] || null);
  });
  if (atEnd) old.scrollTop = old.scrollHeight;
  else if (read && read.isConnected) old.scrollTop += read.getBoundingClientRect().top - top;
}

// Set by the reader, not by the server.
const KEPT = new Set(["open", "hidden"]);

function attributes(old, fresh) {
  for (const { name, value } of fresh.attributes) {
    if (!KEPT.has(name) && old.getAttribute(name) !== value) old.setAttribute(name, value);
  }
  for (const { name } of [...old.attributes]) {
    if (!KEPT.has(name) && !fresh.hasAttribute(name)) old.removeAttribute(name);
  }
}
