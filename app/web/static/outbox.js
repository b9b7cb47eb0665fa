// Labels on their way to the service: kept in the browser until they have arrived.

import { call, Offline, path, Problem } from "./api.js";
import { fill, h, say } from "./dom.js";
import { t } from "./strings.js";

const RETRY_MS = [500, 1000, 2000, 5000, 10000];
const BUSY = [429, 503];
const STORE = "handful outbox ";
const tab = (sessionStorage.tab ??= unique());
const waiting = JSON.parse(localStorage.getItem(STORE + tab) ?? "[]");
let sending = false;
let failures = 0;

// crypto.randomUUID exists only under https and on localhost.
function unique() {
  return [...crypto.getRandomValues(new Uint8Array(16))].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}

function keep() {
  if (waiting.length) localStorage.setItem(STORE + tab, JSON.stringify(waiting));
  else localStorage.removeItem(STORE + tab);
}

// Take over what tabs have left that were closed. A tab holds a lock as long as it lives.
async function inherit() {
  if (!navigator.locks) return;
  navigator.locks.request(STORE + tab, () => new Promise(() => {}));
  for (const key of Object.keys(localStorage).filter((one) => one.startsWith(STORE))) {
    if (key === STORE + tab) continue;
    await navigator.locks.request(key, { ifAvailable: true }, (lock) => {
      if (!lock) return;
      waiting.push(...JSON.parse(localStorage.getItem(key) ?? "[]"));
      keep();
      localStorage.removeItem(key);
    });
  }
  deliver();
}

// Who labels, as the service is told.
export const annotator = () => localStorage.getItem("annotator") || "browser";

// Send a change some time; it survives a reload. `address` is below the project.
export function send(project, method, address, body) {
  waiting.push({ project, method, address, body, key: unique() });
  keep();
  deliver();
}

// Take back the last change of an image that has not been sent; whether there was one.
export function withdraw(project, image) {
  const place = waiting.findLastIndex(
    (one, n) => one.project === project && one.address[1] === image && !(sending && n === 0));
  if (place < 0) return false;
  waiting.splice(place, 1);
  keep();
  state.draw();
  return true;
}

async function deliver() {
  state.draw();
  if (sending || !waiting.length) return;
  sending = true;
  const [first] = waiting;
  try {
    const answer = await call(first.method, path("projects", first.project, ...first.address),
      { body: first.body, key: first.method === "POST" ? first.key : undefined });
    failures = 0;
    const failed = answer?.failed ?? []; // of many labels those that could not be set
    if (failed.length) say(t("not_labeled", { count: failed.length, reason: failed[0].problem.detail }));
  } catch (error) {
    if (error instanceof Offline || BUSY.includes(error.status) || error.status >= 500) {
      sending = false;
      setTimeout(deliver, RETRY_MS[Math.min(failures++, RETRY_MS.length - 1)]);
      state.draw();
      return;
    }
    refuse(first, error);
  }
  waiting.shift();
  keep();
  sending = false;
  deliver();
}

function refuse(change, error) {
  const { label, annotator } = error instanceof Problem ? error.document : {};
  if (error.status !== 409 || !annotator) return say(error.message);
  const line = h("p", {}, t("conflict", { who: annotator, label, mine: change.body.label }), " ",
    h("button", { type: "button", onclick: () => {
      line.remove();
      send(change.project, change.method, change.address, { ...change.body, replace: true });
    } }, t("overrule")));
  document.getElementById("said").append(line); // stays until it is answered
  return undefined;
}

export const state = {
  draw() {
    const key = failures ? "offline" : waiting.length ? "saving" : "saved";
    const element = document.getElementById("state");
    element.className = failures ? "bad" : "faint";
    fill(element, t(key, { count: waiting.length }));
  },
};

window.addEventListener("online", deliver);
window.addEventListener("beforeunload", (event) => { if (waiting.length) event.preventDefault(); });
setTimeout(() => { deliver(); inherit(); });
