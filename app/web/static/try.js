// Drop an image, and see what the project makes of it.

import { call, path, picture } from "./api.js";
import { attempt, dropZone, fill, h, percent } from "./dom.js";
import { t } from "./strings.js";

const NEAREST = 6;
const FALSE_REJECTION = 0.05;
const CONFLICT = 409;

export async function tryOut(view, project) {
  const answer = h("div", { "aria-live": "polite" });
  const urls = [];
  const take = attempt(async ([first]) => {
    if (!first) return;
    fill(answer, h("p", {}, t("loading")));
    const url = URL.createObjectURL(first.file);
    urls.push(url);
    const [found, told] = await classify(project, first.file);
    const image = h("img", { src: url, alt: first.path });
    image.addEventListener("load", () => image.classList.toggle("small", image.naturalWidth <= 64));
    fill(answer, h("div", { class: "work" }, h("div", { class: "stage" }, image), h("div", {},
      found.unknown ? h("p", { class: "bad" }, t("unknown")) : told ? "" : h("p", { class: "faint" }, t("unknown_untold")),
      h("table", {}, found.probabilities.map((one) => h("tr", {}, h("th", { scope: "row" }, one.label),
        h("td", {}, h("progress", { max: 1, value: one.probability, "aria-label": one.label })),
        h("td", {}, percent(one.probability))))))),
    h("h2", {}, t("nearest")), h("ul", { class: "tiles" }, found.nearest.map((one) =>
      h("li", {}, h("img", { src: picture(project, one.image, 256), alt: one.label }),
        h("span", {}, `${one.label} ${one.cosine.toFixed(2)}`)))));
  });
  fill(view, h("h1", {}, t("tab_try")), dropZone(t("try_drop"), t("choose"), take), answer);
  return () => urls.forEach((url) => URL.revokeObjectURL(url));
}

// The prediction, and whether it could be told if the image is unknown.
async function classify(project, file) {
  const address = `${path("projects", project, "classify")}?top_k=10&nearest=${NEAREST}`;
  const form = () => {
    const made = new FormData();
    made.append("files", file, file.name);
    return made;
  };
  try {
    const answer = await call("POST", `${address}&false_rejection=${FALSE_REJECTION}`, { form: form() });
    return [answer.predictions[0], true];
  } catch (error) {
    if (error.status !== CONFLICT) throw error;
    return [(await call("POST", address, { form: form() })).predictions[0], false];
  }
}
