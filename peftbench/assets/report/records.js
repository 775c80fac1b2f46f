"use strict";
// The records behind each number: unpacked or fetched when they are first asked for.

const parts = new Map();
let openings = 0;

async function lines(stream) {
  return (await new Response(stream.pipeThrough(new DecompressionStream("gzip"))).text()).split("\n").filter(Boolean);
}

async function readPart(name) {
  const embedded = byId(`records-${name}`);
  if (embedded) {
    const bytes = Uint8Array.from(atob(embedded.textContent.trim()), (c) => c.charCodeAt(0));
    return lines(new Blob([bytes]).stream());
  }
  if (!page.files) return [];
  const answer = await fetch(`records/${name}.jsonl.gz`);
  return answer.ok ? lines(answer.body) : [];
}

// Records of one data set of the shown table, by fingerprint.
async function recordsOf(task) {
  const index = table().tasks.findIndex((one) => one.name === task);
  const name = `${state.table}-${index}`;
  if (!parts.has(name)) {
    const found = readPart(name).then((all) => new Map(all.map((line) => parsed(line)).map((r) => [r.fingerprint, r])));
    parts.set(name, found.catch(() => new Map()));
  }
  return parts.get(name);
}

function describe(record) {
  const value = record.metrics[table().split]?.[record.primary ?? "accuracy"];
  const words = typeof value === "number" ? shownScore(table().scale * value) : `no ${table().split} score`;
  return `${record.labels.dataset}, seed ${record.seed}: ${words}`;
}

function showRecord(fingerprint, record) {
  byId("command").textContent = `python -m peftbench reproduce ${fingerprint}`;
  byId("dialog-json").textContent = record ? JSON.stringify(record, null, 1) : "";
  const strip = record && page.strips[record.labels.dataset];
  byId("dialog-strip").hidden = !strip;
  if (strip) byId("dialog-strip").src = strip;
  const picture = page.pictures[fingerprint];
  byId("dialog-picture").replaceChildren(...(picture ? [html("img", { src: picture, alt: "test images, what is true and what this record's model predicts" })] : []));
}

async function openRecords(title, row, tasks) {
  const list = byId("dialog-list");
  const first = tasks.flatMap((task) => row.records[task] ?? [])[0];
  if (!first) return;
  list.replaceChildren();
  byId("dialog-title").textContent = title;
  showRecord(first, null);
  if (!byId("records-dialog").open) byId("records-dialog").showModal();
  const asked = ++openings;
  for (const task of tasks) {
    const known = await recordsOf(task);
    if (asked !== openings) return;
    for (const fingerprint of row.records[task] ?? []) {
      const record = known.get(fingerprint);
      const file = page.links[fingerprint];
      // a pack holds many records: its name says that the link is not to this one alone
      const text = record ? describe(record) : file?.endsWith(".gz") ? `${fingerprint} in ${file.split("/").pop()}` : fingerprint;
      if (!record && file) {
        list.append(html("a", { href: file }, text));
        continue;
      }
      const button = html("button", { type: "button", title: fingerprint }, text);
      button.addEventListener("click", () => {
        list.querySelectorAll(".chosen").forEach((node) => node.classList.remove("chosen"));
        button.classList.add("chosen");
        showRecord(fingerprint, record);
      });
      list.append(button);
    }
  }
  list.querySelector("button")?.click();
}

const openRow = (row, task) =>
  openRecords(task ? `${row.label}, ${task}` : row.label, row, task ? [task] : table().tasks.map((one) => one.name));

function prepareDialog() {
  byId("copy").addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(byId("command").textContent);
    } catch {
      // a page from disk may not write to the clipboard: select the words instead
      getSelection().selectAllChildren(byId("command"));
      document.execCommand("copy");
    }
    byId("copy").textContent = "copied";
    setTimeout(() => { byId("copy").textContent = "copy"; }, 1500);
  });
}
