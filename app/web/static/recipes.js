// What can be trained, what that needs, and the button that starts it.

import { all, get, path, post } from "./api.js";
import { attempt, fill, h } from "./dom.js";
import { named, t } from "./strings.js";

const FINETUNE = ["discriminative", "full", "feature_extraction"];
const ACROSS = "metatrain"; // the kind of job that learns across labels
const MOVES = "generate"; // the kind that has no methods, and moves centroids

// A form that starts a job, and calls `started` then.
export function recipes(project, started) {
  const methods = new Map(FINETUNE.map((name) => [name, { name, kind: "finetune", possible: true }]));
  const choice = h("select", { onchange: () => explain() }, group("finetune", FINETUNE));
  const note = h("p", { class: "faint", "aria-live": "polite" });
  const others = h("details", { hidden: true }, h("summary", {}, t("other_projects")));
  const begin = h("button", { type: "button", class: "main", onclick: attempt(async () => {
    await post(path("projects", project, "jobs"), job(methods.get(choice.value), chosen(others)));
    await started();
  }) }, t("start_job"));

  function explain() {
    const method = methods.get(choice.value);
    const few = method.enough_labels === false && t("labels_needed", { labels: method.labels });
    fill(note, [method.reason ?? method.summary, few].filter(Boolean).join(" "));
    begin.disabled = !method.possible;
    others.hidden = method.kind !== ACROSS || others.childElementCount < 2;
  }

  async function offer() {
    const { items } = await get(path("projects", project, "recipes"));
    const offered = items.filter((method) => method.kind !== "pretrain");
    offered.forEach((method) => methods.set(method.name, method));
    const of = (kind) => offered.filter((method) => method.kind === kind).map((method) => method.name);
    const picked = choice.value;
    fill(choice, group("finetune", [...FINETUNE, ...of("finetune")]), group(ACROSS, of(ACROSS)),
      group(MOVES, of(MOVES)));
    choice.value = picked;
    const names = (await all(path("projects"))).map(({ name }) => name).filter((name) => name !== project);
    others.append(...names.map((name) =>
      h("label", { class: "row" }, h("input", { type: "checkbox", value: name }), name)));
    explain();
  }

  attempt(offer)();
  return h("div", {}, h("div", { class: "row" }, h("label", {}, t("recipe"), choice), begin), note, others);
}

const group = (kind, names) => h("optgroup", { label: t(`kind_${kind}`) },
  names.map((name) => h("option", { value: name }, named(name))));

const chosen = (others) => [...others.querySelectorAll("input:checked")].map((input) => input.value);

const job = ({ name, kind }, projects) => ({ kind, options: {
  [ACROSS]: { method: { name }, projects }, [MOVES]: {} }[kind] ?? { methods: [{ name }] } });
