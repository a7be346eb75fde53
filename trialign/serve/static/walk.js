// The walk through the trie: per level the likeliest prefixes, the beams that live and those that die.

import { post } from "./api.js";
import { bar, byId, el, number, percent, picture, plural, showProblem, sid, titled } from "./dom.js";

let exact = false;

/** Say how the model ranks: by a search with beams, or exactly. */
export function startWalk(about) {
  exact = about.exact;
  byId("walk-told").textContent = exact
    ? "The model is one softmax over all items, so a prefix is as likely as the items below it together, and no search is needed."
    : "The model writes a semantic ID code by code. On every level the likeliest prefixes are kept as beams; only their continuations are weighed on the next one.";
  const meanings = [["leads", "leads to a recommended item"], ["kept", exact ? "other prefixes" : "kept, but to none of these items"]];
  if (!exact) meanings.push(["ends", "kept, and none of its continuations"], ["dropped", "dropped"]);
  meanings.push(["filtered", "filtered: chosen before, or not in stock"]);
  byId("walk-legend").append(...meanings.map(([name, words]) => el("li", { className: name }, el("span", { className: "swatch" }), words)));
}

/** Ask for the walk and show it. */
export async function showWalk(asked, signal) {
  showProblem(byId("walk-problem"), null);
  byId("levels").setAttribute("aria-busy", "true");
  let levels = [];
  try {
    ({ levels } = await post("walk", asked, signal));
  } catch (problem) {
    if (problem.name === "AbortError") throw problem;
    showProblem(byId("walk-problem"), problem);
  }
  byId("levels").setAttribute("aria-busy", "false");
  byId("levels").replaceChildren(...levels.map(column));
}

/** Bring out the path to the item of a rank; null: no path. */
export function followPath(rank) {
  for (const row of byId("levels").querySelectorAll(".prefix")) {
    const leads = row.dataset.leads.split(" ").includes(String(rank));
    row.classList.toggle("followed", rank !== null && leads);
  }
  byId("levels").classList.toggle("following", rank !== null);
}

function column(level, place) {
  const most = Math.max(...level.prefixes.map((row) => row.probability));
  const counted = exact
    ? plural(level.weighed, "prefix", "prefixes")
    : `${number(level.weighed)} weighed, ${number(level.kept)} kept with ${percent(level.mass)} of the probability`;
  const left = level.weighed - level.prefixes.length;
  return el("section", { className: "level", aria: { label: `level ${place + 1}` } },
    el("h3", {}, `Level ${place + 1}`),
    el("p", { className: "dim" }, counted),
    el("ol", {}, ...level.prefixes.map((row) => prefix(row, most))),
    left > 0 ? el("p", { className: "dim" }, `and ${number(left)} more`) : null);
}

function fate(row) {
  if (row.fate !== "kept") return row.fate;
  if (row.leads.length) return "leads";
  return row.kept_below === 0 ? "ends" : "kept";
}

function words(row) {
  const said = [];
  if (row.items === 1) said.push(titled(row.examples[0]));
  else said.push(`${plural(row.items, "item")}${row.label ? `, ${row.label}` : ""}`);
  if (row.leads.length) said.push(`→ ${row.leads.join(", ")}`);
  const end = { ends: "ends here", dropped: "dropped", filtered: "filtered" }[fate(row)];
  if (end) said.push(end);
  return said;
}

function prefix(row, most) {
  const [what, ...marks] = words(row);
  return el("li", { className: `prefix ${fate(row)}`, data: { leads: row.leads.join(" ") } },
    el("div", { className: "line" },
      sid(row.codes, row.codes.length),
      el("span", { className: "what" }, what),
      ...marks.map((mark) => el("span", { className: "mark" }, mark)),
      el("b", { className: "chance" }, percent(row.probability))),
    el("div", { className: "line" }, bar(row.probability / most), el("span", { className: "pictures" }, ...row.examples.map(picture).filter(Boolean))));
}
