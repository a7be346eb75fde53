// The SID explorer: a prefix, the codes below it, its items, what they share, the prefixes next to it.

import { get, newest } from "./api.js";
import { bar, byId, el, number, percent, picture, plural, showProblem, sid, titled } from "./dom.js";
import { add } from "./picker.js";

let levels = 0;

export function startExplorer(about) {
  levels = about.levels;
}

/** Show what begins with a prefix, e.g. "10.7"; "" is the root. */
export const explore = newest(async (signal, prefix) => {
  showPath(prefix ? prefix.split(".") : []);
  byId("prefix").setAttribute("aria-busy", "true");
  showProblem(byId("codes-problem"), null);
  let found = null;
  try {
    found = await get(`codes?prefix=${encodeURIComponent(prefix)}`, signal);
  } catch (problem) {
    if (problem.name === "AbortError") throw problem;
    showProblem(byId("codes-problem"), problem);
  }
  byId("prefix").setAttribute("aria-busy", "false");
  byId("prefix").replaceChildren(...(found ? shown(found) : []));
});

function showPath(codes) {
  const steps = codes.map((code, place) => {
    const last = place + 1 === codes.length;
    return el("a", { href: `#/codes/${codes.slice(0, place + 1).join(".")}`, className: "code same", aria: last ? { current: "page" } : {} }, code);
  });
  byId("path").replaceChildren(el("a", { href: "#/codes/" }, "all items"), ...steps.flatMap((step) => ["›", step]));
}

function shown(found) {
  const depth = found.prefix.length;
  const about = el("section", { className: "about" },
    el("h2", {}, depth ? `${plural(found.items, "item")} whose codes begin with ${found.prefix.join(" ")}` : `All ${plural(found.items, "item")}`),
    depth ? null : el("p", {}, `A semantic ID has ${levels} codes, learned from text and picture: items with the same first codes are alike. Choose a code to see what it stands for.`),
    ...traits(found));
  return [about,
    el("div", { className: "columns" },
      el("section", {},
        found.codes.length ? el("h2", {}, `Codes of level ${depth + 1}`) : null,
        found.codes.length ? rows(found.codes, found.items) : null,
        found.more ? el("p", { className: "dim" }, `and ${number(found.more)} rarer ones`) : null,
        found.neighbours.length ? el("h2", {}, depth === levels ? "Next to it" : "Nearest other codes") : null,
        found.neighbours.length ? rows(found.neighbours, Math.max(...found.neighbours.map((row) => row.items))) : null),
      el("section", {},
        el("h2", {}, found.below.length < found.items ? `${found.below.length} of them, spread evenly` : "Items"),
        el("ul", { className: "items" }, ...found.below.map((item) => tile(item, found.prefix.length)))))];
}

function traits(found) {
  if (found.items === 1 || !found.prefix.length) return [];
  if (!found.shared.length) return [el("p", { className: "dim" }, "No category, brand or word is more frequent among them than in the whole catalogue.")];
  return [
    el("h3", {}, "What they share"),
    el("table", {},
      el("thead", {}, el("tr", {}, el("td"), el("td"), el("th", { className: "n" }, "here"), el("th", { className: "n" }, "catalogue"))),
      el("tbody", {}, ...found.shared.map((trait) => el("tr", {},
      el("th", { scope: "row" }, trait.value, " ", el("span", { className: "dim" }, trait.kind)),
      el("td", { className: "wide" }, bar(trait.share, trait.expected)),
      el("td", { className: "n" }, percent(trait.share)),
      el("td", { className: "n dim" }, percent(trait.expected)))))),
  ];
}

function rows(found, most) {
  return el("ol", { className: "rows" }, ...found.map((row) => {
    const alone = row.items === 1;
    return el("li", {},
      el("a", { href: `#/codes/${row.codes.join(".")}`, className: "row", aria: { label: `code ${row.codes.join(" ")}, ${plural(row.items, "item")}` } },
        el("span", { className: "sid" }, ...row.codes.map((code, level) => el("span", { className: level + 1 < row.codes.length ? "code same" : "code" }, String(code)))),
        el("span", { className: "what" }, alone ? titled(row.examples[0]) : `${plural(row.items, "item")}${row.label ? `, ${row.label}` : ""}`),
        el("span", { className: "pictures" }, ...row.examples.map(picture).filter(Boolean)),
        alone ? null : bar(row.items / most)));
  }));
}

function tile(item, same) {
  return el("li", { className: "tile" },
    picture(item),
    el("span", { className: "words" }, el("span", { className: "title" }, titled(item)), sid(item.sid, same)),
    el("button", { className: "quiet", title: "add to the history", aria: { label: `add ${titled(item)} to the history` }, on: { click: () => add(item) } }, "+"));
}
