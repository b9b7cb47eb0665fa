// Elements, and what is said to the user.

// An element: h("button", { class: "main", onclick: f }, "text", child).
export function h(name, attributes = {}, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
    else element.setAttribute(key, value === true ? "" : value);
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return element;
}

export const fill = (element, ...children) => element.replaceChildren(...children.flat());

const SAID_MS = 8000;

// Tell of something that went wrong, for a while.
export function say(text) {
  const line = h("p", {}, text);
  document.getElementById("said").append(line);
  setTimeout(() => line.remove(), SAID_MS);
}

// Run what may fail, and say how it did.
export const attempt = (task) => async (...values) => {
  try {
    return await task(...values);
  } catch (error) {
    say(error.message);
    return undefined;
  }
};

export const percent = (share) => `${(100 * share).toFixed(share > 0.995 || share < 0.1 ? 1 : 0)} %`;

// A place to drop files or folders on, or to choose them.
export function dropZone(text, choose, take) {
  const input = h("input", { type: "file", multiple: true, hidden: true,
    onchange: () => take([...input.files].map((file) => ({ file, path: file.name }))) });
  const zone = h("div", { class: "drop" }, h("p", {}, text),
    h("button", { type: "button", class: "main", onclick: () => input.click() }, choose), input);
  zone.addEventListener("dragover", (event) => { event.preventDefault(); zone.classList.add("over"); });
  zone.addEventListener("dragleave", () => zone.classList.remove("over"));
  zone.addEventListener("drop", async (event) => {
    event.preventDefault();
    zone.classList.remove("over");
    const entries = [...event.dataTransfer.items].map((item) => item.webkitGetAsEntry()).filter(Boolean);
    take((await Promise.all(entries.map((entry) => files(entry, "")))).flat());
  });
  return zone;
}

async function files(entry, folder) {
  if (entry.isFile) {
    const file = await new Promise((found, failed) => entry.file(found, failed));
    return [{ file, path: folder + entry.name }];
  }
  const reader = entry.createReader();
  const inside = [];
  for (;;) { // a reader gives a hundred entries at a time
    const some = await new Promise((found, failed) => reader.readEntries(found, failed));
    if (!some.length) break;
    inside.push(...some);
  }
  return (await Promise.all(inside.map((one) => files(one, `${folder}${entry.name}/`)))).flat();
}
