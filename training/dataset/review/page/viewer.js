// Shows a picture in colour and as a sketch: side by side, or over each other with a slider. Zoom
// and position are one for both, so the same place is seen in both.

import { pictureUrl } from "./api.js";
import { linesOf } from "./store.js";

const PREVIEW = 1800; // longest side, as the server makes them
const CLOSEST = 8; // most CSS pixels for one of the picture
const MODES = ["side", "over", "colour", "lines"];

const stage = document.querySelector("#stage");
const slider = document.querySelector("#slider");
const nothing = document.querySelector("#nothing");
const panes = Object.fromEntries(
  [...stage.querySelectorAll(".pane")].map((pane) => [pane.dataset.pane, pane]),
);

let picture = null;
let scale = 0; // CSS pixels for one of the picture; 0: all of it is seen
let centre = [0.5, 0.5]; // the point of the picture in the middle of a pane, in shares of its sides
let divide = 0.5; // the slider's place

export function show(next) {
  const same = picture?.id === next?.id;
  picture = next;
  if (!same) [scale, centre] = [0, [0.5, 0.5]];
  nothing.hidden = Boolean(next);
  stage.classList.toggle("empty", !next);
  for (const [name, pane] of Object.entries(panes)) {
    const form = formOf(name);
    pane.querySelector("span").textContent = next ? labelOf(form) : "";
    pane.querySelector("img").hidden = !next?.forms[form];
  }
  draw();
}

export function sayNothing(text) {
  nothing.textContent = text;
}

/** Asks for what is likely to be looked at next. */
export function prefetch(pictures) {
  for (const each of pictures) {
    for (const form of ["colour", linesOf(each)]) {
      const url = pictureUrl(each, form, smallest(each));
      if (url) new Image().src = url;
    }
  }
}

export function setMode(mode) {
  stage.dataset.mode = mode;
  for (const button of document.querySelectorAll("#modes button")) {
    button.setAttribute("aria-pressed", button.dataset.mode === mode);
  }
  draw();
}

export function nextMode() {
  setMode(MODES[(MODES.indexOf(stage.dataset.mode) + 1) % MODES.length]);
}

export function moveSlider(share) {
  divide = Math.min(1, Math.max(0, share));
  draw();
}

export const nudgeSlider = (step) => moveSlider(divide + step);

/** Goes from the whole picture to 100% (one pixel of the screen for one of the picture), and back. */
export function toggleZoom(at) {
  zoomTo(scale ? 0 : 1 / devicePixelRatio, at);
}

export function zoomBy(factor, at) {
  if (!picture) return;
  const next = Math.min(CLOSEST, (scale || fit()) * factor);
  zoomTo(next <= fit() ? 0 : next, at);
}

/** Moves what is seen, in CSS pixels. */
export function panBy(right, down) {
  if (!picture || !scale) return;
  centre = [centre[0] + right / width(), centre[1] + down / height()];
  draw();
}

const formOf = (name) => (name === "lines" && picture ? linesOf(picture) : name);
const labelOf = (form) => (picture.forms[form] ? form : `no ${form} yet`);
const smallest = (each) => (Math.max(...each.size) > PREVIEW ? "preview" : "full");
const width = () => picture.size[0] * (scale || fit());
const height = () => picture.size[1] * (scale || fit());
const seen = () => Object.values(panes).filter((pane) => pane.clientWidth);

function fit() {
  const [pane] = seen();
  if (!pane) return 1;
  return Math.min(pane.clientWidth / picture.size[0], pane.clientHeight / picture.size[1]);
}

/** Wide pictures are seen larger one below the other. */
function stackedIsLarger() {
  if (!picture) return false;
  const larger = (across, down) =>
    Math.min(stage.clientWidth / across / picture.size[0], stage.clientHeight / down / picture.size[1]);
  return larger(1, 2) > larger(2, 1);
}

function zoomTo(next, at) {
  if (!picture) return;
  const [pane] = seen();
  const [x, y] = at ?? [pane.clientWidth / 2, pane.clientHeight / 2];
  const off = [x - pane.clientWidth / 2, y - pane.clientHeight / 2];
  // The point under the pointer stays there.
  const point = [centre[0] + off[0] / width(), centre[1] + off[1] / height()];
  scale = next;
  centre = next ? [point[0] - off[0] / width(), point[1] - off[1] / height()] : [0.5, 0.5];
  draw();
}

