// The images in two dimensions: move, zoom, and draw around those to label or to look at next.

import { get, path, picture } from "./api.js";
import { attempt, fill, h, percent } from "./dom.js";
import { queue } from "./label.js";
import { annotator, send } from "./outbox.js";
import { t } from "./strings.js";

const LIBRARY = "/web/lib/plotly.min.js";
const SHOWN = 24; // pictures of the images that were drawn around
const LABELED = 1000; // images that can be labeled at once
const LOOKED_AT = 100; // images that are reserved at once
const SIDE = 128; // pixels of a picture
const COLOURS = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8c6bb1", "#999933"];
const SYMBOLS = ["circle", "square", "triangle-up", "diamond"];
const NONE = "#8b949e";
const BUTTONS = [["pan2d", "lasso2d", "zoomIn2d", "zoomOut2d", "resetScale2d"]];

export function map(project, labels) {
  const plot = h("div", { class: "map", role: "group", "aria-label": t("map") }, t("loading"));
  const chosen = h("div", { "aria-live": "polite" }, h("p", { class: "faint" }, t("map_help")));
  const view = new View(project, labels, plot, chosen);
  attempt(() => view.draw())();
  return h("div", {}, h("div", { class: "work" }, plot, chosen));
}

let loading = null;

// The library comes with the service, and is asked for when a map is shown first.
function library() {
  loading ??= new Promise((found, failed) => {
    const script = h("script", { src: LIBRARY });
    script.addEventListener("load", () => found(window.Plotly));
    script.addEventListener("error", () => {
      loading = null;
      failed(new Error(t("map_missing")));
    });
    document.head.append(script);
  });
  return loading;
}

class View {
  constructor(project, labels, plot, chosen) {
    Object.assign(this, { project, labels, plot, chosen });
  }

  async draw() {
    const [plotly, found] = await Promise.all([
      library(), get(path("projects", this.project, "report", "map")),
    ]);
    if (found.points.length < 2) return fill(this.plot, h("p", {}, t("map_empty")));
    this.plotly = plotly;
    this.points = found.points;
    this.explained = found.explained;
    fill(this.plot);
    await plotly.newPlot(this.plot, this.traces(), this.layout(),
      { scrollZoom: true, displaylogo: false, displayModeBar: true, responsive: true, modeBarButtons: BUTTONS });
    this.plot.on("plotly_selected", (event) => {
      if (event?.points) this.choose(event.points.map((point) => point.customdata));
    });
    if (found.images > found.points.length) {
      this.plot.after(h("p", { class: "faint" }, t("map_part", { some: found.points.length, all: found.images })));
    }
    return undefined;
  }

  // One for each label, and one for images of which nothing is known; what has a label is outlined.
  traces() {
    const by = new Map();
    for (const point of this.points) {
      if (!by.has(point.label)) by.set(point.label, []);
      by.get(point.label).push(point);
    }
    const names = [...by.keys()].filter((name) => name !== null).sort();
    const ink = getComputedStyle(this.plot).color;
    return [...by].sort(([a], [b]) => names.indexOf(a) - names.indexOf(b)).map(([name, points]) => {
      const n = names.indexOf(name);
      const known = points.map((point) => point.label !== null && point.confidence === null);
      return {
        type: "scatter", mode: "markers", name: name ?? t("unlabeled"),
        x: points.map((point) => point.x), y: points.map((point) => point.y), customdata: points,
        text: points.map((point, i) => told(point, known[i])), hoverinfo: "text",
        marker: {
          color: n < 0 ? NONE : COLOURS[n % COLOURS.length],
          symbol: SYMBOLS[Math.floor(Math.max(n, 0) / COLOURS.length) % SYMBOLS.length],
          size: known.map((one) => (one ? 10 : 7)),
          opacity: points.map((point, i) => (known[i] ? 1 : 0.2 + 0.6 * (point.confidence ?? 0.3))),
          line: { color: ink, width: known.map((one) => (one ? 1.5 : 0)) },
        },
      };
    });
  }

  layout() {
    const style = getComputedStyle(this.plot);
    const axis = (n) => ({
      title: { text: t("direction", { n: n + 1, share: percent(this.explained[n]) }) },
      showgrid: false, zeroline: false, showticklabels: false, linecolor: style.borderColor, mirror: true,
    });
    return {
      dragmode: "lasso", hovermode: "closest", uirevision: "kept", showlegend: true,
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
      font: { color: style.color, family: style.fontFamily }, legend: { orientation: "h", itemsizing: "constant" },
      modebar: { bgcolor: "rgba(0,0,0,0)", color: style.borderColor, activecolor: style.color },
      margin: { l: 40, r: 10, t: 40, b: 40 }, xaxis: axis(0), yaxis: axis(1),
    };
  }

  choose(points) {
    const open = points.filter((point) => point.label === null || point.confidence !== null).slice(0, LABELED);
    const first = open.slice(0, LOOKED_AT);
    const wanted = h("select", { "aria-label": t("labels") }, this.labels.map((name) => h("option", { value: name }, name)));
    wanted.value = commonest(open) ?? this.labels[0];
    const give = h("button", { type: "button", class: "main", disabled: !open.length || !this.labels.length,
      onclick: () => this.label(open, wanted.value) }, t("label_all", { count: open.length }));
    const next = h("button", { type: "button", disabled: !open.length,
      onclick: attempt(() => this.lookAt(first)) }, t("look_at", { count: first.length }));
    fill(this.chosen, h("p", {}, t("drawn_around", { count: points.length, open: open.length })),
      h("div", { class: "row" }, wanted, give, next),
      h("ul", { class: "tiles" }, points.slice(0, SHOWN).map((point) => h("li", {},
        h("img", { src: picture(this.project, point.image, SIDE), alt: point.label ?? t("unlabeled"), loading: "lazy" }),
        h("span", {}, told(point, point.confidence === null && point.label !== null))))));
  }

  label(open, label) {
    send(this.project, "POST", ["annotations"], {
      annotations: open.map((point) => ({ image: point.image, label, annotator: annotator(), source: "page" })),
    });
    for (const point of open) Object.assign(point, { label, confidence: null });
    fill(this.chosen, h("p", { class: "good" }, t("labeled_all", { count: open.length, label })));
    this.plotly.react(this.plot, this.traces(), { ...this.layout(), selections: [] });
  }

  async lookAt(points) {
    await queue(this.project, points.map((point) => point.image));
    location.hash = `#/${encodeURIComponent(this.project)}/label`;
  }
}

const told = (point, known) =>
  known ? point.label : point.label === null ? t("unlabeled") : `${point.label}? ${percent(point.confidence)}`;

// What most of them look like.
function commonest(points) {
  const counts = new Map();
  for (const { label } of points) if (label !== null) counts.set(label, (counts.get(label) ?? 0) + 1);
  return [...counts].sort((a, b) => b[1] - a[1])[0]?.[0];
}
