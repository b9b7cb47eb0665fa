// How good the project is, what is wrong with its labels, and its images.

import { all, get, path, picture } from "./api.js";
import { attempt, fill, h, percent } from "./dom.js";
import { annotator, send } from "./outbox.js";
import { t } from "./strings.js";

const CONFUSIONS = 6;
const ERRORS = 24;
const PAGE = 60;
const CHARTS = { curve: "learning-curve.svg", matrix: "confusion.svg", map: "map.svg" };

export async function see(view, project) {
  const [report, labels] = await Promise.all([
    get(path("projects", project, "report")), all(path("projects", project, "labels")),
  ]);
  fill(view, h("h1", {}, t("tab_see")), figures(report),
    h("div", { class: "charts" }, Object.entries(CHARTS).map(([name, file]) =>
      h("img", { src: path("projects", project, "report", file), alt: t(name), loading: "lazy" }))),
    h("h2", {}, t("errors")), errors(project, report.label_errors),
    h("h2", {}, t("confusions")), confusions(project, report.confusions),
    h("h2", {}, t("by_label")), gallery(project, labels.map((label) => label.name)));
}

function figures(report) {
  const between = ({ value, low, high }) =>
    t("between", { value: percent(value), low: percent(low), high: percent(high) });
  const rows = [
    report.accuracy && [t("accuracy"), between(report.accuracy)],
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

function gallery(project, labels) {
  const tiles = h("ul", { class: "tiles" });
  const more = h("button", { type: "button" }, t("more"));
  const which = h("select", { "aria-label": t("by_label") },
    [...labels.map((name) => h("option", { value: name }, name)), h("option", { value: "" }, t("unlabeled"))]);
  let cursor = null;
  const load = attempt(async (anew) => {
    if (anew) fill(tiles);
    const filter = which.value ? `label=${encodeURIComponent(which.value)}` : "state=pool";
    const after = anew || !cursor ? "" : `&cursor=${encodeURIComponent(cursor)}`;
    const page = await get(`${path("projects", project, "images")}?limit=${PAGE}&${filter}${after}`);
    cursor = page.next_cursor;
    more.hidden = !cursor;
    tiles.append(...page.items.map((one) => h("li", {},
      h("img", { src: picture(project, one.id, 256), alt: one.label ?? t("unlabeled"), loading: "lazy" }),
      h("span", { title: one.filename ?? "" }, one.filename ?? ""))));
  });
  which.addEventListener("change", () => load(true));
  more.addEventListener("click", () => load(false));
  load(true);
  return h("div", {}, which, tiles, more);
}
