// Talks to the server; every request that changes something carries the token of this page.

let token = document.querySelector('meta[name="token"]').content;

export class RequestError extends Error {
  constructor(status, answer) {
    super(answer.error ?? `The server answered ${status}.`);
    this.status = status;
    this.answer = answer;
  }
}

export async function get(path) {
  return read(await reach(path, {}));
}

export async function post(path, body) {
  const response = await send(path, body);
  if (response.status === 403 && (await response.clone().json()).stale) {
    await renewToken(); // the server was started anew; it knows all that it told of before
    return read(await send(path, body));
  }
  return read(response);
}

export function pictureUrl(picture, form, size) {
  const hash = picture.forms[form];
  return hash ? `/picture/${picture.id}/${form}/${size}?v=${hash}` : "";
}

function send(path, body) {
  const headers = { "Content-Type": "application/json", "X-Review-Token": token };
  return reach(path, { method: "POST", headers, body: JSON.stringify(body) });
}

async function reach(path, options) {
  try {
    return await fetch(path, options);
  } catch {
    throw new RequestError(0, { error: "The server does not answer. Is it still running?" });
  }
}

async function read(response) {
  const answer = await response.json();
  if (!response.ok) throw new RequestError(response.status, answer);
  return answer;
}

async function renewToken() {
  const page = await (await reach("/", {})).text();
  token = new DOMParser().parseFromString(page, "text/html").querySelector('meta[name="token"]').content;
}
