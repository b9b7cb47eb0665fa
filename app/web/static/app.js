// The page: which view is shown, and what all views share.

import { call, get, path } from "./api.js";
import { attempt, fill, h } from "./dom.js";
import { show as label } from "./label.js";
import { state } from "./outbox.js";
import { see } from "./see.js";
import { add, start } from "./start.js";
import { language, languages, speak, t } from "./strings.js";
import { train } from "./train.js";
import { tryOut } from "./try.js";

const VIEWS = { start: add, label, see, train, try: tryOut };
const view = document.getElementById("view");
let leave = () => {};

async function show() {
  leave();
  leave = () => {};
  const [project, name = "label"] = location.hash.slice(2).split("/").map(decodeURIComponent);
  drawHeader(project, name);
  fill(view, h("p", { class: "faint" }, t("loading")));
  if (!(await isOpen())) return;
  const draw = project ? VIEWS[name] ?? VIEWS.label : start;
  const here = location.hash;
  leave = (await draw(view, project)) ?? (() => {});
  if (location.hash !== here) leave(); // the user has gone on meanwhile
}

async function isOpen() {
  const session = await get(path("session"));
  if (session.open) return true;
  const key = h("input", { type: "password", autocomplete: "current-password", required: true });
  const send = attempt(async (event) => {
    event.preventDefault();
    await call("POST", path("session"), { body: { api_key: key.value } });
    await show();
  });
  fill(view, h("h1", {}, t("key_wanted")),
    h("form", { class: "row", onsubmit: send }, h("label", {}, t("key"), key),
      h("button", { class: "main" }, t("enter"))));
  key.focus();
  return false;
}

function drawHeader(project, name) {
  document.title = project ? `${project} · Handful` : "Handful";
  fill(document.getElementById("tabs"), project ? Object.keys(VIEWS).map((one) =>
    h("a", { href: `#/${encodeURIComponent(project)}/${one}`, "aria-current": one === name && "page" },
      t(`tab_${one}`))) : []);
  state.draw();
  const other = languages.find((one) => one !== language());
  const button = document.getElementById("language");
  fill(button, other.toUpperCase());
  button.title = other;
  fill(document.getElementById("theme"), "◐");
  document.getElementById("theme").setAttribute("aria-label", t("theme"));
}

document.getElementById("language").addEventListener("click", () => {
  const other = languages.find((one) => one !== language());
  localStorage.setItem("language", other);
  speak(other);
  guarded();
});
document.getElementById("theme").addEventListener("click", () => {
  const dark = matchMedia("(prefers-color-scheme: dark)").matches;
  const now = document.documentElement.dataset.theme ?? (dark ? "dark" : "light");
  document.documentElement.dataset.theme = now === "dark" ? "light" : "dark";
  localStorage.setItem("theme", document.documentElement.dataset.theme);
});

const guarded = attempt(show);
const theme = localStorage.getItem("theme");
if (theme) document.documentElement.dataset.theme = theme;
speak(localStorage.getItem("language") ?? navigator.language.slice(0, 2));
window.addEventListener("hashchange", guarded);
guarded();
