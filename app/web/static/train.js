// Fine-tuning jobs: start one, watch it, read the verdict; and the versions that came of them.

import { all, get, path, post } from "./api.js";
import { attempt, fill, h, percent } from "./dom.js";
import { t } from "./strings.js";

const RECIPES = ["discriminative", "full", "feature_extraction"];
const FINAL = ["succeeded", "failed", "cancelled"];
const SHOWN = 10;

export async function train(view, project) {
  const recipe = h("select", {}, RECIPES.map((name) => h("option", { value: name }, t(`recipe_${name}`))));
  const jobs = h("div", {});
  const versions = h("div", {});
  const sources = [];

  async function refresh() {
    sources.splice(0).forEach((source) => source.close());
    const { items } = await get(`${path("projects", project, "jobs")}?limit=${SHOWN}`);
    fill(jobs, items.length ? items.map((job) => watch(job)) : h("p", { class: "faint" }, t("no_jobs")));
    const known = await all(path("projects", project, "encoders"));
    fill(versions, h("table", {}, known.map((version) => h("tr", {},
      h("td", {}, version.name), h("td", {}, version.created_at.slice(0, 16).replace("T", " ")),
      h("td", {}, version.metrics.accuracy === undefined ? "" : percent(version.metrics.accuracy)),
      h("td", {}, version.current ? t("serves") : h("button", { type: "button", onclick: attempt(async () => {
        await post(path("projects", project, "encoders", version.id, "promote"));
        await refresh();
      }) }, t("promote")))))));
  }

  function watch(job) {
    const at = (...below) => path("projects", project, "jobs", job.id, ...below);
    const state = h("strong", {}, job.state);
    const note = h("p", { class: "faint", "aria-live": "polite" }, job.error ?? job.result?.verdict?.reason ?? "");
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
        if (data.stage === "training") {
          bar.value = (data.run - 1 + data.epoch / data.epochs) / data.runs;
          curve.add(data.run, data.loss);
          fill(note, `${data.method}, ${data.epoch}/${data.epochs}: ${data.loss.toFixed(3)}` +
            (data.accuracy === null ? "" : `, ${percent(data.accuracy)}`));
        } else if (data.stage === "embedding") {
          bar.value = data.done / Math.max(1, data.done + data.left);
        }
      });
    }
    return h("section", {}, h("div", { class: "row" }, h("span", {}, job.kind), state,
      h("span", { class: "faint" }, job.created_at.slice(0, 16).replace("T", " ")), cancel), bar,
    ended ? null : curve.element, note);
  }

  const begin = attempt(async () => {
    await post(path("projects", project, "jobs"),
      { kind: "finetune", options: { methods: [{ name: recipe.value }] } });
    await refresh();
  });
  fill(view, h("h1", {}, t("tab_train")),
    h("div", { class: "row" }, h("label", {}, t("recipe"), recipe),
      h("button", { type: "button", class: "main", onclick: begin }, t("start_job"))),
    h("h2", {}, t("jobs")), jobs, h("h2", {}, t("versions")), versions);
  await refresh();
  return () => sources.forEach((source) => source.close());
}

// The loss of the run that goes on, drawn as it falls.
class Curve {
  constructor() {
    const svg = (name) => document.createElementNS("http://www.w3.org/2000/svg", name);
    this.line = svg("polyline");
    this.element = svg("svg");
    this.element.setAttribute("class", "curve");
    this.element.setAttribute("viewBox", "0 0 100 100");
    this.element.setAttribute("preserveAspectRatio", "none");
    this.element.setAttribute("role", "img");
    this.element.setAttribute("aria-label", "loss");
    this.element.append(this.line);
    this.values = [];
  }

  add(run, loss) {
    if (run !== this.run) this.values = [];
    this.run = run;
    this.values.push(loss);
    const most = Math.max(...this.values);
    const step = 100 / Math.max(1, this.values.length - 1);
    this.line.setAttribute("points",
      this.values.map((value, n) => `${n * step},${100 - (95 * value) / most}`).join(" "));
  }
}
