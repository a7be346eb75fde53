// Small helpers. Text from outside goes into the page as text only: by `textContent`, never as markup.

export const byId = (name) => document.getElementById(name);

/** Make an element. `given` are properties; `data` and `aria` are spelled out, `on` holds listeners. */
export function el(name, given = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(given)) {
    if (key === "on") for (const [event, listener] of Object.entries(value)) made.addEventListener(event, listener);
    else if (key === "data") Object.assign(made.dataset, value);
    else if (key === "aria") for (const [what, told] of Object.entries(value)) made.setAttribute(`aria-${what}`, told);
    else if (key === "role" || key === "for") made.setAttribute(key, value);
    else made[key] = value;
  }
  made.append(...children.filter((child) => child !== null && child !== undefined && child !== ""));
  return made;
}

/** Two digits that count, as a percentage. */
export function percent(share) {
  const hundredths = 100 * share;
  if (hundredths >= 9.95) return `${hundredths.toFixed(0)} %`;
  if (hundredths >= 0.095) return `${hundredths.toFixed(1)} %`;
  return hundredths >= 0.001 ? `${hundredths.toPrecision(1)} %` : hundredths > 0 ? "< 0.001 %" : "0 %";
}

export const number = (value) => value.toLocaleString("en");

export function plural(count, what, several = `${what}s`) {
  return `${number(count)} ${count === 1 ? what : several}`;
}

/** A bar from 0 to `share` of the whole width; `tick` marks another share. */
export function bar(share, tick) {
  const fill = el("span", { className: "fill" });
  fill.style.width = `${(100 * Math.min(share, 1)).toFixed(2)}%`;
  const made = el("span", { className: "bar", aria: { hidden: "true" } }, fill);
  if (tick !== undefined) {
    const mark = el("span", { className: "tick" });
    mark.style.left = `${(100 * Math.min(tick, 1)).toFixed(2)}%`;
    made.append(mark);
  }
  return made;
}

let pictures = false;

/** Say whether items have pictures at all. */
export function usePictures(found) {
  pictures = found;
}

/** An item's picture; the service draws a quiet letter where there is none. */
export function picture(item) {
  if (!pictures) return null;
  const address = `pictures/${encodeURIComponent(item.item)}`;
  return el("img", { src: address, alt: "", title: item.title || item.item, loading: "lazy", width: 64, height: 64 });
}

export const titled = (item) => item.title || item.item;

/** How many codes two semantic IDs begin with alike. */
export function alike(one, other) {
  if (!one || !other) return 0;
  const differs = one.findIndex((code, level) => code !== other[level]);
  return differs < 0 ? one.length : differs;
}

/** A semantic ID, each code a link to what begins like it; the first `same` codes are colored. */
export function sid(codes, same = 0) {
  const links = codes.map((code, level) => {
    const prefix = codes.slice(0, level + 1);
    const told = `items whose codes begin with ${prefix.join(" ")}`;
    return el("a", {
      href: `#/codes/${prefix.join(".")}`,
      className: level < same ? "code same" : "code",
      title: told,
      aria: { label: `code ${code}: ${told}` },
    }, String(code));
  });
  return el("span", { className: "sid" }, ...links);
}

/** Show an error of the service in words: what was found, the rule, what to do. */
export function showProblem(place, problem) {
  if (!problem) return place.replaceChildren();
  place.replaceChildren(el("div", { className: "error" },
    el("b", {}, problem.value),
    el("p", {}, `Rule: ${problem.rule}.`),
    el("p", {}, `What to do: ${problem.remedy}.`)));
}
