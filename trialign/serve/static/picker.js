// The history picker: search by title, a user of the logs, at random; chips that can be removed and moved.

import { get, newest } from "./api.js";
import { byId, el, picture, plural, sid, showProblem, titled } from "./dom.js";

/** The chosen items, oldest first; of a user of the logs also the key, and what came next where that is known. */
export const chosen = { items: [], user: null, next: [] };

let changed = () => {};
let readLast = null;

/** Wire the picker up. `about` says what the service offers; `onChange` is called when the history changes. */
export function startPicker(about, onChange) {
  changed = onChange;
  readLast = about.max_history;
  byId("user-form").hidden = !about.users;
  byId("random").textContent = about.users ? "Random user" : "Random items";
  byId("user-form").addEventListener("submit", (event) => {
    event.preventDefault();
    const key = byId("user").value.trim();
    if (key) load(`users/${encodeURIComponent(key)}`);
  });
  byId("random").addEventListener("click", () => load("sample"));
  byId("clear").addEventListener("click", () => choose({ items: [], user: null, next: [] }));
  startSearch();
}

const load = newest(async (signal, address) => {
  try {
    choose(await get(address, signal));
  } catch (problem) {
    if (problem.name === "AbortError") throw problem;
    showProblem(byId("problem"), problem);
  }
});

/** Replace the history. */
export function choose({ items, user, next }) {
  Object.assign(chosen, { items, user, next });
  if (user !== null) byId("user").value = user;
  show();
  changed();
}

/** Add an item as the newest one. */
export function add(item) {
  chosen.items = [...chosen.items, item];
  edited();
}

function edited() {
  chosen.user = null;
  chosen.next = [];
  show();
  changed();
}

function show() {
  const unread = readLast === null ? 0 : Math.max(0, chosen.items.length - readLast);
  byId("history").replaceChildren(...chosen.items.map((item, place) => chip(item, place, place < unread)).reverse());
  const told = [];
  if (chosen.user !== null) told.push(`User ${chosen.user}: ${plural(chosen.items.length, "item")}, newest first.`);
  if (chosen.user !== null && chosen.next.length) told.push("The last event is held out; it is marked where recommended.");
  if (chosen.user === null) told.push(chosen.items.length ? "Newest first." : "Nothing is chosen yet.");
  if (unread) told.push(`The model reads the last ${readLast}.`);
  byId("source").textContent = told.join(" ");
  byId("clear").disabled = chosen.items.length === 0;
}

function chip(item, place, unread) {
  const move = (by, sign, what) => el("button", {
    className: "quiet",
    disabled: place + by < 0 || place + by >= chosen.items.length,
    title: what,
    aria: { label: `${what}: ${titled(item)}` },
    on: { click: () => { swap(place, place + by); } },
  }, sign);
  const remove = el("button", {
    className: "quiet",
    title: "remove",
    aria: { label: `remove ${titled(item)}` },
    on: { click: () => { chosen.items = chosen.items.filter((_, other) => other !== place); edited(); focusChip(place); } },
  }, "×");
  return el("li", { className: unread ? "chip unread" : "chip" },
    picture(item),
    el("span", { className: "words" }, el("span", { className: "title" }, titled(item)), sid(item.sid)),
    el("span", { className: "moves" }, move(1, "↑", "later"), move(-1, "↓", "earlier"), remove));
}

function swap(one, other) {
  const items = [...chosen.items];
  [items[one], items[other]] = [items[other], items[one]];
  chosen.items = items;
  edited();
  focusChip(other);
}

function focusChip(place) {
  const chips = byId("history").children;
  const near = chips[chips.length - 1 - Math.min(place, chips.length - 1)];
  (near ? near.querySelector("button:last-child") : byId("search")).focus();
}

function startSearch() {
  const field = byId("search");
  const list = byId("found");
  let at = -1;

  const close = () => {
    list.hidden = true;
    field.setAttribute("aria-expanded", "false");
    field.removeAttribute("aria-activedescendant");
    at = -1;
  };
  const mark = (place) => {
    at = (place + list.children.length) % list.children.length;
    [...list.children].forEach((row, other) => row.setAttribute("aria-selected", String(other === at)));
    field.setAttribute("aria-activedescendant", list.children[at].id);
    list.children[at].scrollIntoView({ block: "nearest" });
  };
  const take = (item) => {
    field.value = "";
    close();
    add(item);
    field.focus();
  };
  const look = newest(async (signal) => {
    const words = field.value.trim();
    if (!words) return close();
    try {
      const { items } = await get(`items?k=12&search=${encodeURIComponent(words)}`, signal);
      at = -1;
      list.replaceChildren(...(items.length ? items.map(option) : [el("li", { className: "dim" }, "no item has these words")]));
      list.hidden = false;
      field.setAttribute("aria-expanded", "true");
    } catch (problem) {
      if (problem.name === "AbortError") throw problem;
      close();
      showProblem(byId("problem"), problem);
    }
  });
  const option = (item, place) => el("li", {
    id: `found-${place}`,
    role: "option",
    aria: { selected: "false" },
    on: { mousedown: (event) => event.preventDefault(), click: () => take(item) },
  }, picture(item), el("span", { className: "title" }, titled(item)), el("span", { className: "dim" }, item.item));

  field.addEventListener("input", () => look());
  field.addEventListener("focus", () => look());
  field.addEventListener("blur", close);
  field.addEventListener("keydown", (event) => {
    const options = list.hidden ? [] : list.querySelectorAll("[role=option]");
    if (event.key === "Escape") close();
    if (!options.length) return;
    if (event.key === "ArrowDown") mark(at + 1);
    else if (event.key === "ArrowUp") mark(at < 0 ? -1 : at - 1);
    else if (event.key === "Enter") options[Math.max(at, 0)].click();
    else return;
    event.preventDefault();
  });
}
