// How good the project is, what is wrong with its labels, and its images.

import { all, get, path, picture } from "./api.js";
import { fill, h, percent } from "./dom.js";
import { episodes } from "./episodes.js";
import { gallery } from "./gallery.js";
import { map } from "./map.js";
import { annotator, send } from "./outbox.js";
import { t } from "./strings.js";

const CONFUSIONS = 6;
const ERRORS = 24;
const CHARTS = { curve: "learning-curve.svg", matrix: "confusion.svg" };

export async function see(view, project) {
  const [report, labels] = await Promise.all([
    get(path("projects", project, "report")), all(path("projects", project, "labels")),
  ]);
  const names = labels.map((label) => label.name);
  fill(view, h("h1", {}, t("tab_see")), figures(report),
    h("div", { class: "charts" }, Object.entries(CHARTS).map(([name, file]) =>
      h("img", { src: path("projects", project, "report", file), alt: t(name), loading: "lazy" }))),
    h("h2", {}, t("by_shots_title")), episodes(project, labels),
    h("h2", {}, t("map")), map(project, names),
    h("h2", {}, t("errors")), errors(project, report.label_errors),
    h("h2", {}, t("confusions")), confusions(project, report.confusions),
    h("h2", {}, t("by_label")), gallery(project, names));
}

function figures(report) {
  const between = ({ value, low, high }) =>
    t("between", { value: percent(value), low: percent(low), high: percent(high) });
  const rows = [
    report.accuracy && [t("accuracy"), between(report.accuracy)],
    report.optimistic && [t("optimistic"), report.optimistic],
    report.forecast && [t("forecast", { labels: report.forecast.labels }), between(report.forecast.accuracy)],
    [t("enough"), report.enough.reason],
  ].filter(Boolean);
  return h("table", {}, rows.map(([name, value]) => h("tr", {}, h("th", { scope: "row" }, name), h("td", {}, value))));
}

function errors(project, found) {
  if (!found.length) return h("p", { class: "faint" }, t("nothing_wrong"));
  return h("ul", { class: "tiles" }, found.slice(0, ERRORS).map((one) => {
    const fix = h("button", { type: "button", onclick: () => {
      send(project, "PUT", ["images", one.image, "label"],
        { label: one.suggested, annotator: annotator(), source: "page", replace: true });
      fix.closest("li").remove();
    } }, h("img", { src: picture(project, one.image, 256), alt: "", loading: "lazy" }),
    h("span", {}, t("relabel", { label: one.label, other: one.suggested })));
    return h("li", {}, fix);
  }));
}

function confusions(project, found) {
  if (!found.length) return h("p", { class: "faint" }, t("nothing_wrong"));
  return h("div", {}, found.slice(0, CONFUSIONS).map((one) => h("details", {},
    h("summary", {}, t("taken_for", { label: one.label, other: one.taken_for, count: one.images })),
    h("ul", { class: "tiles" }, one.examples.map((image) =>
      h("li", {}, h("img", { src: picture(project, image, 256), alt: one.label, loading: "lazy" })))))));
}
