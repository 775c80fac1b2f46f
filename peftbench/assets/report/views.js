"use strict";
// Two methods side by side, one data set at a time, and learning curves.

function prepareCompare() {
  const rows = table().rows;
  const options = rows.map((row) => [row.label, brief(row.label, 60)]);
  const ranked = candidates().length > 1 ? candidates() : rows;
  const a = rowOf(state.a) ?? ranked[0];
  const b = rowOf(state.b) ?? ranked.find((row) => row !== a);
  fillSelect(byId("first"), options, a?.label);
  fillSelect(byId("second"), options, b?.label);
  drawCompare();
}

function diverging(difference, most, half) {
  const [wide, middle] = [180, 90];
  const end = middle + (86 * difference) / most;
  const whisker = half ? [Math.max(1, middle + (86 * (difference - half)) / most), Math.min(wide - 1, middle + (86 * (difference + half)) / most)] : null;
  const picture = svg("svg", { viewBox: `0 0 ${wide} 18`, width: wide, height: 18, "aria-hidden": "true" },
    svg("line", { x1: middle, x2: middle, y1: 0, y2: 18, stroke: "var(--muted)" }),
    svg("rect", { x: Math.min(middle, end), width: Math.abs(end - middle), y: 4, height: 10, fill: difference > 0 ? "var(--accent)" : "var(--second)" }));
  if (whisker) picture.append(svg("line", { x1: whisker[0], x2: whisker[1], y1: 9, y2: 9, stroke: "var(--ink)" }));
  return html("td", { class: "diverge" }, picture);
}

function drawCompare() {
  const [a, b] = [rowOf(byId("first").value), rowOf(byId("second").value)];
  if (!a || !b) return;
  const names = [table().overall, ...table().means, ...table().tasks.map((task) => task.name)];
  const pairs = [...new Set(names)].map((name) => [name, a.scores[name], b.scores[name]]).filter(([, x, y]) => x && y);
  const most = Math.max(0.1, ...pairs.map(([, x, y]) => Math.abs(x.mean - y.mean)));
  const number = (score) => fixed(score.mean) + (score.ci95 ? ` ± ${fixed(score.ci95)}` : "");
  const together = (x, y) => (x.ci95 && y.ci95 ? Math.hypot(x.ci95, y.ci95) : 0);
  const lines = pairs.map(([name, x, y]) => html("tr", {}, html("th", { scope: "row" }, ...breakable(name)), html("td", {}, number(x)), html("td", {}, number(y)),
    html("td", {}, `${x.mean >= y.mean ? "+" : "−"}${fixed(Math.abs(x.mean - y.mean))}`), diverging(good(x) - good(y), most, together(x, y))));
  for (const cost of Object.keys(COSTS)) {
    const [x, y] = [a.costs[cost], b.costs[cost]];
    if (!x || !y) continue;
    const times = x >= y ? `${Number((x / y).toPrecision(3))} times B` : `1 / ${Number((y / x).toPrecision(3))} of B`;
    lines.push(html("tr", {}, html("th", { scope: "row" }, COSTS[cost].words), html("td", {}, COSTS[cost].unit(x)), html("td", {}, COSTS[cost].unit(y)), html("td", { colspan: 2 }, times)));
  }
  byId("compare").replaceChildren(html("table", { class: "versus" }, html("thead", {}, html("tr", {}, html("th", { scope: "col" }, ""),
    html("th", { scope: "col", class: "a", title: a.label }, `A: ${brief(a.label, 24)}`), html("th", { scope: "col", class: "b", title: b.label }, `B: ${brief(b.label, 24)}`),
    html("th", { scope: "col" }, "A − B"), html("th", { scope: "col" }, "B better | A better"))), html("tbody", {}, ...lines)));
  const [x, y] = [overall(a), overall(b)];
  const words = byId("compare-words");
  if (a === b) words.textContent = "Choose two different rows.";
  else if (!x || !y) words.textContent = "One of the two lacks a data set, so there is no overall difference.";
  else {
    const [difference, half] = [good(x) - good(y), together(x, y)];
    const ahead = difference >= 0 ? "A" : "B";
    words.textContent = `${ahead} is ${fixed(Math.abs(difference))} points ahead in ${table().overall}. `
      + (half ? Math.abs(difference) > half ? `The 95 % intervals over seeds together are ${fixed(half)} wide: on these data sets that is more than seeds explain.`
        : `The 95 % intervals over seeds together are ${fixed(half)} wide: the seeds alone could explain it.`
        : "Without several seeds of both nobody can say whether that is chance.")
      + " One pair picked out of many needs the correction that the verdict column makes.";
  }
}

