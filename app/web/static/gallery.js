// The images of a project, by label and by what else is known of them.

import { get, path, picture, post } from "./api.js";
import { attempt, fill, h, percent } from "./dom.js";
import { t } from "./strings.js";

const PAGE = 60;
const MOST = 10_000; // images that can be ranked at once
const SIDE = 256;
const EVERY = "every";
const POOL = "pool"; // without a label
const BANDS = { any: [0, 1], unsure: [0, 0.5], likely: [0.5, 0.9], sure: [0.9, 1] };

export function gallery(project, labels) {
  const named = labels.map((name) => [`label ${name}`, name]);
  const options = (pairs) => pairs.map(([value, text]) => h("option", { value }, text));
  const which = h("select", {}, options([...named, [POOL, t("unlabeled")], [EVERY, t("every")]]));
  const like = h("select", {}, options([["", t("any")], ...named.map(([, name]) => [name, name])]));
  const band = h("select", {}, options(Object.keys(BANDS).map((name) => [name, t(`band_${name}`)])));
  const name = h("input", { type: "search", size: 14, maxlength: 255 });
  const metadata = h("input", { type: "search", size: 14, maxlength: 600, placeholder: "camera=north" });
  const looks = h("span", { class: "row" }, h("label", {}, t("looks_like"), like), h("label", {}, t("confidence"), band));
  const tiles = h("ul", { class: "tiles" });
  const none = h("p", { class: "faint" }, t("no_images"));
  const more = h("button", { type: "button" }, t("more"));
  let cursor = null;
  let shown = 0;
  let turn = 0; // answers of an earlier one come too late

  const ranked = () => which.value === POOL && (like.value || band.value !== "any");
  const pairs = () => metadata.value.split(/\s*,\s*/).filter(Boolean);

  async function list() {
    const wanted = new URLSearchParams({ limit: PAGE });
    if (which.value === POOL) wanted.set("state", POOL);
    else if (which.value !== EVERY) wanted.set("label", which.value.slice("label ".length));
    if (name.value) wanted.set("filename", name.value);
    for (const pair of pairs()) wanted.append("metadata", pair);
    if (cursor) wanted.set("cursor", cursor);
    const page = await get(`${path("projects", project, "images")}?${wanted}`);
    const found = page.items.map((one) => ({ id: one.id, alt: one.label ?? t("unlabeled"), text: one.filename ?? "" }));
    return { found, next: page.next_cursor };
  }

  // Those that look like a label, the least sure first.
  async function rank() {
    const [min_confidence, max_confidence] = BANDS[band.value];
    const where = { min_confidence, max_confidence };
    if (like.value) where.label = like.value;
    if (name.value) where.filename = name.value;
    if (pairs().length) where.metadata = Object.fromEntries(pairs().map(parted));
    const budget = Math.min(shown + PAGE, MOST);
    const answer = await post(path("projects", project, "pool", "rank"), { strategy: { name: "least_confidence" }, budget, where });
    const found = answer.images.slice(shown).map((one) => {
      const [best] = one.suggestions;
      return { id: one.image, alt: t("unlabeled"), text: best ? `${best.label}? ${percent(best.probability)}` : "" };
    });
    return { found, next: answer.images.length === budget && budget < MOST };
  }

  const load = attempt(async (anew) => {
    const mine = ++turn;
    if (anew) {
      [cursor, shown] = [null, 0];
      looks.hidden = which.value !== POOL;
    }
    const { found, next } = await (ranked() ? rank() : list());
    if (mine !== turn) return;
    if (anew) fill(tiles);
    cursor = next;
    shown += found.length;
    more.hidden = !next;
    none.hidden = shown > 0;
    tiles.append(...found.map((one) => h("li", {},
      h("img", { src: picture(project, one.id, SIDE), alt: one.alt, loading: "lazy" }),
      h("span", { title: one.text }, one.text))));
  });
  for (const control of [which, like, band, name, metadata]) control.addEventListener("change", () => load(true));
  more.addEventListener("click", () => load(false));
  load(true);
  return h("div", {}, h("div", { class: "row" }, h("label", {}, t("label"), which), looks,
    h("label", {}, t("file_name"), name), h("label", {}, t("metadata"), metadata)), none, tiles, more);
}

// A pair without "=" asks for an empty text, and so finds nothing, instead of being left out.
function parted(pair) {
  const [key, value = ""] = pair.split(/=(.*)/s, 2);
  return [key, value];
}
