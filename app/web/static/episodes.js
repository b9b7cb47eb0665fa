// How few images do: accuracy by shots, on small tasks drawn from the labels. It takes seconds, so it is asked for.

import { path, post } from "./api.js";
import { attempt, fill, h, percent } from "./dom.js";
import { t } from "./strings.js";

const SHOTS = [1, 2, 5, 10, 20, 50];
const MOST_WAYS = 5;
const MOST_QUERIES = 5;
const EPISODES = 200;
const COLUMNS = ["shots_column", "on_these", "for_new"];

export function episodes(project, labels) {
  const outcome = h("div", { "aria-live": "polite" });
  const query = largest(labels);
  if (!query) return h("p", { class: "faint" }, t("episodes_need"));
  const measure = h("button", { type: "button", onclick: attempt(async () => {
    measure.disabled = true;
    fill(outcome, h("p", { class: "faint" }, t("loading")));
    try {
      draw(outcome, query, await post(path("projects", project, "evaluate"), query));
    } catch (error) {
      fill(outcome);
      throw error;
    } finally {
      measure.disabled = false;
    }
  }) }, t("measure"));
  return h("div", {}, h("p", { class: "faint" }, t("episodes_help", { ways: query.ways })), measure, outcome);
}

// The tasks that the labels have images for; null if there are none.
function largest(labels) {
  const counts = labels.map((label) => label.shots).sort((a, b) => b - a);
  const ways = Math.min(MOST_WAYS, counts.filter((count) => count > 1).length);
  if (ways < 2) return null;
  const fewest = counts[ways - 1];
  const queries = Math.max(1, Math.min(MOST_QUERIES, Math.floor(fewest / 2)));
  return { ways, queries, episodes: EPISODES, shots: SHOTS.filter((shots) => shots + queries <= fewest) };
}

function draw(outcome, { ways }, { shots, done, missing }) {
  const rows = shots.map(({ shots: count, models: [model] }) => ({ count, ...model }))
    .filter((row) => row.over_episodes);
  if (!rows.length) return fill(outcome, missing.map((reason) => h("p", { class: "faint" }, reason)));
  const across = (n) => (rows.length > 1 ? (100 * n) / (rows.length - 1) : 50);
  const points = (value) => rows.map((row, n) => `${across(n)},${100 - 100 * value(row)}`);
  const band = svg("polygon", { points: [...points((row) => row.over_episodes.high),
    ...points((row) => row.over_episodes.low).reverse()].join(" ") });
  const line = svg("polyline", { points: points((row) => row.over_episodes.value).join(" ") });
  const picture = svg("svg", { class: "curve", viewBox: "0 0 100 100", preserveAspectRatio: "none", role: "img",
    "aria-label": t("by_shots", { ways }) });
  picture.append(band, line);
  return fill(outcome, picture,
    h("table", {}, h("tr", {}, COLUMNS.map((name) => h("th", { scope: "col" }, t(name)))),
      rows.map((row) => h("tr", {}, h("th", { scope: "row" }, row.count),
        h("td", {}, between(row.over_episodes)), h("td", {}, row.over_images ? between(row.over_images) : "–")))),
    h("p", { class: "faint" }, t("episodes_done", { done })));
}

const between = ({ value, low, high }) =>
  t("between", { value: percent(value), low: percent(low), high: percent(high) });

function svg(name, attributes) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  return element;
}