// Cividis, from far below the best (dark blue) to the best (yellow), and words that stand out from it.
function heatColour(fraction) {
  const stops = [[0, 34, 78], [65, 77, 107], [124, 123, 120], [188, 175, 111], [254, 232, 56]];
  const at = Math.max(0, Math.min(1, fraction)) * (stops.length - 1);
  const low = Math.min(stops.length - 2, Math.floor(at));
  const colour = stops[low].map((v, i) => v + (at - low) * (stops[low + 1][i] - v));
  const linear = colour.map((v) => ((v / 255 + 0.055) / 1.055) ** 2.4);
  const light = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2];
  return [`rgb(${colour.map(Math.round)})`, light > 0.179 ? "#000" : "#fff"];
}

function heatTable() {
  const rows = measured().length ? measured() : table().rows;
  const { tasks } = table();
  const best = tasks.map((task) => Math.max(...rows.map((row) => (row.scores[task.name] ? good(row.scores[task.name]) : -Infinity))));
  const below = rows.flatMap((row) => tasks.map((task, i) => (row.scores[task.name] ? best[i] - good(row.scores[task.name]) : 0)));
  const worst = Math.min(30, Math.max(...below, 1));
  const body = rows.map((row) => html("tr", {}, html("th", { scope: "row", title: row.label }, ...breakable(brief(row.label, 30))), ...tasks.map((task, i) => {
    const score = row.scores[task.name];
    if (!score) return html("td", {}, "—");
    const [ground, ink] = heatColour(1 - (best[i] - good(score)) / worst);
    const link = html("button", { type: "button", class: "linkish", tabindex: "-1", style: `color: ${ink}` }, fixed(score.mean, 1));
    link.addEventListener("click", () => openRow(row, task.name));
    return html("td", { style: `background: ${ground}; color: ${ink}` }, link);
  })));
  return html("table", { class: "heat" }, html("thead", {}, html("tr", {}, html("th", { scope: "col" }, "method"), ...tasks.map((task) => html("th", { scope: "col", title: task.name }, task.short)))), html("tbody", {}, ...body));
}

// Every class of a set with maps or boxes: where a method gains, and which classes nobody finds.
function classTable() {
  const rows = table().rows.filter((row) => Object.keys(row.classes).length);
  const names = [...new Set(rows.flatMap((row) => Object.keys(row.classes)))];
  const head = html("tr", {}, html("th", { scope: "col" }, "method"), ...names.map((name) => html("th", { scope: "col", title: name }, brief(name, 16))));
  const body = rows.map((row) => html("tr", {}, html("th", { scope: "row", title: row.label }, ...breakable(brief(row.label, 30))), ...names.map((name) => {
    const value = row.classes[name];
    if (value === undefined) return html("td", {}, "—");
    const [ground, ink] = heatColour(value / 100);
    return html("td", { style: `background: ${ground}; color: ${ink}` }, value.toFixed(1));
  })));
  return html("table", { class: "heat" }, html("thead", {}, head), html("tbody", {}, ...body));
}

function rankRows() {
  const { methods, average_ranks: average, nemenyi_critical_difference: difference } = table().comparison;
  const order = methods.map((_, i) => i).sort((a, b) => average[a] - average[b]);
  const best = average[order[0]];
  return order.map((i) => ({
    row: table().rows.find((row) => row.method === methods[i] && row.kind !== "published"), mean: average[i], half: difference === null ? 0 : difference / 2,
    words: `${average[i].toFixed(1)} average rank`, strong: difference !== null && average[i] - best <= difference,
  })).filter((one) => one.row);
}

