"use strict";
// The table: sorted, searched, filtered, with chosen columns, and what is shown of it as CSV and LaTeX.

const hidden = () => new Set(state.hide ?? []);
const shownColumns = () => table().columns.filter((column) => !hidden().has(column.name));
const KINDS = { mean: "means", standing: "standing", task: "data sets", beside: "further numbers", cost: "costs" };

function passes(row) {
  const words = state.search.toLowerCase().split(/\s+/).filter(Boolean);
  const text = [row.label, row.family, ...row.texts].join(" ").toLowerCase();
  return words.every((word) => text.includes(word)) && (!state.family || row.family === state.family)
    && (!state.verdict || row.verdict === state.verdict) && (!state.complete || row.kind === "complete");
}

function shownRows() {
  const rows = table().rows.filter(passes);
  const name = state.sort.replace(/^-/, "");
  const index = table().columns.findIndex((column) => column.name === name);
  if (index < 0 && name !== "method") return rows;
  const sign = state.sort.startsWith("-") ? -1 : 1;
  const key = (row) => (index < 0 ? row.label : row.orders[index]);
  return [...rows].sort((a, b) => {
    const [x, y] = [key(a), key(b)];
    if (x === null || y === null) return (x === null) - (y === null);
    return sign * (typeof x === "string" ? x.localeCompare(y) : x - y);
  });
}

// Per cent of a column's width for each row; null where a bar would say nothing.
function bars(column, index) {
  if (column.kind === "standing") return () => null;
  const turn = column.kind === "cost" ? (v) => (v > 0 ? Math.log10(v) : null) : (v) => v;
  const values = table().rows.map((row) => row.orders[index]).filter((v) => typeof v === "number").map(turn).filter((v) => v !== null);
  const [low, high] = [Math.min(...values), Math.max(...values)];
  return (row) => {
    const value = typeof row.orders[index] === "number" ? turn(row.orders[index]) : null;
    return value === null || !(high > low) ? null : 2 + (98 * (value - low)) / (high - low);
  };
}

function headerCell(name, text, descendingFirst) {
  const sorted = state.sort.replace(/^-/, "") === name;
  const cell = html("th", { scope: "col", title: name, "aria-sort": sorted ? (state.sort.startsWith("-") ? "descending" : "ascending") : null });
  const button = html("button", { type: "button" }, text);
  button.addEventListener("click", () => {
    const [first, second] = descendingFirst ? [`-${name}`, name] : [name, `-${name}`];
    state.sort = state.sort === first ? second : first;
    drawGrid();
    writeAddress();
    [...byId("grid").querySelectorAll("thead th")].find((th) => th.title === name)?.querySelector("button").focus();
  });
  cell.append(button);
  return cell;
}

function nameCell(row) {
  const box = html("input", { type: "checkbox", "aria-label": `pick ${row.label}` });
  box.checked = state.picked.includes(row.label);
  box.addEventListener("change", () => pick(row, box.checked));
  const name = nameOf(row.label);
  const rest = row.label.slice(name.length).trim();
  return html("th", { scope: "row", title: row.remark ? `${row.label}: ${row.remark}` : row.label },
    html("div", { class: "name" }, box, html("span", {}, ...breakable(name), rest ? html("span", { class: "options" }, ` ${rest}`) : "")));
}

function drawGrid() {
  const columns = shownColumns();
  const all = table().columns;
  const rows = shownRows();
  const index = new Map(all.map((column, i) => [column.name, i]));
  const width = new Map(columns.map((column) => [column.name, bars(column, index.get(column.name))]));
  const head = html("tr", {}, headerCell("method", "method", false),
    ...columns.map((column) => headerCell(column.name, column.short, column.kind !== "cost" && column.name !== "rank")));
  const body = rows.map((row) => {
    const cells = columns.map((column) => {
      const i = index.get(column.name);
      const percent = width.get(column.name)(row);
      const behind = column.tasks.filter((task) => row.records[task]?.length);
      const cell = html("td", percent === null ? {} : { class: "bar", style: `--p: ${percent.toFixed(1)}%` });
      if (!behind.length || row.orders[i] === null) cell.append(row.texts[i]);
      else {
        const link = html("button", { type: "button", class: "linkish", tabindex: "-1", "data-column": column.name }, row.texts[i]);
        link.addEventListener("click", () => openRecords(`${row.label}, ${column.name}: ${row.texts[i]}`, row, behind));
        cell.append(link);
      }
      return cell;
    });
    return html("tr", { class: `${row.kind}${state.picked.includes(row.label) ? " picked" : ""}`, "data-label": row.label }, nameCell(row), ...cells);
  });
  byId("grid").replaceChildren(html("table", {}, html("thead", {}, head), html("tbody", {}, ...body)));
  byId("count").textContent = rows.length === table().rows.length ? `${rows.length} rows.` : `${rows.length} of ${table().rows.length} rows.`;
}

