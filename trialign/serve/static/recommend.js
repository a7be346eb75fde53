// The ten cards, and what is asked of the service for them.

import { newest, post } from "./api.js";
import { alike, bar, byId, el, percent, picture, showProblem, sid, titled } from "./dom.js";
import { add, chosen } from "./picker.js";
import { followPath, showWalk } from "./walk.js";

const WANTED = 10;
let about = null;

/** Wire the filters up. */
export function startRecommend(offered) {
  about = offered;
  for (const name of ["allowed", "blocked"]) {
    byId(`${name}-line`).hidden = !about.lists.length;
    const nothing = name === "allowed" ? "the whole catalogue" : "no list";
    byId(name).append(el("option", { value: "" }, nothing), ...about.lists.map((list) => el("option", { value: list }, list)));
    byId(name).addEventListener("change", () => recommend());
  }
  byId("exclude").addEventListener("change", () => recommend());
  byId("walk").hidden = !about.walk;
}

function question() {
  const asked = { items: chosen.items.map((item) => item.item), k: WANTED, exclude_seen: byId("exclude").checked };
  for (const name of ["allowed", "blocked"]) if (byId(name).value) asked[name] = byId(name).value;
  return asked;
}

/** Ask for recommendations after the chosen history, then for the walk that led to them. */
export const recommend = newest(async (signal) => {
  const asked = question();
  byId("cards").setAttribute("aria-busy", "true");
  showProblem(byId("problem"), null);
  let found;
  try {
    found = await post("recommend", asked, signal);
  } catch (problem) {
    if (problem.name === "AbortError") throw problem;
    showProblem(byId("problem"), problem);
    found = null;
  }
  byId("cards").setAttribute("aria-busy", "false");
  byId("cards").replaceChildren(...(found ? found.items.map(card) : []));
  byId("told").textContent = found ? told(found) : "";
  if (about.walk && found) await showWalk(asked, signal, chosen.next.map((item) => item.item));
  else byId("levels").replaceChildren();
});

function told(found) {
  const said = [];
  if (!chosen.items.length) said.push("To somebody of whom nothing is known:");
  for (const item of chosen.next) {
    const place = found.items.findIndex((other) => other.item === item.item);
    const where = place < 0 ? `not among these ${found.items.length}` : `at place ${place + 1}`;
    said.push(`What the user chose next, ${titled(item)}, is ${where}.`);
  }
  if (found.unknown.length) said.push(`Not in the catalogue: ${found.unknown.join(", ")}.`);
  if (found.fewer) said.push(`${found.fewer}.`);
  return said.join(" ");
}

function card(item, place, all) {
  const chance = Math.exp(item.score);
  const last = chosen.items.at(-1);
  const hit = chosen.next.some((next) => next.item === item.item);
  const same = alike(item.sid, last && last.sid);
  const follow = (on) => () => followPath(on ? item.rank : null);
  return el("li", {
    className: hit ? "card hit" : "card",
    data: { item: item.item },
    on: { mouseenter: follow(true), mouseleave: follow(false), focusin: follow(true), focusout: follow(false) },
  },
  el("div", { className: "top" }, el("span", { className: "rank" }, String(item.rank)), picture(item)),
  el("div", { className: "title" }, titled(item)),
  el("div", { className: "chance" }, el("b", {}, percent(chance)), bar(chance / Math.exp(all[0].score))),
  el("div", {}, sid(item.sid, same)),
  same ? el("div", { className: "dim" }, same === item.sid.length ? "the last item itself" : `begins like the last item`) : null,
  hit ? el("div", { className: "mark" }, "✓ chosen next") : null,
  el("button", { className: "quiet add", title: "add to the history", aria: { label: `add ${titled(item)} to the history` }, on: { click: () => add(item) } }, "+"));
}
