// The review page: what the keys and buttons do.

import { get, post } from "./api.js";
import * as dialogs from "./dialogs.js";
import * as filters from "./filters.js";
import * as grid from "./grid.js";
import * as panel from "./panel.js";
import { isDropped, isOpen, load, merge, setFilter, store } from "./store.js";
import * as viewer from "./viewer.js";

const AHEAD = 3; // pictures asked for before they are looked at
const OFTEN = 4000; // milliseconds between looks at what others have decided
const STEP = 60; // CSS pixels that a key moves a picture
const TOLD = 6000; // milliseconds that a message stays

let reviewer = null;

// Every command: its keys, what it says in the help, what it does; `types` if one types after it.
const COMMANDS = [
  { name: "next", keys: ["ArrowRight", "n", "j"], says: "next picture", run: () => step(1) },
  { name: "previous", keys: ["ArrowLeft", "p", "k"], says: "previous picture", run: () => step(-1) },
  { name: "open", keys: [" ", "f"], says: "next one that nobody has reviewed", run: nextOpen },
  { name: "accept", keys: ["a"], says: "accept; brings back a dropped one", run: () => decide("accept") },
  { name: "reject", types: true, keys: ["r", "x"], says: "reject, with a reason", run: reject },
  { name: "clear", keys: ["o"], says: "take the verdict back: not reviewed", run: () => decide("open") },
  { name: "undo", keys: ["u", "Ctrl+z"], says: "undo what you did last, again and again", run: undo },
  { name: "edit", types: true, keys: ["e"], says: "edit the sketch caption (Enter saves, Esc leaves)", run: () => edit("caption_sketch") },
  { name: "edit-color", types: true, keys: ["Shift+e"], says: "edit the colour caption", run: () => edit("caption_color") },
  { name: "side", keys: ["1"], says: "colour and sketch beside each other", run: () => viewer.setMode("side") },
  { name: "over", keys: ["2"], says: "over each other, with a slider", run: () => viewer.setMode("over") },
  { name: "colour", keys: ["3"], says: "colour only", run: () => viewer.setMode("colour") },
  { name: "lines", keys: ["4"], says: "sketch only", run: () => viewer.setMode("lines") },
  { name: "mode", keys: ["v"], says: "the next of these views", run: viewer.nextMode },
  { name: "slide-left", keys: ["["], says: "slider to the left", run: () => viewer.nudgeSlider(-0.05) },
  { name: "slide-right", keys: ["]"], says: "slider to the right", run: () => viewer.nudgeSlider(0.05) },
  { name: "zoom", keys: ["z", "0"], says: "whole picture or 100% (or double click)", run: () => viewer.toggleZoom() },
  { name: "zoom-in", keys: ["+", "="], says: "larger (or the wheel)", run: () => viewer.zoomBy(1.25) },
  { name: "zoom-out", keys: ["-"], says: "smaller", run: () => viewer.zoomBy(0.8) },
  { name: "left", keys: ["Shift+ArrowLeft"], says: "move the picture (or drag it)", run: () => viewer.panBy(-STEP, 0) },
  { name: "right", keys: ["Shift+ArrowRight"], says: "", run: () => viewer.panBy(STEP, 0) },
  { name: "up", keys: ["Shift+ArrowUp"], says: "", run: () => viewer.panBy(0, -STEP) },
  { name: "down", keys: ["Shift+ArrowDown"], says: "", run: () => viewer.panBy(0, STEP) },
  { name: "alike", keys: ["c"], says: "next one of those that are alike", run: nextAlike },
  { name: "swap", keys: ["i"], says: "of those alike, keep this one instead", run: () => swap(store.current) },
  { name: "grid", keys: ["g"], says: "all as a grid, and back (Space selects, Enter opens)", run: () => setGrid(!grid.isOpen()) },
  { name: "select-all", keys: ["Ctrl+a"], says: "select all in the grid", run: () => grid.isOpen() && grid.selectAll(true) },
  { name: "select-none", keys: ["Escape"], says: "select none; leave the grid", run: escape },
  { name: "replace", types: true, keys: ["b"], says: "replace in the captions of the filter", run: () => dialogs.openReplace(replace) },
  { name: "words", types: true, keys: ["w"], says: "count words", run: () => dialogs.openWords(search) },
  { name: "search", types: true, keys: ["/"], says: "search", run: filters.focusSearch },
  { name: "name", types: true, keys: [], says: "", run: () => name(true) },
  { name: "help", types: true, keys: ["?"], says: "this list", run: () => dialogs.openHelp(listed()) },
];
const BY_NAME = new Map(COMMANDS.map((command) => [command.name, command]));
const BY_KEY = new Map(COMMANDS.flatMap((command) => command.keys.map((key) => [key, command])));
const listed = () => COMMANDS.filter((command) => command.says);

// Commands wait for each other, so that keys pressed fast each meet the next picture. While one
// waits after which one types, keys do nothing: they are meant for its field.
let queue = Promise.resolve();
let waiting = 0;
let typing = 0;

