// Projects, and images and labels of one.

import { all, call, get, Offline, path, post } from "./api.js";
import { attempt, dropZone, fill, h } from "./dom.js";
import { t } from "./strings.js";

const REQUEST_FILES = 16;
const REQUEST_BYTES = 32 << 20;
const SENDERS = 3;
const RETRY_MS = 2000;
const BUSY = [429, 503];

// The list of projects.
export async function start(view) {
  const projects = await all(path("projects"));
  const name = h("input", { required: true, maxlength: 200 });
  const create = attempt(async (event) => {
    event.preventDefault();
    const made = await post(path("projects"), { name: name.value });
    location.hash = `#/${encodeURIComponent(made.name)}/start`;
  });
  fill(view, h("h1", {}, t("projects")),
    projects.length ? h("ul", { class: "cards" }, projects.map(card)) : h("p", {}, t("no_projects")),
    h("h2", {}, t("new_project")),
    h("form", { class: "row", onsubmit: create }, h("label", {}, t("name"), name),
      h("button", { class: "main" }, t("create"))));
  if (!projects.length) name.focus();
}

const card = (project) => h("li", {},
  h("a", { href: `#/${encodeURIComponent(project.name)}/${project.pool ? "label" : "start"}` },
    h("strong", {}, project.name)),
  h("p", { class: "faint" }, t("counts", project)));

// Images and labels of a project.
export async function add(view, project) {
  const figures = h("p", { class: "faint" });
  const labels = h("ul", { class: "cards" });
  const progress = h("div", { "aria-live": "polite" });
  const folders = h("input", { type: "checkbox", checked: true });
  const name = h("input", { required: true, maxlength: 200 });

  async function refresh() {
    fill(figures, t("counts", await get(path("projects", project))));
    fill(labels, (await all(path("projects", project, "labels"))).map((label) =>
      h("li", {}, h("strong", {}, label.name), h("div", { class: "faint" }, t("shots", { count: label.shots })))));
  }
  const take = attempt(async (files) => {
    await upload(project, files, folders.checked, progress);
    await refresh();
  });
  const addLabel = attempt(async (event) => {
    event.preventDefault();
    await post(path("projects", project, "labels"), { name: name.value });
    name.value = "";
    await refresh();
  });
  fill(view, h("h1", {}, project), figures, dropZone(t("drop"), t("choose"), take),
    h("div", { class: "row" }, h("label", {}, folders, t("from_folders"))), progress,
    h("h2", {}, t("labels")), h("p", { class: "faint" }, t("two_labels")), labels,
    h("form", { class: "row", onsubmit: addLabel }, h("label", {}, t("name"), name),
      h("button", {}, t("add_label"))),
    h("p", {}, h("a", { href: `#/${encodeURIComponent(project)}/label` }, t("go_label"))));
  await refresh();
}

// Send files in small requests; one that is refused is named, and the rest goes on.
async function upload(project, files, byFolder, progress) {
  const refused = h("ul", {});
  const bar = h("progress", { max: files.length, value: 0, "aria-label": t("drop") });
  const count = h("p", {});
  const outcome = h("p", {});
  fill(progress, bar, count, outcome, refused);
  let done = 0;
  let stored = 0;
  const queue = batches(files, byFolder);
  const worker = async () => {
    for (let batch = queue.shift(); batch; batch = queue.shift()) {
      const failed = await deliver(project, batch);
      for (const { path: name, reason } of failed) refused.append(h("li", {}, `${name}: ${reason}`));
      done += batch.files.length;
      stored += batch.files.length - failed.length;
      bar.value = done;
      fill(count, t("sent", { done, total: files.length }));
    }
  };
  await Promise.all(Array.from({ length: SENDERS }, worker));
  fill(outcome, h("span", { class: "good" }, t("added", { count: stored })),
    refused.children.length ? h("span", { class: "bad" }, " ", t("refused", { count: refused.children.length })) : "");
}

// Requests of one label each, bounded in files and bytes.
function batches(files, byFolder) {
  const by = new Map();
  for (const one of files) {
    const folders = one.path.split("/").slice(0, -1);
    const label = byFolder && folders.length > 1 ? folders[1] : null; // the first was dropped
    if (!by.has(label)) by.set(label, []);
    by.get(label).push(one);
  }
  const made = [];
  for (const [label, some] of by) {
    let batch = null;
    for (const one of some) {
      const full = batch && (batch.files.length === REQUEST_FILES || batch.bytes + one.file.size > REQUEST_BYTES);
      if (!batch || full) made.push((batch = { label, files: [], bytes: 0 }));
      batch.files.push(one);
      batch.bytes += one.file.size;
    }
  }
  return made;
}

async function deliver(project, { label, files }) {
  const below = label === null ? ["pool"] : ["labels", label, "support"];
  const form = new FormData();
  for (const one of files) form.append("files", one.file, one.file.name || "image");
  for (;;) {
    try {
      const answer = await call("POST", path("projects", project, ...below), { form });
      return answer.failed.map((one) => ({ path: files[one.position]?.path ?? one.filename, reason: one.problem.detail }));
    } catch (error) {
      if (error instanceof Offline || BUSY.includes(error.status)) {
        await new Promise((later) => setTimeout(later, RETRY_MS));
        continue;
      }
      const told = error.document?.failed;
      if (told?.length) return told.map((one) => ({ path: files[one.position]?.path ?? one.filename, reason: one.problem.detail }));
      return files.map((one) => ({ path: one.path, reason: error.message }));
    }
  }
}
