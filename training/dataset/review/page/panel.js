// What is known of the picture beside it: captions to edit, why it is here, where it is from.

import { pictureUrl, post } from "./api.js";
import { CAPTIONS, captionOf, clusterOf, isDropped, store } from "./store.js";

const PAUSE = 200; // milliseconds without a key until a caption is checked

const forms = Object.fromEntries(
  [...document.querySelectorAll("form.caption")].map((form) => [form.dataset.caption, form]),
);

let picture = null;
let shown = {}; // {caption: text as it was when it was put into its field}
let warnings = {}; // {caption: lines that stay until its text is saved or taken back}

/** Makes the panel; `save(caption)` saves what was typed. */
export function setUp({ save }) {
  for (const [name, form] of Object.entries(forms)) {
    const field = form.querySelector("textarea");
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      save(name);
    });
    form.addEventListener("reset", (event) => {
      event.preventDefault();
      fill(name);
      leave(name);
    });
    field.addEventListener("keydown", (event) => {
      if (event.key === "Enter" && !event.isComposing) {
        event.preventDefault(); // a caption is one line
        form.requestSubmit();
      } else if (event.key === "Escape") form.reset();
      else return;
      event.stopPropagation();
    });
    field.addEventListener("input", () => typed(name));
  }
}

export function show(next) {
  const other = picture?.id !== next?.id;
  picture = next;
  for (const name of CAPTIONS) {
    forms[name].hidden = !next;
    if (other || !isEdited(name)) fill(name);
    else if (captionOf(picture, name) !== shown[name]) warn(name);
  }
  tellVerdict();
  document.querySelector("#cluster").hidden = true;
  if (other) for (const id of ["findings", "provenance"]) document.querySelector(`#${id}`).replaceChildren();
}

export const edit = (name) => {
  const field = forms[name].querySelector("textarea");
  field.focus();
  field.setSelectionRange(field.value.length, field.value.length);
};

export const leave = (name) => forms[name].querySelector("textarea").blur();

/** The captions that were changed and not saved. */
export const edited = () => (picture ? CAPTIONS.filter(isEdited) : []).map((name) => [name, textIn(name)]);

export function tellFaults(name, faults) {
  const lines = [...(warnings[name] ?? []), ...faults];
  forms[name].querySelector(".faults").replaceChildren(...lines.map((line) => element("li", line)));
}

/** Takes note that a text was saved; what was typed since stays in its field. */
export function saved(name, text) {
  if (textIn(name) === text) return fill(name);
  shown[name] = captionOf(picture, name);
  warnings[name] = [];
  tellFaults(name, []);
  typed(name);
}

/** Puts the text that counts into a field. */
function fill(name) {
  const text = picture ? captionOf(picture, name) : "";
  shown[name] = text;
  warnings[name] = [];
  forms[name].querySelector("textarea").value = text;
  forms[name].classList.remove("edited");
  tellFaults(name, picture?.state.faults[name] ?? []);
}

export function tellDetails({ decisions, provenance }) {
  const flagged = decisions.filter((each) => each.verdict !== "keep");
  const rest = decisions.filter((each) => each.verdict === "keep");
  document.querySelector("#findings").replaceChildren(
    ...(flagged.length ? [element("h2", "Why it is flagged or dropped"), list(flagged)] : []),
    ...(rest.length ? [folded(`Checks passed: ${rest.length}`, list(rest))] : []),
  );
  const known = Object.entries(provenance).filter(([, value]) => value !== null && value !== "");
  document.querySelector("#provenance").replaceChildren(
    element("h2", "Where it is from"),
    element("p", origin(provenance)),
    folded("All", table(known)),
  );
}

/** Shows the duplicates of the picture; `look(picture)` and `swap(picture)` are done on a click. */
export function tellCluster({ look, swap }) {
  const members = picture ? clusterOf(picture) : [];
  const box = document.querySelector("#cluster");
  box.hidden = members.length < 2;
  if (box.hidden) return;
  box.querySelector("h2").replaceChildren(
    `${members.length} alike `,
    button("show in the grid", () => look(null), "link"),
  );
  box.querySelector(".members").replaceChildren(...members.map((each) => member(each, look, swap)));
}

