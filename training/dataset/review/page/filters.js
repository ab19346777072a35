// The filters, their counts, and how far the review is.

import { button, element } from "./panel.js";
import { STATUSES, counts, passes, progress, reasonsFor, store, tally } from "./store.js";

const PAUSE = 200; // milliseconds without a key until a search is done

const box = (id) => document.querySelector(`#${id}`);
let change = () => {};

export function setUp(given) {
  ({ change } = given);
  const chips = STATUSES.map((status) => {
    const chip = button(status, () => change({ status }));
    chip.dataset.status = status;
    chip.append(element("span"));
    return chip;
  });
  box("statuses").append(...chips);
  box("why").addEventListener("change", (event) => {
    const why = event.target.value;
    // What was dropped is not among the unreviewed.
    change(why.startsWith("drop") ? { why, status: "all" } : { why });
  });
  box("source").addEventListener("change", (event) => change({ source: event.target.value }));
  box("cluster-off").addEventListener("click", () => change({ cluster: "" }));
  let waiting = 0;
  box("search").addEventListener("input", (event) => {
    clearTimeout(waiting);
    waiting = setTimeout(() => change({ text: event.target.value }), PAUSE);
  });
  box("search").addEventListener("keydown", (event) => {
    if (event.key === "Enter" || event.key === "Escape") event.target.blur();
  });
  box("more-filters").open = innerWidth >= 700;
}

export function focusSearch() {
  box("more-filters").open = true;
  box("search").focus();
  box("search").select();
}

export function refresh() {
  const count = counts();
  for (const chip of box("statuses").children) {
    const { status } = chip.dataset;
    chip.querySelector("span").textContent = count[status];
    chip.setAttribute("aria-pressed", status === store.filter.status);
  }
  const { reviewed, all } = progress();
  box("progress").max = Math.max(1, all);
  box("progress").value = reviewed;
  box("progress-text").textContent = `${reviewed} / ${all} reviewed`;
  options("why", "any reason", among({ why: "" }, reasonsFor), (value) => value.replace(" ", ": "));
  options("source", "all sources", among({ source: "" }, (picture) => [picture.source]),
    (value) => store.sources[value] ?? value);
  box("cluster-off").hidden = !store.filter.cluster;
  box("cluster-off").textContent = `alike: ${store.filter.cluster} \u00d7`;
  if (document.activeElement !== box("search")) box("search").value = store.filter.text;
}

/** Counts values among the pictures that pass the filter but for one part of it. */
function among(without, valuesOf) {
  const status = "why" in without ? "all" : store.filter.status;
  return tally(store.pictures.filter(passes({ ...store.filter, ...without, status })), valuesOf);
}

function options(id, none, counted, label) {
  const select = box(id);
  const now = store.filter[id];
  const values = now && !counted.some(([value]) => value === now) ? [...counted, [now, 0]] : counted;
  const made = values.map(([value, count]) => new Option(`${label(value)} (${count})`, value));
  select.replaceChildren(new Option(none, ""), ...made);
  select.value = now;
}
