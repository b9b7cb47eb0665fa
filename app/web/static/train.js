// Jobs: start one, watch any kind, read what came out; and the versions that came of them.

import { all, call, get, path, post } from "./api.js";
import { attempt, fill, h, percent } from "./dom.js";
import { recipes } from "./recipes.js";
import { named, t } from "./strings.js";

const FINAL = ["succeeded", "failed", "cancelled"];
const SHOWN = 10;
const VERSION_COLUMNS = ["version_name", "version_made", "version_accuracy", "version_serves"];
const HEAD_COLUMNS = ["head_method", "version_made", "head_accuracy", "version_serves"];

export async function train(view, project) {
  const jobs = h("div", {});
  const versions = h("div", {});
  const heads = h("div", {});
  const sources = [];

  async function refresh() {
    sources.splice(0).forEach((source) => source.close());
    const { items } = await get(`${path("projects", project, "jobs")}?limit=${SHOWN}`);
    fill(jobs, items.length ? items.map((job) => watch(job)) : h("p", { class: "faint" }, t("no_jobs")));
    const made = await all(path("projects", project, "encoders"));
    fill(versions, table(VERSION_COLUMNS, made.map((version) => row(version.name, version, () =>
      post(path("projects", project, "encoders", version.id, "promote"))))));
    const learned = await all(path("projects", project, "heads"));
    const serving = made.find((version) => version.current).id;
    const take = (head) => call("PATCH", path("projects", project), { body: { head } });
    fill(heads, learned.length ? [h("h2", {}, t("learned_heads")),
      table(HEAD_COLUMNS, learned.map((head) => row(named(head.method), head,
        head.encoder === serving && (() => take({ name: "learned", options: { learned: head.id } })),
        () => take({ name: "auto" }))))] : []);
  }

  // A version or a head; what lets it serve, where it can, and what ends that.
  function row(name, { created_at, metrics: { accuracy }, current }, serve, end) {
    const button = (act, text) => act && h("button", { type: "button", onclick: attempt(async () => {
      await act();
      await refresh();
    }) }, t(text));
    return h("tr", {}, h("td", {}, name), h("td", {}, minute(created_at)),
      h("td", {}, accuracy === null ? "" : percent(accuracy)),
      h("td", {}, current ? h("span", {}, t("serves"), " ", button(end, "head_back"))
        : button(serve, "promote") || t("other_version")));
  }

  function watch(job) {
    const at = (...below) => path("projects", project, "jobs", job.id, ...below);
    const state = h("strong", {}, job.state);
    const note = h("p", { class: "faint", "aria-live": "polite" }, job.error ?? job.result?.summary ?? "");
    const bar = h("progress", { max: 1, value: 0, "aria-label": job.kind });
    const curve = new Curve();
    const cancel = h("button", { type: "button", onclick: attempt(async () => {
      await post(at("cancel"));
    }) }, t("cancel"));
    const ended = FINAL.includes(job.state);
    bar.hidden = cancel.hidden = ended;
    if (!ended) {
      const source = new EventSource(at("events"));
      sources.push(source);
      source.addEventListener("state", (event) => {
        const { state: now } = JSON.parse(event.data).data;
        fill(state, now);
        if (FINAL.includes(now)) {
          source.close();
          attempt(refresh)();
        }
      });
      source.addEventListener("message", (event) => {
        if (event.data) fill(note, JSON.parse(event.data).data.text);
      });
      source.addEventListener("metrics", (event) => {
        const { data } = JSON.parse(event.data);
        bar.value = data.share;
        curve.add(data);
        const left = data.seconds_left === null ? [] : [t("time_left", { seconds: Math.round(data.seconds_left) })];
        fill(note, [data.title, ...data.figures.map(figure), ...left].join(", "));
      });
    }
    return h("section", {}, h("div", { class: "row" }, h("span", {}, job.kind), state,
      h("span", { class: "faint" }, minute(job.created_at)), cancel), bar,
    ended ? null : curve.element, note);
  }

  fill(view, h("h1", {}, t("tab_train")), recipes(project, refresh),
    h("h2", {}, t("jobs")), jobs, h("h2", {}, t("versions")), versions, heads);
  await refresh();
  return () => sources.forEach((source) => source.close());
}

const table = (columns, rows) =>
  h("div", { class: "wide", tabindex: 0 },
    h("table", {}, h("tr", {}, columns.map((name) => h("th", { scope: "col" }, t(name)))), rows));

const minute = (time) => time.slice(0, 16).replace("T", " ");

// A number that a job tells of, whatever its kind.
const figure = ({ name, value, unit }) =>
  `${name} ${unit === "share" ? percent(value) : [Number(value.toPrecision(4)), unit].join(" ").trim()}`;

// The first figure of what goes on under one title, drawn as it moves.
class Curve {
  constructor() {
    const svg = (name) => document.createElementNS("http://www.w3.org/2000/svg", name);
    this.line = svg("polyline");
    this.element = svg("svg");
    this.element.setAttribute("class", "curve");
    this.element.setAttribute("viewBox", "0 0 100 100");
    this.element.setAttribute("preserveAspectRatio", "none");
    this.element.setAttribute("role", "img");
    this.element.append(this.line);
    this.values = [];
  }

  add({ title, figures: [first] }) {
    if (first === undefined) return;
    if (title !== this.title) this.values = [];
    this.title = title;
    this.values.push(first.value);
    this.element.setAttribute("aria-label", first.name);
    const low = Math.min(0, ...this.values);
    const height = Math.max(...this.values) - low || 1;
    const step = 100 / Math.max(1, this.values.length - 1);
    this.line.setAttribute("points",
      this.values.map((value, n) => `${n * step},${100 - (95 * (value - low)) / height}`).join(" "));
  }
}