function member(each, look, swap) {
  const card = element("figure");
  const img = element("img");
  img.src = pictureUrl(each, "colour", "thumb");
  img.alt = each.id;
  const open = button("", () => look(each), "thumb");
  open.append(img);
  open.setAttribute("aria-current", each.id === picture.id);
  const status = each.state.verdict || (isDropped(each) ? "dropped" : "kept");
  const kind = each.duplicate.kind;
  card.dataset.status = status;
  card.append(open, element("figcaption", kind ? `${status}: ${kind}` : status));
  if (!each.failed && (isDropped(each) || each.state.verdict === "reject")) {
    card.append(button("keep this one instead", () => swap(each)));
  }
  return card;
}

const isEdited = (name) => textIn(name) !== shown[name];
const textIn = (name) => forms[name].querySelector("textarea").value;

let waiting = 0;

function typed(name) {
  forms[name].classList.toggle("edited", isEdited(name));
  clearTimeout(waiting);
  const [id, text] = [picture.id, textIn(name)];
  waiting = setTimeout(async () => {
    const { faults } = await post("/api/check", { caption: name, text }).catch((error) => ({ faults: [error.message] }));
    if (picture?.id === id && textIn(name) === text) tellFaults(name, faults);
  }, PAUSE);
}

/** Somebody else has saved another text while this one was typed. */
function warn(name) {
  shown[name] = captionOf(picture, name);
  const by = picture.state.last?.[0] ?? "somebody";
  warnings[name] = [`${by} has saved meanwhile: ${shown[name]}`, "Enter saves yours instead, Esc takes theirs."];
  tellFaults(name, []);
}

function tellVerdict() {
  const line = document.querySelector("#verdict");
  line.dataset.status = "";
  line.textContent = "";
  if (!picture) return;
  const { verdict, reason, decided } = picture.state;
  line.dataset.status = verdict || (isDropped(picture) ? "dropped" : "");
  const by = decided ? ` by ${decided[0]}, ${new Date(decided[1]).toLocaleString()}` : "";
  const said = {
    accept: `Accepted${by}`,
    reject: `Rejected${by}${reason ? `: ${reason}` : ""}`,
    dropped: picture.failed ? "Could not be worked on; see below" : "Dropped by the filters; Accept brings it back",
  };
  line.textContent = said[line.dataset.status] ?? "Not reviewed yet";
  if (!verdict) return;
  const clear = button("take back", () => {}, "link");
  clear.dataset.do = "clear";
  line.append(" ", clear);
}

function list(decisions) {
  const items = decisions.map((each) => {
    const item = element("li");
    item.dataset.verdict = each.verdict;
    const number = (value) => (value === null ? "" : String(Math.round(value * 1e4) / 1e4));
    const limit = each.threshold === null ? "" : ` (threshold ${number(each.threshold)})`;
    item.append(
      element("b", `${each.stage}/${each.check}`),
      element("i", each.verdict),
      element("span", each.reason),
      element("small", each.score === null ? "" : `score ${number(each.score)}${limit}`),
    );
    return item;
  });
  const box = element("ul");
  box.className = "decisions";
  box.append(...items);
  return box;
}

/** The film or folder, and the place in it. */
function origin({ file, seconds, shot, frame }) {
  const told = [store.sources[picture.source], file];
  if (seconds !== undefined) told.push(clock(Number(seconds)));
  if (shot !== undefined) told.push(`shot ${shot}`);
  if (frame !== undefined) told.push(`frame ${frame}`);
  return told.filter(Boolean).join(", ");
}

function clock(seconds) {
  const parts = [seconds / 3600, (seconds / 60) % 60].map((value) => String(Math.floor(value)).padStart(2, "0"));
  return `${parts.join(":")}:${(seconds % 60).toFixed(2).padStart(5, "0")}`;
}

function table(entries) {
  const box = element("dl");
  for (const [key, value] of entries) {
    const text = typeof value === "object" ? JSON.stringify(value) : String(value);
    box.append(element("dt", key), element("dd", text));
  }
  return box;
}

function folded(title, content) {
  const box = element("details");
  box.append(element("summary", title), content);
  return box;
}

/** Text never becomes markup: it is only ever given as textContent. */
export function element(name, text = "") {
  const made = document.createElement(name);
  made.textContent = text;
  return made;
}

export function button(text, onClick, kind = "") {
  const made = element("button", text);
  made.type = "button";
  made.className = kind;
  made.addEventListener("click", onClick);
  return made;
}

