// One image at a time, large, with its suggestions; or a grid of those that look like one label.

import { all, path, picture, post } from "./api.js";
import { attempt, fill, h, percent } from "./dom.js";
import { annotator, send, withdraw } from "./outbox.js";
import { t } from "./strings.js";

const BATCHES = [4, 8, 16, 32]; // images in hand, below which more are asked for: as many again
const BATCH = 8;
const MOST = 64; // what that may grow to, for people who label faster than a large pool is ranked
const GRID = 24;
const SURE = 0.6; // confidence of images that a grid shows: few of them are to be taken out
const KEYS = 9;
const LEASE_S = 900;
const SIDE = 768; // pixels
const SMALL = 64; // an image below this is shown with its pixels
const STRATEGIES = ["adaptive", "margin", "entropy", "typiclust", "badge", "random"];

export async function show(view, project) {
  const work = new Work(project);
  await work.load();
  const stop = work.listen();
  work.draw(view);
  await work.refill();
  return stop;
}

// Have these images labeled next, as far as nobody else holds them.
export async function queue(project, images) {
  const work = new Work(project);
  await work.load();
  const got = (await work.ask(images.length, { images })).map((one) => work.prepare(one));
  const wanted = new Set(images);
  const first = work.queue.filter((one) => wanted.has(one.id)); // in hand already
  work.queue = [...first, ...got, ...work.queue.filter((one) => !wanted.has(one.id))];
  work.keep();
}

class Work {
  constructor(project) {
    this.project = project;
    this.store = `handful queue ${project}`;
    this.strategy = localStorage.getItem("strategy") ?? STRATEGIES[0];
    this.mode = "single";
    this.queue = []; // images in hand: { id, suggestions, until, element }
    this.past = []; // those that were answered, for undo
    this.counted = 0;
    this.asking = null;
    this.least = Number(localStorage.getItem("batch") ?? BATCH);
    this.exhausted = false;
    this.labels = [];
  }

  get url() { return ["projects", this.project]; }

  async load() {
    this.labels = (await all(path(...this.url, "labels"))).map((label) => label.name);
    const kept = JSON.parse(sessionStorage.getItem(this.store) ?? "[]");
    this.queue = kept.filter((one) => one.until > Date.now()).map((one) => this.prepare(one));
  }

  // Load and decode a picture now, so that showing it later takes no time.
  prepare(one) {
    const element = new Image();
    element.alt = t("picture_of");
    element.src = picture(this.project, one.id, SIDE);
    element.decode().then(
      () => element.classList.toggle("small", Math.max(element.naturalWidth, element.naturalHeight) <= SMALL),
      () => {});
    return { ...one, element };
  }

  keep() {
    const plain = this.queue.map(({ element, ...one }) => one);
    sessionStorage.setItem(this.store, JSON.stringify(plain));
  }

  async ask(budget, where = {}, strategy = this.strategy) {
    const answer = await post(path(...this.url, "pool", "next"), {
      annotator: annotator(), budget, lease_s: LEASE_S,
      strategy: { name: strategy }, where,
    });
    const until = Date.parse(answer.lease_until);
    return answer.images.map((one) => ({ id: one.image, suggestions: one.suggestions, until }));
  }

  // Images that look like a label: sure ones, of all kinds, as far as there are any.
  async alike(label) {
    const sure = await this.ask(GRID, { label, min_confidence: SURE }, "random");
    return sure.length ? sure : this.ask(GRID, { label });
  }

  refill() {
    if (this.queue.length >= this.least || this.exhausted) return this.asking;
    this.asking ??= attempt(async () => {
      const got = await this.ask(this.least);
      this.exhausted = got.length === 0;
      const known = new Set(this.queue.map((one) => one.id));
      this.queue.push(...got.filter((one) => !known.has(one.id)).map((one) => this.prepare(one)));
      this.keep();
    })().finally(() => {
      this.asking = null;
      if (this.mode === "single" && (!this.queue.length || this.shown !== this.queue[0])) this.drawImage();
    });
    return this.asking;
  }