function perform(command) {
  const begun = async () => {
    typing -= Boolean(command.types); // its field or dialog opens now, and takes the keys
    await command.run();
  };
  const run = async () => {
    await begun().catch((error) => tell(error.message, true));
    waiting -= 1;
  };
  waiting += 1;
  typing += Boolean(command.types);
  queue = waiting === 1 ? run() : queue.then(run);
}

async function begin() {
  load(await get("/api/pictures"));
  document.title = `Review: ${store.pictures.length} pictures`;
  panel.setUp({ save: (caption) => perform({ run: () => saveTyped(caption) }) });
  grid.setUp({ open: (picture) => perform({ run: () => open(picture) }) });
  filters.setUp({ change: (change) => perform({ run: () => filter(change) }) });
  viewer.setMode(innerWidth < 700 ? "over" : "side");
  const linked = store.byId.get(location.hash.slice(1));
  setFilter({});
  if (!store.list.length) setFilter({ status: "all" });
  go(linked ?? store.list[0] ?? null);
  filters.refresh();
  document.body.dataset.ready = "yes";
  await name(false);
  setInterval(() => document.hidden || follow().catch((error) => tell(error.message, true)), OFTEN);
}

/** Shows a picture. */
function go(picture) {
  store.current = picture;
  if (picture) history.replaceState(null, "", `#${picture.id}`);
  refresh();
  if (!picture) return;
  const place = store.list.indexOf(picture);
  viewer.prefetch(store.list.slice(place + 1, place + 1 + AHEAD));
  get(`/api/picture/${picture.id}`)
    .then((details) => store.current === picture && panel.tellDetails(details))
    .catch((error) => tell(error.message, true));
}

/** Brings all that is seen up to date. */
function refresh(changed = []) {
  const picture = store.current;
  viewer.show(picture);
  viewer.sayNothing(store.pictures.length ? "No picture is left under this filter." : "There are no pictures yet.");
  panel.show(picture);
  panel.tellCluster({ look: lookAt, swap: (member) => perform({ run: () => swap(member) }) });
  const place = store.list.indexOf(picture);
  document.querySelector("#place").textContent = picture
    ? `${place < 0 ? "-" : place + 1} / ${store.list.length}   ${picture.size.join(" x ")}   ${picture.id}`
    : "";
  const accept = document.querySelector("#accept span");
  accept.textContent = picture && isDropped(picture) ? "Restore" : "Accept";
  for (const [id, verdict] of [["accept", "accept"], ["reject", "reject"]]) {
    document.querySelector(`#${id}`).setAttribute("aria-pressed", picture?.state.verdict === verdict);
  }
  grid.refresh(changed);
  filters.refresh();
}

async function step(by) {
  if (grid.isOpen() || !(await settled())) return;
  const place = store.list.indexOf(store.current) + by;
  if (store.list[place]) go(store.list[place]);
  else tell(by > 0 ? "That was the last one of this filter." : "This is the first one.");
}

async function nextOpen() {
  if (grid.isOpen() || !(await settled())) return;
  const place = store.list.indexOf(store.current);
  const order = [...store.list.slice(place + 1), ...store.list.slice(0, place + 1)];
  const open = order.find(isOpen);
  if (open) go(open);
  else tell("All that this filter shows is reviewed.");
}

/** Saves what was typed; answers whether the picture may be left. */
async function settled() {
  for (const [caption, text] of panel.edited()) {
    if (!(await saveCaption(store.current, caption, text))) return false;
  }
  return true;
}

async function decide(action, value = "") {
  const pictures = grid.isOpen() ? grid.chosen() : [store.current].filter(Boolean);
  if (!pictures.length || !(await settled())) return;
  const entries = pictures.map((picture) => entry(picture, action, value));
  if (!(await send(entries))) return;
  if (grid.isOpen()) {
    grid.selectAll(false);
    tell(`${pictures.length} ${{ accept: "accepted", reject: "rejected", open: "not reviewed" }[action]}.`);
  } else if (action !== "open" && store.list.includes(store.current)) await step(1);
}

async function reject() {
  const any = grid.isOpen() ? grid.chosen().length : store.current;
  const reason = any ? await dialogs.askReason() : null;
  if (reason !== null) await decide("reject", reason);
}

/** Keeps one of several that are alike, in place of the one that is shown or that was kept. */
async function swap(member) {
  const shown = store.current;
  if (!member?.duplicate || !(await settled())) return;
  const other = shown.id === member.id ? store.byId.get(member.duplicate.of) : shown;
  const entries = [entry(member, "accept", "")];
  if (other && other.id !== member.id && !isDropped(other) && other.state.verdict !== "reject") {
    entries.push(entry(other, "reject", `duplicate; ${member.id} is kept instead`));
  }
  if (await send(entries)) go(member);
}

const entry = (picture, action, value) => ({ id: picture.id, seq: picture.state.seq, action, value });

