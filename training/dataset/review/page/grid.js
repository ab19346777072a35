// All pictures that the filter found, small, to look over and to decide on many at once.

import { pictureUrl } from "./api.js";
import { captionOf, isDropped, isFlagged, linesOf, store } from "./store.js";
import { element } from "./panel.js";

const AT_ONCE = 200; // cells made before the next are scrolled to

const grid = document.querySelector("#grid");
const cells = document.querySelector("#cells");
const end = element("div");

let onOpen = () => {};
let anchor = null; // where a selection with Shift begins

export const isOpen = () => !grid.hidden;

export function setUp({ open }) {
  onOpen = open;
  new IntersectionObserver((seen) => seen.some((each) => each.isIntersecting) && more(), {
    rootMargin: "1000px",
  }).observe(end);
}

export function toggle(on) {
  grid.hidden = !on;
  document.body.dataset.view = on ? "grid" : "one";
  if (on) fill();
}

/** Makes the cells anew, for another list. */
export function fill() {
  cells.replaceChildren(end);
  anchor = null;
  const place = store.list.indexOf(store.current);
  do more();
  while (place >= made() && made() < store.list.length);
  tellSelected();
  cells.children[Math.max(0, place)]?.focus?.({ preventScroll: false });
}

/** Brings the cells of some pictures up to date. */
export function refresh(pictures) {
  for (const picture of pictures) {
    const cell = cells.querySelector(`[data-id="${picture.id}"]`);
    if (cell) mark(cell, picture);
  }
}

export function selectAll(on) {
  store.selected = new Set(on ? store.list : []);
  for (const cell of cells.querySelectorAll("[data-id]")) cell.setAttribute("aria-selected", on);
  tellSelected();
}

/** What decisions are about: the selected pictures, or the one with the focus. */
export function chosen() {
  if (store.selected.size) return store.list.filter((picture) => store.selected.has(picture));
  const picture = store.byId.get(document.activeElement?.dataset?.id);
  return picture ? [picture] : [];
}

const made = () => cells.children.length - 1;

function more() {
  if (grid.hidden) return;
  const next = store.list.slice(made(), made() + AT_ONCE).map(cellOf);
  end.before(...next);
}

function cellOf(picture) {
  const cell = element("div");
  cell.className = "cell";
  cell.tabIndex = 0;
  cell.dataset.id = picture.id;
  cell.setAttribute("role", "option");
  for (const form of ["colour", linesOf(picture)]) {
    if (!picture.forms[form]) continue;
    const img = element("img");
    img.loading = "lazy";
    img.alt = "";
    img.src = pictureUrl(picture, form, "thumb");
    cell.append(img);
  }
  const pick = element("span", "\u2713");
  pick.className = "pick";
  pick.title = "Select (Space)";
  cell.append(pick, element("small"));
  mark(cell, picture);
  return cell;
}

function mark(cell, picture) {
  const status = picture.state.verdict || (isDropped(picture) ? "dropped" : isFlagged(picture) ? "flagged" : "");
  cell.dataset.status = status;
  cell.setAttribute("aria-selected", store.selected.has(picture));
  cell.setAttribute("aria-label", `${picture.id} ${status}`);
  cell.title = captionOf(picture, "caption_sketch");
  const words = { accept: "accepted", reject: `rejected: ${picture.state.reason}` };
  cell.querySelector("small").textContent = words[status] ?? status;
}

function select(cell, on) {
  const picture = store.byId.get(cell.dataset.id);
  if (on) store.selected.add(picture);
  else store.selected.delete(picture);
  cell.setAttribute("aria-selected", on);
}

function choose(cell, withShift) {
  const on = cell.getAttribute("aria-selected") !== "true";
  const all = [...cells.querySelectorAll("[data-id]")];
  const ends = [all.indexOf(withShift && anchor ? anchor : cell), all.indexOf(cell)];
  for (const each of all.slice(Math.min(...ends), Math.max(...ends) + 1)) select(each, on);
  anchor = cell;
  tellSelected();
}

function tellSelected() {
  const many = store.selected.size;
  document.querySelector("#selected").textContent = many
    ? `${many} of ${store.list.length} selected`
    : `${store.list.length} pictures`;
}

cells.addEventListener("click", (event) => {
  const cell = event.target.closest(".cell");
  if (!cell) return;
  const picking = event.target.closest(".pick") || event.ctrlKey || event.metaKey || event.shiftKey;
  if (picking) choose(cell, event.shiftKey);
  else onOpen(store.byId.get(cell.dataset.id));
});

cells.addEventListener("keydown", (event) => {
  const cell = event.target.closest(".cell");
  if (!cell) return;
  const row = Math.max(1, Math.floor(cells.clientWidth / cell.offsetWidth));
  const steps = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -row, ArrowDown: row };
  if (event.key === "Enter") onOpen(store.byId.get(cell.dataset.id));
  else if (event.key === " ") choose(cell, event.shiftKey);
  else if (event.key in steps) {
    const place = [...cells.children].indexOf(cell) + steps[event.key];
    cells.children[place]?.focus?.();
  } else return;
  event.preventDefault();
  event.stopPropagation();
});
