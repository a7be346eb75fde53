// The page of a service: two views, told apart by the fragment of the address, so that they can be linked. It begins
// with a slash: a fragment that names an element would take the focus from what was clicked.

import { get } from "./api.js";
import { byId, plural, showProblem, usePictures } from "./dom.js";
import { explore, startExplorer } from "./explorer.js";
import { choose, startPicker } from "./picker.js";
import { recommend, startRecommend } from "./recommend.js";
import { startWalk } from "./walk.js";

const VIEWS = ["recommend", "codes"];

function route() {
  const [, view, prefix = ""] = location.hash.split("/");
  const shown = VIEWS.includes(view) ? view : "recommend";
  for (const name of VIEWS) {
    byId(name).hidden = name !== shown;
    const tab = byId(`tab-${name}`);
    tab.setAttribute("aria-selected", String(name === shown));
    tab.tabIndex = name === shown ? 0 : -1;
  }
  if (shown === "codes") explore(prefix);
}

function startTabs() {
  for (const [place, name] of VIEWS.entries()) {
    const tab = byId(`tab-${name}`);
    tab.addEventListener("click", () => { location.hash = `/${name}`; });
    tab.addEventListener("keydown", (event) => {
      const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
      if (!step) return;
      const other = VIEWS[(place + step + VIEWS.length) % VIEWS.length];
      byId(`tab-${other}`).focus();
      location.hash = `/${other}`;
    });
  }
  window.addEventListener("hashchange", route);
}

try {
  const about = await get("about");
  byId("about").textContent = `${plural(about.items, "item")}, semantic IDs of ${plural(about.levels, "code")}, bundle ${about.bundle.slice(0, 12)}`;
  usePictures(about.pictures);
  startTabs();
  startExplorer(about);
  startWalk(about);
  startRecommend(about);
  startPicker(about, recommend);
  route();
  choose(await get("sample"));
} catch (problem) {
  showProblem(byId("problem"), problem);
  byId("cards").setAttribute("aria-busy", "false");
}
