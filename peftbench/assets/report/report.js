"use strict";
// The page: which table is shown, its filters, the theme, and the records behind each number.

const byId = (id) => document.getElementById(id);
const tables = JSON.parse(byId("data").textContent);
const links = JSON.parse(byId("links").textContent);
const bytes = (id) => Uint8Array.from(atob(byId(id).textContent.trim()), (c) => c.charCodeAt(0));
const shown = new Map();
const records = new Map();

async function readRecords() {
  const stream = new Blob([bytes("records")]).stream().pipeThrough(new DecompressionStream("gzip"));
  for (const line of (await new Response(stream).text()).split("\n")) {
    if (!line) continue;
    const record = JSON.parse(line);
    records.set(record.fingerprint, record);
  }
}

async function loadDataTables() {
  const url = URL.createObjectURL(new Blob([bytes("datatables")], { type: "text/javascript" }));
  const module = await import(url);
  URL.revokeObjectURL(url);
  return module.default;
}

function describe(record) {
  const accuracy = record.metrics.test ? `${(100 * record.metrics.test.accuracy).toFixed(2)} %` : "no test score";
  return `${record.labels.dataset}, seed ${record.seed}: ${accuracy}`;
}

function openRecords(title, fingerprints) {
  const list = byId("dialog-list");
  list.replaceChildren();
  byId("dialog-title").textContent = title;
  byId("dialog-json").textContent = "";
  for (const fingerprint of fingerprints) {
    const record = records.get(fingerprint);
    if (!record) {
      const file = links[fingerprint];
      const link = document.createElement(file ? "a" : "span");
      if (file) link.href = file;
      // a pack holds many records: its name says that the link is not to this one alone
      link.textContent = file?.endsWith(".gz") ? `${fingerprint} in ${file.split("/").pop()}` : fingerprint;
      list.append(link);
      continue;
    }
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = describe(record);
    button.title = fingerprint;
    button.addEventListener("click", () => {
      list.querySelectorAll(".chosen").forEach((node) => node.classList.remove("chosen"));
      button.classList.add("chosen");
      byId("dialog-json").textContent = JSON.stringify(record, null, 1);
    });
    list.append(button);
  }
  list.querySelector("button")?.click();
  byId("records-dialog").showModal();
}

const recordsOf = (row, column) => (column ? row.cells[column]?.records ?? [] : Object.values(row.cells).flatMap((c) => c.records));

function openRow(table, label, column) {
  const row = table.rows.find((r) => r.label === label);
  const fingerprints = row ? recordsOf(row, column) : [];
  if (fingerprints.length) openRecords(column ? `${label}, ${column}` : label, fingerprints);
}

function drawPlots(section, table) {
  const node = (name) => section.querySelector(`[data-plot="${name}"]`);
  for (const axis of ["trainable", "memory", "flops"]) scatter(node(axis), table, axis, (m) => openRow(table, m));
  heatmap(node("heatmap"), table, (label, column) => openRow(table, label, column));
  ranks(node("ranks"), section.querySelector(".rank-hint"), table);
  const column = section.querySelector(".curve-column").value;
  curves(node("curves"), table, column, section.querySelector(".curve-value").value, (f) => records.get(f));
}

function prepare(section, table, DataTable) {
  const grid = new DataTable(section.querySelector("table"), {
    paging: false,
    info: true,
    order: [],
    scrollX: true,
    fixedColumns: { start: 1 },
    layout: { topStart: null, topEnd: { search: { placeholder: "method, number, ..." } }, bottomStart: "info" },
  });
  const verdict = section.querySelector(".by-verdict");
  const complete = section.querySelector(".only-complete");
  const verdictColumn = [...section.querySelectorAll("thead th")].findIndex((th) => th.textContent.trim() === "verdict");
  const nodeOf = (index) => grid.row(index).node();
  const passes = (index) => !verdict.value || nodeOf(index).cells[verdictColumn].textContent.trim() === verdict.value;
  grid.search.fixed("verdict", (_text, _data, index) => passes(index));
  grid.search.fixed("complete", (_text, _data, index) => !complete.checked || !nodeOf(index).classList.contains("incomplete"));
  for (const control of [verdict, complete]) control.addEventListener("change", () => grid.draw());
  section.addEventListener("click", (event) => {
    const link = event.target.closest("a[data-records]");
    if (!link) return;
    event.preventDefault();
    const cell = grid.cell(link.closest("td")).index();
    const header = grid.column(cell.column).header().textContent.trim();
    openRecords(`${nodeOf(cell.row).cells[0].textContent}, ${header}: ${link.textContent}`, link.dataset.records.split(" "));
  });
  const columns = section.querySelector(".curve-column");
  columns.replaceChildren(...table.columns.map((c) => new Option(c.name)));
  for (const control of section.querySelectorAll(".curve-column, .curve-value")) {
    control.addEventListener("change", () => drawPlots(section, table));
  }
  return grid;
}

function show(index, DataTable) {
  document.querySelectorAll("section.board").forEach((s) => { s.hidden = s.dataset.index !== String(index); });
  const section = byId(`board-${index}`);
  if (!shown.has(index)) shown.set(index, prepare(section, tables[index], DataTable));
  shown.get(index).columns.adjust();
  drawPlots(section, tables[index]);
}

function setTheme(dark) {
  document.documentElement.classList.toggle("dark", dark);
  byId("theme").textContent = dark ? "light" : "dark";
}

async function start() {
  const [DataTable] = await Promise.all([loadDataTables(), readRecords()]);
  const chooser = byId("choose-table");
  const current = () => Number(chooser?.value ?? 0);
  setTheme(matchMedia("(prefers-color-scheme: dark)").matches);
  byId("theme").addEventListener("click", () => {
    setTheme(!document.documentElement.classList.contains("dark"));
    show(current(), DataTable);
  });
  chooser?.addEventListener("change", () => show(current(), DataTable));
  if (tables.length) show(current(), DataTable);
  document.body.dataset.ready = "yes";
}

start();