function draw() {
  const zoom = document.querySelector("#zoom");
  zoom.textContent = scale ? `${Math.round(scale * devicePixelRatio * 100)}%` : "Fit";
  stage.classList.toggle("zoomed", scale > 0);
  slider.style.left = `${divide * 100}%`;
  slider.setAttribute("aria-valuenow", Math.round(divide * 100));
  stage.classList.toggle("stacked", stage.dataset.mode === "side" && stackedIsLarger());
  const over = stage.dataset.mode === "over";
  panes.lines.style.clipPath = over ? `inset(0 0 0 ${divide * 100}%)` : "";
  const [pane] = seen();
  if (!picture || !pane) return;
  const sides = [width(), height()];
  const room = [pane.clientWidth, pane.clientHeight];
  centre = centre.map((share, k) => {
    const half = room[k] / 2 / sides[k];
    return half >= 0.5 ? 0.5 : Math.min(1 - half, Math.max(half, share));
  });
  for (const [name, each] of Object.entries(panes)) place(name, each, sides, room);
}

function place(name, pane, sides, room) {
  const img = pane.querySelector("img");
  img.style.width = `${sides[0]}px`;
  img.style.height = `${sides[1]}px`;
  img.style.left = `${room[0] / 2 - centre[0] * sides[0]}px`;
  img.style.top = `${room[1] / 2 - centre[1] * sides[1]}px`;
  img.classList.toggle("pixels", scale * devicePixelRatio > 2);
  const fine = Math.max(...sides) * devicePixelRatio > PREVIEW * 1.05;
  const wanted = pictureUrl(picture, formOf(name), fine ? "full" : smallest(picture));
  if (!wanted || img.dataset.wanted === wanted) return;
  const other = !img.dataset.wanted?.startsWith(`/picture/${picture.id}/`);
  img.dataset.wanted = wanted;
  if (other) {
    img.src = pictureUrl(picture, formOf(name), smallest(picture));
  }
  if (img.src.endsWith(wanted)) return;
  const loaded = new Image(); // the coarse one is seen until the fine one is there
  loaded.onload = () => {
    if (img.dataset.wanted === wanted) img.src = wanted;
  };
  loaded.src = wanted;
}

// One pointer pans or moves the slider, two zoom.

const pointers = new Map();
let sliding = false;

const inside = (event, pane = seen()[0]) => {
  const under = document.elementsFromPoint(event.clientX, event.clientY);
  const box = (under.find((each) => each.classList.contains("pane")) ?? pane).getBoundingClientRect();
  return [event.clientX - box.left, event.clientY - box.top];
};

stage.addEventListener("pointerdown", (event) => {
  if (!picture || event.button) return;
  stage.setPointerCapture(event.pointerId);
  pointers.set(event.pointerId, [event.clientX, event.clientY]);
  sliding = stage.dataset.mode === "over" && (event.target === slider || !scale);
  if (sliding) slideTo(event);
});

stage.addEventListener("pointermove", (event) => {
  const last = pointers.get(event.pointerId);
  if (!last) return;
  const now = [event.clientX, event.clientY];
  const other = [...pointers].find(([id]) => id !== event.pointerId)?.[1];
  pointers.set(event.pointerId, now);
  if (other) {
    const far = (point) => Math.hypot(point[0] - other[0], point[1] - other[1]) || 1;
    zoomBy(far(now) / far(last), inside(event));
  } else if (sliding) slideTo(event);
  else panBy(last[0] - now[0], last[1] - now[1]);
});

for (const end of ["pointerup", "pointercancel"]) {
  stage.addEventListener(end, (event) => pointers.delete(event.pointerId));
}

stage.addEventListener("dblclick", (event) => toggleZoom(inside(event)));

stage.addEventListener(
  "wheel",
  (event) => {
    event.preventDefault();
    zoomBy(Math.exp(-event.deltaY / (event.deltaMode ? 10 : 300)), inside(event));
  },
  { passive: false },
);

slider.addEventListener("keydown", (event) => {
  const steps = { ArrowLeft: -0.02, ArrowRight: 0.02, PageDown: -0.1, PageUp: 0.1, Home: -1, End: 1 };
  if (!(event.key in steps)) return;
  event.preventDefault();
  event.stopPropagation(); // the arrows leave the picture otherwise
  nudgeSlider(steps[event.key]);
});

function slideTo(event) {
  const box = stage.getBoundingClientRect();
  moveSlider((event.clientX - box.left) / box.width);
}

new ResizeObserver(draw).observe(stage);
