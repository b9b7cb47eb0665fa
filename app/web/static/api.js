// Calls to the service.

export class Problem extends Error {
  constructor(status, document) {
    super(document.detail || document.title || `status ${status}`);
    this.status = status;
    this.document = document;
  }
}

export class Offline extends Error {}

export const path = (...parts) => "/v1/" + parts.map(encodeURIComponent).join("/");

export const picture = (project, image, side) =>
  `${path("projects", project, "images", image, "thumbnail")}?side=${side}`;

// The JSON answer. Throws Problem when the service refuses, Offline when nobody answers.
export async function call(method, address, { body, form, key } = {}) {
  const headers = {};
  if (key) headers["Idempotency-Key"] = key;
  if (body !== undefined) headers["Content-Type"] = "application/json";
  let answer;
  try {
    answer = await fetch(address, {
      method, headers, body: form ?? (body === undefined ? undefined : JSON.stringify(body)),
    });
  } catch {
    throw new Offline("the service cannot be reached");
  }
  const text = await answer.text();
  let content = null;
  try {
    content = text ? JSON.parse(text) : null;
  } catch {
    throw new Problem(answer.status, { detail: `the answer is not JSON: ${text.slice(0, 100)}` });
  }
  if (!answer.ok) throw new Problem(answer.status, content ?? {});
  return content;
}

export const get = (address) => call("GET", address);
export const post = (address, body) => call("POST", address, { body });

// All items of a list, page by page.
export async function all(address) {
  const items = [];
  let cursor = null;
  do {
    const more = cursor ? `&cursor=${encodeURIComponent(cursor)}` : "";
    const page = await get(`${address}${address.includes("?") ? "&" : "?"}limit=1000${more}`);
    items.push(...page.items);
    cursor = page.next_cursor;
  } while (cursor);
  return items;
}