/** Sends decisions; answers whether they were taken. */
async function send(entries) {
  try {
    const answer = await post("/api/decide", { reviewer: await name(false), entries });
    refresh(merge(answer.states));
    return true;
  } catch (error) {
    const changed = merge(error.answer?.states);
    refresh(changed);
    const by = changed[0]?.state.last?.[0];
    tell(by ? `${by} was faster; this is how it is now. Nothing of yours was written.` : error.message, true);
    return false;
  }
}

/** Saves what was typed into a field, and leaves it unless more was typed meanwhile. */
async function saveTyped(caption) {
  const typed = () => panel.edited().find(([name]) => name === caption)?.[1];
  const text = typed();
  if (text !== undefined && !(await saveCaption(store.current, caption, text))) return;
  if (typed() === undefined) panel.leave(caption);
}

async function saveCaption(picture, caption, text) {
  const before = picture.state.seq;
  const taken = await send([entry(picture, caption, text)]);
  if (taken) {
    panel.saved(caption, text);
    tell("Caption saved.");
  } else if (picture.state.seq === before) {
    const { faults } = await post("/api/check", { caption, text });
    if (faults.length) panel.tellFaults(caption, faults);
    panel.edit(caption);
  }
  return taken;
}

async function undo() {
  const { states, undone } = await post("/api/undo", { reviewer: await name(false) });
  const changed = merge(states);
  if (!undone.length) {
    tell("There is nothing of yours left to undo.");
    return;
  }
  const [first] = undone;
  if (!grid.isOpen()) go(store.byId.get(first.id) ?? store.current);
  refresh(changed);
  const more = undone.length > 1 ? ` and ${undone.length - 1} more` : "";
  tell(`Undone: ${first.action.replace("_", " ")} of ${first.id}${more}.`);
}

async function replace(body) {
  const answer = await post("/api/replace", { ...body, reviewer: await name(false) });
  refresh(merge(answer.states));
  return answer.count;
}

function edit(caption) {
  if (store.current && !grid.isOpen()) panel.edit(caption);
}

function nextAlike() {
  const { current } = store;
  const alike = store.pictures.filter(
    (each) => each.duplicate && each.duplicate.cluster === current?.duplicate?.cluster,
  );
  if (alike.length > 1) return leaveFor(alike[(alike.indexOf(current) + 1) % alike.length]);
  tell("Nothing is like this one.");
}

const leaveFor = async (picture) => (await settled()) && go(picture);

/** Looks at one of those alike, or at all of them in the grid. */
function lookAt(picture) {
  const { cluster } = store.current.duplicate;
  const all = () => filter({ cluster, status: "all" }).then(() => setGrid(true));
  perform({ run: () => (picture ? leaveFor(picture) : all()) });
}

async function open(picture) {
  setGrid(false);
  go(picture);
}

async function setGrid(on) {
  if (on && !(await settled())) return;
  grid.toggle(on);
  if (!on) viewer.show(store.current);
}

function escape() {
  if (store.selected.size) grid.selectAll(false);
  else if (grid.isOpen()) grid.toggle(false);
}

async function filter(change) {
  if (!(await settled())) return filters.refresh();
  setFilter(change);
  if (!store.list.includes(store.current)) go(store.list[0] ?? null);
  else refresh();
  if (grid.isOpen()) grid.fill();
}

const search = (text) => perform({ run: () => filter({ text }) });

async function name(again) {
  reviewer = again || !reviewer ? await dialogs.askName(again) : reviewer;
  document.querySelector("#reviewer").textContent = reviewer ?? "Name";
  if (!reviewer) throw new Error("Say who you are first.");
  return reviewer;
}

/** Takes over what others have decided. */
async function follow() {
  const { states, seq } = await get(`/api/changes?since=${store.seq}`);
  store.seq = Math.max(store.seq, seq);
  const changed = merge(states);
  if (changed.length) refresh(changed);
}

let hiding = 0;

function tell(text, bad = false) {
  const line = document.querySelector("#told");
  line.textContent = text;
  line.classList.toggle("bad", bad);
  clearTimeout(hiding);
  hiding = setTimeout(() => (line.textContent = ""), TOLD);
}

document.addEventListener("keydown", (event) => {
  // The field of a dialog that has just been closed has the focus for a moment longer.
  const field = event.target.closest("input, textarea, select");
  if (dialogs.anyOpen() || field?.checkVisibility()) return;
  const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
  const shift = event.shiftKey && /^[a-z]$|^Arrow/.test(key) ? "Shift+" : "";
  const command = BY_KEY.get((event.ctrlKey || event.metaKey ? "Ctrl+" : "") + shift + key);
  if (!command || event.altKey) return;
  if (typing) {
    event.preventDefault();
    return;
  }
  // Space and Enter press the button that has the focus.
  if (key === " " && event.target.closest("button, summary")) return;
  event.preventDefault();
  perform(command);
});

document.addEventListener("click", (event) => {
  const pressed = event.target.closest("[data-do], #modes [data-mode]");
  if (pressed) perform(BY_NAME.get(pressed.dataset.do ?? pressed.dataset.mode));
});

addEventListener("beforeunload", (event) => panel.edited().length && event.preventDefault());

begin().catch((error) => tell(error.message, true));