  // What the shown image may be, likeliest first, then the other labels.
  choices() {
    const suggested = this.queue[0]?.suggestions ?? [];
    const names = new Set(suggested.map((one) => one.label));
    const rest = this.labels.filter((label) => !names.has(label)).map((label) => ({ label, probability: null }));
    return [...suggested, ...rest].slice(0, KEYS);
  }

  answer(label) {
    const one = this.queue.shift();
    if (!one) return;
    this.past.push({ one, label });
    if (label === null) {
      send(this.project, "POST", ["pool", "skip"], { annotator: annotator(), images: [one.id] });
    } else {
      this.counted += 1;
      send(this.project, "PUT", ["images", one.id, "label"],
        { label, annotator: annotator(), source: "page" });
    }
    if (!this.queue.length) this.least = Math.min(2 * this.least, MOST);
    this.keep();
    this.drawImage();
    this.refill();
  }

  // Bring the last image back; what was said of it is taken back too.
  undo() {
    const last = this.past.pop();
    if (!last) return;
    if (last.label !== null) {
      this.counted -= 1;
      if (!withdraw(this.project, last.one.id)) {
        send(this.project, "POST", ["images", last.one.id, "label", "undo"]);
      }
    }
    this.queue.unshift(last.one);
    this.keep();
    this.drawImage();
  }

  async accept() {
    const [first] = this.queue[0]?.suggestions ?? [];
    if (first) this.answer(first.label);
  }

  async answerAnew(label) {
    const name = label.trim();
    if (!name || !this.queue.length) return;
    if (!this.labels.includes(name)) {
      const made = await post(path(...this.url, "labels"), { name });
      this.labels.push(made.name);
    }
    this.answer(name);
  }

  listen() {
    const press = (event) => {
      if (this.mode !== "single" || event.ctrlKey || event.metaKey || event.altKey) return;
      if (event.target.matches?.("input, select, textarea")) return;
      const digit = /^[1-9]$/.test(event.key) ? Number(event.key) : 0;
      const choice = digit ? this.choices()[digit - 1] : null;
      const action = {
        " ": () => this.accept(), s: () => this.answer(null), z: () => this.undo(),
        u: () => attempt(() => this.answerAnew(t("none_label")))(),
        "/": () => this.search?.focus(),
      }[event.key.toLowerCase()] ?? (choice ? () => this.answer(choice.label) : null);
      if (!action) return;
      event.preventDefault();
      action();
    };
    document.addEventListener("keydown", press);
    return () => document.removeEventListener("keydown", press);
  }

  draw(view) {
    const who = h("input", { value: localStorage.getItem("annotator") ?? "", size: 12, maxlength: 200, autocomplete: "name",
      onchange: () => localStorage.setItem("annotator", who.value.trim()) });
    const strategy = h("select", { onchange: () => {
      this.strategy = strategy.value;
      localStorage.setItem("strategy", strategy.value);
    } }, STRATEGIES.map((name) => h("option", { value: name, selected: name === this.strategy }, name)));
    const batch = h("select", { onchange: () => {
      this.least = Number(batch.value);
      localStorage.setItem("batch", batch.value);
    } }, BATCHES.map((count) => h("option", { value: count, selected: String(count) === (localStorage.getItem("batch") ?? String(BATCH)) }, count)));
    const mode = (name) => h("button", { type: "button", "aria-pressed": String(this.mode === name),
      class: this.mode === name ? "main" : "", onclick: () => { this.mode = name; this.draw(view); } }, t(name));
    this.body = h("div", {});
    fill(view, h("div", { class: "row" }, mode("single"), mode("grid"),
      h("label", {}, t("strategy"), strategy),
      h("label", {}, t("batch"), batch), h("label", {}, t("who"), who)), this.body);
    if (this.mode === "single") this.drawSingle();
    else this.drawGrid();
  }

