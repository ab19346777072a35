// What is known of the pictures, and which of them are shown.

export const CAPTIONS = ["caption_sketch", "caption_color"];
export const STATUSES = ["unreviewed", "flagged", "accepted", "rejected", "dropped", "all"];

const NO_FILTER = { status: "unreviewed", why: "", source: "", cluster: "", text: "" };

export const store = {
  pictures: [],
  byId: new Map(),
  sources: {},
  reasons: [],
  seq: 0, // of the last line of the log that this page knows of
  filter: { ...NO_FILTER },
  list: [], // what the filter found when it was last set; decisions do not shorten it
  current: null,
  selected: new Set(),
};

export function load(overview) {
  Object.assign(store, { sources: overview.sources, reasons: overview.reasons, seq: overview.seq });
  store.pictures = overview.pictures;
  store.byId = new Map(overview.pictures.map((picture) => [picture.id, picture]));
}

/** Takes over what the server says of some pictures; older news than ours is passed over. */
export function merge(states) {
  const changed = [];
  for (const [id, state] of Object.entries(states ?? {})) {
    const picture = store.byId.get(id);
    if (!picture || state.seq < picture.state.seq) continue;
    if (state.seq > picture.state.seq) changed.push(picture);
    picture.state = state;
  }
  return changed;
}

export const isDropped = (picture) => picture.drops.length > 0 && !picture.state.verdict;
export const isFlagged = (picture) => picture.flags.length > 0 && picture.drops.length === 0;
export const isOpen = (picture) => !picture.state.verdict && picture.drops.length === 0;

export function captionOf(picture, name) {
  return picture.state.captions[name] ?? picture.captions[name] ?? "";
}

/** The form that is shown as the sketch. */
export const linesOf = (picture) => (picture.forms.adjusted ? "adjusted" : "sketch");

const IS = {
  unreviewed: isOpen,
  flagged: isFlagged,
  accepted: (picture) => picture.state.verdict === "accept",
  rejected: (picture) => picture.state.verdict === "reject",
  dropped: isDropped,
  all: () => true,
};

/** Makes of a filter a function that tells whether a picture passes. */
export function passes(filter) {
  const words = wanted(filter.text);
  return (picture) =>
    IS[filter.status](picture) &&
    (!filter.why || reasonsFor(picture).includes(filter.why)) &&
    (!filter.source || picture.source === filter.source) &&
    (!filter.cluster || picture.duplicate?.cluster === filter.cluster) &&
    (!words.length || words.every((has) => has(searched(picture), picture.id)));
}

/** "flag stage/check", "drop stage/check", and "fault caption" where a caption is wrong. */
export function reasonsFor(picture) {
  const faulty = CAPTIONS.some((name) => picture.state.faults[name]?.length);
  return [
    ...picture.flags.map((check) => `flag ${check}`),
    ...picture.drops.map((check) => `drop ${check}`),
    ...(faulty ? ["fault caption"] : []),
  ];
}

export function setFilter(change) {
  store.filter = { ...store.filter, ...change };
  store.list = store.pictures.filter(passes(store.filter));
  store.selected.clear();
}

/** How many pictures each status has under the other filters. */
export function counts() {
  const others = passes({ ...store.filter, status: "all" });
  const within = store.pictures.filter(others);
  return Object.fromEntries(STATUSES.map((name) => [name, within.filter(IS[name]).length]));
}

export function progress() {
  const all = store.pictures.filter((picture) => !isDropped(picture));
  return { reviewed: all.filter((picture) => picture.state.verdict).length, all: all.length };
}

/** How many pictures have each value, most first. */
export function tally(pictures, valuesOf) {
  const count = new Map();
  for (const picture of pictures) {
    for (const value of new Set(valuesOf(picture))) count.set(value, (count.get(value) ?? 0) + 1);
  }
  return [...count].sort((a, b) => b[1] - a[1] || (a[0] < b[0] ? -1 : 1));
}

/** The words of a picture's captions, or what is between their commas; in small letters. */
export function wordsOf(picture, unit) {
  const text = CAPTIONS.map((name) => captionOf(picture, name).toLowerCase());
  const pieces = unit === "tags" ? text.join(",").split(",") : text.join(" ").match(WORD) ?? [];
  return pieces.map((piece) => piece.trim()).filter(Boolean);
}

const WORD = /[\p{L}\p{N}][\p{L}\p{N}'_-]*/gu;

function searched(picture) {
  return CAPTIONS.map((name) => captionOf(picture, name)).join("\n").toLowerCase();
}

/** Takes a search apart: words, of which parts will do, and "whole words" in quotes. */
function wanted(text) {
  const parts = text.toLowerCase().match(/"[^"]*"|\S+/g) ?? [];
  return parts.map((part) => {
    const whole = part.match(/^"([^"]+)"$/);
    if (!whole) return (captions, id) => captions.includes(part) || id.toLowerCase().includes(part);
    const escaped = whole[1].replace(/[.*+?^${}()|[\]\\]/g, "\\$&");
    const inside = "[\\p{L}\\p{N}'_-]"; // of words, as in WORD
    const expression = new RegExp(`(?<!${inside})${escaped}(?!${inside})`, "u");
    return (captions) => expression.test(captions);
  });
}

export function clusterOf(picture) {
  const cluster = picture.duplicate?.cluster;
  return cluster ? store.pictures.filter((other) => other.duplicate?.cluster === cluster) : [];
}
