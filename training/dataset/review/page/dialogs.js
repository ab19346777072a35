// The dialogs: keys, reasons for a rejection, the reviewer's name, batch replace, words.

import { post } from "./api.js";
import { button, element } from "./panel.js";
import { captionOf, store, tally, wordsOf } from "./store.js";

const LISTED = 500; // words

const dialog = (id) => document.querySelector(`#${id}`);

for (const each of document.querySelectorAll("dialog")) {
  each.addEventListener("click", (event) => {
    if (event.target.closest("[data-close]") || event.target === each) each.close();
  });
}

export const anyOpen = () => Boolean(document.querySelector("dialog[open]"));

export function openHelp(commands) {
  const rows = commands.flatMap(({ keys, says }) => {
    const term = element("dt");
    term.append(...keys.map((key) => element("kbd", named(key))));
    return [term, element("dd", says)];
  });
  dialog("help").querySelector("dl").replaceChildren(...rows);
  dialog("help").showModal();
}

/** Asks why; answers the reason, or null if it was left. */
export function askReason() {
  const box = dialog("rejecting");
  const field = box.querySelector("input");
  field.value = "";
  return new Promise((answer) => {
    let reason = null;
    const done = (text) => {
      reason = text;
      box.close();
    };
    const choices = store.reasons.map((text, k) => {
      const choice = button(text, () => done(text));
      if (k < 9) choice.prepend(element("kbd", String(k + 1)));
      return choice;
    });
    box.querySelector(".choices").replaceChildren(...choices);
    field.onkeydown = (event) => {
      const picked = store.reasons[Number(event.key) - 1];
      if (field.value || !picked || event.ctrlKey || event.metaKey || event.altKey) return;
      event.preventDefault();
      done(picked);
    };
    box.querySelector("form").onsubmit = (event) => {
      event.preventDefault();
      done(field.value.trim());
    };
    box.onclose = () => answer(reason);
    box.showModal();
    field.focus();
  });
}

/** Asks for the reviewer's name, unless this browser knows it or `again` is set. */
export async function askName(again = false) {
  const known = localStorage.getItem("reviewer");
  if (known && !again) return known;
  const box = dialog("naming");
  const field = box.querySelector("input");
  field.value = known ?? "";
  return new Promise((answer) => {
    box.querySelector("form").onsubmit = (event) => {
      event.preventDefault();
      const name = field.value.trim().replace(/\s+/g, " ");
      if (!name) return;
      localStorage.setItem("reviewer", name);
      box.close();
    };
    box.onclose = () => answer(localStorage.getItem("reviewer"));
    box.showModal();
  });
}

/** Replaces in the captions of the filter's pictures; `apply(body)` does it and answers how many. */
export function openReplace(apply) {
  const box = dialog("replacing");
  const form = box.querySelector("form");
  const told = box.querySelector("#replace-told");
  const changes = box.querySelector("#replace-changes");
  const { apply: go, preview } = form.elements;
  let asked = null; // what was previewed, with its token

  const forget = () => {
    asked = null;
    go.disabled = true;
    told.textContent = "";
    changes.replaceChildren();
  };
  const run = async (work) => {
    preview.disabled = go.disabled = true;
    told.textContent = "...";
    await work().catch((error) => {
      forget();
      told.textContent = error.message;
    });
    preview.disabled = false;
  };
  form.oninput = forget;
  form.onsubmit = (event) => {
    event.preventDefault();
    run(async () => {
      const body = request(form);
      const answer = await post("/api/replace", body);
      asked = { ...body, token: answer.token };
      told.textContent = counted(answer);
      changes.replaceChildren(...answer.changes.map(changeOf));
      go.disabled = !answer.count;
    });
  };
  go.onclick = () =>
    run(async () => {
      const count = await apply(asked);
      forget();
      told.textContent = `${count} captions were changed. U takes all of it back.`;
    });
  forget();
  box.querySelector("#replace-scope").textContent =
    `In the ${store.list.length} pictures that the filter shows.`;
  box.showModal();
  form.elements.find.focus();
}

/** Counts the words of the pictures that the filter shows; a click searches for one. */
export function openWords(search) {
  const box = dialog("wording");
  const fill = () => {
    const unit = box.querySelector("[name=unit]:checked").value;
    const rare = box.querySelector("[name=rare]").checked;
    const words = tally(store.list, (picture) => wordsOf(picture, unit));
    if (rare) words.reverse();
    box.querySelector("#words-scope").textContent =
      `${words.length} different ones in ${store.list.length} pictures` +
      (words.length > LISTED ? `; the first ${LISTED}:` : ":");
    box.querySelector("tbody").replaceChildren(...words.slice(0, LISTED).map(([word, count]) => {
      const row = element("tr");
      const cell = element("td");
      cell.append(button(word, () => {
        box.close();
        search(`"${word.replaceAll('"', "")}"`);
      }, "link"));
      row.append(cell, element("td", String(count)));
      return row;
    }));
  };
  for (const field of box.querySelectorAll("input")) field.onchange = fill;
  fill();
  box.showModal();
}

function request(form) {
  const { caption, find, replace, regex, ignore_case } = form.elements;
  const has = (picture) => captionOf(picture, caption.value);
  return {
    ids: store.list.filter(has).map((picture) => picture.id),
    caption: caption.value,
    find: find.value,
    replace: replace.value,
    regex: regex.checked,
    ignore_case: ignore_case.checked,
  };
}

function counted({ count, left, changes }) {
  const listed = changes.length < count + left ? `; the first ${changes.length} are listed` : "";
  const wrong = left ? ` ${left} would become wrong and stay as they are.` : "";
  return `${count} captions would change${listed}.${wrong}`;
}

function changeOf({ id, before, after, faults }) {
  const item = element("li");
  item.append(element("del", before), element("ins", after), element("small", id));
  if (faults.length) item.append(element("strong", `stays as it is: ${faults.join(" ")}`));
  return item;
}

function named(key) {
  const names = { ArrowRight: "\u2192", ArrowLeft: "\u2190", " ": "Space" };
  return key.replace(/Arrow\w+$| $/, (name) => names[name] ?? name);
}