// Enter opens the first number of a row's cell that arrow keys chose: one stop of the Tab key for the whole table.
function prepareKeys() {
  const grid = byId("grid");
  grid.addEventListener("keydown", (event) => {
    const step = { ArrowRight: [0, 1], ArrowLeft: [0, -1], ArrowDown: [1, 0], ArrowUp: [-1, 0] }[event.key];
    if (!step || event.target.closest("thead")) return;
    const lines = [...grid.querySelectorAll("tbody tr")];
    const row = event.target.closest("tbody tr");
    if (!row && event.target !== grid) return;
    const at = row ? [lines.indexOf(row), [...row.children].indexOf(event.target.closest("td, th"))] : [-step[0], -step[1]];
    const cell = lines[at[0] + step[0]]?.children[at[1] + step[1]];
    const target = cell?.querySelector("button, input");
    if (!target) return;
    event.preventDefault();
    target.focus();
    cell.scrollIntoView({ block: "nearest", inline: "nearest" });
  });
}

function pick(row, on) {
  state.picked = state.picked.filter((label) => label !== row.label);
  if (on) state.picked.push(row.label);
  if (on) [state.a, state.b] = state.picked.length > 1 ? state.picked.slice(-2) : [row.label, state.b === row.label ? "" : state.b];
  byId("grid").querySelectorAll("tbody tr").forEach((tr) => tr.classList.toggle("picked", state.picked.includes(tr.dataset.label)));
  prepareCompare();
  drawChooser();
  drawCosts();
  drawTask();
  drawCurves();
  writeAddress();
}

function prepareGrid() {
  const rows = table().rows;
  const options = (values) => [["", "all"], ...[...new Set(values)].filter(Boolean).sort().map((value) => [value, value])];
  byId("board-title").textContent = table().title;
  byId("search").value = state.search;
  byId("complete").checked = state.complete !== "";
  fillSelect(byId("family"), options(rows.map((row) => row.family)), state.family);
  fillSelect(byId("verdict"), options(rows.map((row) => row.verdict)), state.verdict);
  byId("columns").lastElementChild.replaceChildren(...Object.entries(KINDS).filter(([kind]) => table().columns.some((column) => column.kind === kind)).map(([kind, words]) => html("fieldset", {}, html("legend", {}, words),
    ...table().columns.filter((column) => column.kind === kind).map((column) => {
      const box = html("input", { type: "checkbox", "data-column": column.name });
      box.checked = !hidden().has(column.name);
      box.addEventListener("change", () => {
        const now = hidden();
        if (box.checked) now.delete(column.name);
        else now.add(column.name);
        state.hide = now.size ? [...now] : null;
        drawGrid();
        writeAddress();
      });
      return html("label", {}, box, ` ${column.short}`);
    }))));
  const { notes } = table();
  byId("notes").hidden = !notes.length;
  byId("notes").open = notes.length <= 6;
  byId("notes").firstElementChild.textContent = `notes (${notes.length})`;
  byId("notes").lastElementChild.replaceChildren(...notes.map((note) => html("li", {}, note)));
}

function download(name, type, text) {
  const link = html("a", { href: URL.createObjectURL(new Blob([text], { type })), download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}

const shownTexts = () => {
  const columns = shownColumns();
  const index = columns.map((column) => table().columns.indexOf(column));
  return [["method", ...columns.map((c) => c.name)], ...shownRows().map((row) => [row.label, ...index.map((i) => row.texts[i])])];
};

function asCsv() {
  const quote = (text) => (/[",\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text);
  return shownTexts().map((cells) => cells.map(quote).join(",")).join("\n") + "\n";
}

function asLatex() {
  const special = { "\\": "\\textbackslash{}", "~": "\\textasciitilde{}", "^": "\\textasciicircum{}", "±": "$\\pm$", "≈": "$\\approx$", "†": "$\\dagger$", "—": "--" };
  const escape = (text) => text.replace(/[\\~^±≈†—]|[&%$#_{}]/g, (c) => special[c] ?? `\\${c}`);
  const [head, ...rows] = shownTexts().map((cells) => `${cells.map(escape).join(" & ")} \\\\`);
  return ["% needs \\usepackage{booktabs}", `\\begin{tabular}{l${"r".repeat(shownColumns().length)}}`, "\\toprule", head, "\\midrule", ...rows, "\\bottomrule", "\\end{tabular}", ""].join("\n");
}