function drawTask() {
  const node = byId("task-view");
  const hint = byId("task-hint");
  const chosen = byId("task").value;
  if (chosen === "heat") {
    hint.textContent = "Colour: points below the best method of that data set, yellow is best. Text: the mean over seeds.";
    node.replaceChildren(heatTable());
  } else if (chosen === "shots") {
    const chosenRows = state.picked.map(rowOf).filter(Boolean);
    const series = (chosenRows.length ? chosenRows : measured().slice(0, 6)).map((row) => ({
      label: row.label,
      points: table().tasks.filter((task) => row.scores[task.name]).map((task) => [parseInt(task.name, 10), row.scores[task.name].mean]),
    })).filter((one) => one.points.length);
    hint.textContent = "Mean over seeds and data sets, by images of every class. The first rows of the table, or those that are ticked.";
    if (series.length) lineChart(node, series, `score,${table().unit}`, false, "shots");
  } else if (chosen === "classes") {
    const words = table().of_classes;
    hint.textContent = `${words[0].toUpperCase()}${words.slice(1)} of each class in percent, mean over seeds; blue is 0, yellow is 100. —: the class does not occur.`;
    node.replaceChildren(classTable());
  } else if (chosen === "ranks") {
    const { nemenyi_critical_difference: difference } = table().comparison;
    const rows = rankRows();
    hint.textContent = difference === null ? "Average rank over the data sets, 1 is best; too little data for a critical difference (see the notes of the table)."
      : `Average rank over the data sets, 1 is best. Bars are one critical difference (${difference.toFixed(2)}) long: methods whose bars overlap cannot be told apart (Nemenyi, 5 %); diamonds cannot be told from the best.`;
    if (rows.length < 2) node.replaceChildren(html("p", { class: "hint" }, "ranks need two complete rows"));
    else dots(node, rows, (row) => openRow(row), "average ranks");
  } else {
    const rows = table().rows.filter((row) => row.scores[chosen]).map((row) => {
      const score = row.scores[chosen];
      return { row, mean: score.mean, half: score.ci95, words: fixed(score.mean) + (score.ci95 ? ` ± ${fixed(score.ci95)}` : "") + table().unit };
    }).sort((a, b) => table().sign * (b.mean - a.mean));
    for (const one of rows) one.strong = Math.abs(one.mean - rows[0].mean) <= (one.half ?? 0) + (rows[0].half ?? 0);
    hint.textContent = "Best first; bars: 95 % intervals over seeds. Diamonds: the best and what its interval touches. Orange: ticked rows.";
    dots(node, rows, (row) => openRow(row, chosen), `scores on ${chosen}`);
  }
}

function prepareViews() {
  const tasks = table().tasks.map((task) => [task.name, task.name]);
  const shots = table().over_shots ? [["shots", "score by shots"]] : [];
  const classes = table().rows.some((row) => Object.keys(row.classes).length) ? [["classes", "classes (heat map)"]] : [];
  fillSelect(byId("task"), [...shots, ["heat", "all (heat map)"], ...classes, ["ranks", "average ranks"], ...tasks], state.task);
  fillSelect(byId("curve-task"), tasks, state.curve);
  byId("curve-value").value = state.value;
}

function meanCurve(records, value) {
  const sums = new Map();
  for (const point of records.flatMap((record) => record.curve)) {
    if (typeof point[value] !== "number") continue;
    const [sum, n] = sums.get(point.epoch) ?? [0, 0];
    sums.set(point.epoch, [sum + point[value], n + 1]);
  }
  const scale = value === "val_accuracy" ? 100 : 1;
  return [...sums].sort((a, b) => a[0] - b[0]).map(([epoch, [sum, n]]) => [epoch, (scale * sum) / n]);
}

const TITLES = { loss: "training loss", val_accuracy: "validation accuracy, %", lr: "learning rate" };

async function drawCurves() {
  const task = byId("curve-task").value;
  const value = byId("curve-value").value;
  const [at, known] = [state.table, await recordsOf(task)];
  if (at !== state.table || task !== byId("curve-task").value || value !== byId("curve-value").value) return;
  const chosen = state.picked.map(rowOf).filter(Boolean);
  const rows = chosen.length ? chosen : measured().slice(0, 4);
  // a loss with another objective in it is another quantity: it gets axes of its own
  const charts = new Map();
  for (const row of rows) {
    const records = (row.records[task] ?? []).map((fingerprint) => known.get(fingerprint)).filter(Boolean);
    const points = meanCurve(records, value);
    const objective = value === "loss" ? records[0]?.config?.objective?.name ?? "" : "";
    if (points.length) charts.set(objective, [...(charts.get(objective) ?? []), { label: row.label, points }]);
  }
  byId("curve-hint").textContent = `Mean over seeds. ${chosen.length ? `${chosen.length} ticked row${chosen.length > 1 ? "s" : ""}.` : "The first rows of the table; tick rows there to choose others."}`
    + (charts.size > 1 ? " Objectives that add to the loss stand apart." : "");
  if (!charts.size) byId("curves").replaceChildren(html("p", { class: "hint" }, "the records of this choice are not at hand or hold no such values"));
  else {
    const nodes = [...charts].map(() => html("div", { class: "plot" }));
    byId("curves").replaceChildren(...nodes);
    [...charts].sort((x, y) => x[0].localeCompare(y[0])).forEach(([objective, series], i) =>
      lineChart(nodes[i], series, TITLES[value] + (objective ? `, objective ${objective}` : ""), value === "loss"));
  }
}