  drawSingle() {
    this.stage = h("div", { class: "stage" });
    this.side = h("ol", { class: "choices" });
    this.tally = h("p", { class: "faint", "aria-live": "polite" });
    this.search = h("input", { list: "names", "aria-label": t("search"), placeholder: t("search"), maxlength: 200,
      onkeydown: (event) => {
        if (event.key === "Escape") this.search.blur();
        if (event.key !== "Enter") return;
        const wanted = this.search.value;
        this.search.value = "";
        this.search.blur();
        attempt(() => this.answerAnew(wanted))();
      } });
    const button = (key, name, action) =>
      h("button", { type: "button", onclick: action }, h("kbd", {}, key), " ", t(name));
    fill(this.body, h("div", { class: "work" }, this.stage, h("div", {}, this.side,
      h("div", { class: "row" }, this.search, h("datalist", { id: "names" }, this.labels.map((name) => h("option", { value: name })))),
      h("div", { class: "row" }, button("␣", "accept", () => this.accept()),
        button("S", "skip", () => this.answer(null)), button("Z", "undo", () => this.undo()),
        button("U", "none", () => attempt(() => this.answerAnew(t("none_label")))())), this.tally)));
    this.drawImage();
  }

  drawImage() {
    if (!this.stage?.isConnected) return;
    const [one] = this.queue;
    this.shown = one;
    if (!one) {
      fill(this.stage, h("p", {}, this.asking || !this.exhausted ? t("loading") : t("empty")));
      fill(this.side);
      return;
    }
    fill(this.stage, one.element);
    const suggested = one.suggestions.length > 0;
    fill(this.side, this.choices().map(({ label, probability }, n) =>
      h("li", {}, h("button", { type: "button", class: suggested && n === 0 ? "first" : "", onclick: () => this.answer(label) },
        probability === null ? null : h("progress", { max: 1, value: probability, "aria-hidden": "true" }),
        h("kbd", {}, n + 1), h("span", {}, label),
        h("span", {}, probability === null ? "" : percent(probability))))));
    fill(this.tally, t("session", { count: this.counted }));
  }

  drawGrid() {
    const wanted = h("select", { onchange: () => load() }, this.labels.map((name) => h("option", { value: name }, name)));
    const tiles = h("ul", { class: "tiles" });
    const help = h("p", { class: "faint" });
    const confirm = h("button", { type: "button", class: "main" });
    let some = [];
    const chosen = () => some.filter((one) => one.taken);
    const count = () => {
      fill(confirm, t("confirm", { count: chosen().length }));
      confirm.disabled = !chosen().length;
    };
    const load = attempt(async () => {
      some = [];
      fill(tiles);
      count();
      fill(help, t("loading"));
      some = (await this.alike(wanted.value)).map((one) => ({ ...one, taken: true }));
      fill(help, some.length ? t("grid_help", { label: wanted.value }) : t("empty"));
      fill(tiles, some.map((one) => {
        const tile = h("button", { type: "button", "aria-pressed": "true", onclick: () => {
          one.taken = !one.taken;
          tile.setAttribute("aria-pressed", String(one.taken));
          count();
        } }, h("img", { src: picture(this.project, one.id, 256), alt: t("picture_of"), loading: "lazy" }),
        h("span", {}, one.suggestions[0] ? percent(one.suggestions[0].probability) : ""));
        return h("li", {}, tile);
      }));
      count();
    });
    confirm.addEventListener("click", () => {
      const label = wanted.value;
      send(this.project, "POST", ["annotations"], {
        annotations: chosen().map((one) => ({ image: one.id, label, annotator: annotator(), source: "page" })),
      });
      this.counted += chosen().length;
      // Those that were taken out are asked for one by one.
      this.queue.unshift(...some.filter((one) => !one.taken).map(({ taken, ...one }) => this.prepare(one)));
      this.keep();
      wanted.selectedIndex = (wanted.selectedIndex + 1) % this.labels.length;
      load();
    });
    if (this.labels.length < 2) {
      fill(this.body, h("p", {}, t("grid_needs")));
      return;
    }
    fill(this.body, h("div", { class: "row" }, h("label", {}, t("next_label"), wanted), confirm), help, tiles);
    load();
  }
}
