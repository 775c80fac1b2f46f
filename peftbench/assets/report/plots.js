"use strict";
// Plots of one table, drawn by Plotly in the colours of the page.

const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();

function layout(extra) {
  const axis = { gridcolor: colour("line"), linecolor: colour("line"), zeroline: false, automargin: true };
  const merged = {
    paper_bgcolor: "rgba(0,0,0,0)",
    plot_bgcolor: "rgba(0,0,0,0)",
    font: { color: colour("ink"), size: 12 },
    margin: { l: 60, r: 20, t: 20, b: 50 },
    hoverlabel: { bgcolor: colour("ground"), bordercolor: colour("line"), font: { color: colour("ink") } },
    ...extra,
  };
  merged.xaxis = { ...axis, ...extra.xaxis };
  merged.yaxis = { ...axis, ...extra.yaxis };
  return merged;
}

function draw(node, traces, extra, onClick) {
  Plotly.react(node, traces, layout(extra), { responsive: true, displaylogo: false });
  node.removeAllListeners?.("plotly_click");
  if (onClick) node.on("plotly_click", (event) => onClick(event.points[0]));
}

function empty(node, text) {
  draw(node, [], {
    height: 120,
    xaxis: { visible: false },
    yaxis: { visible: false },
    annotations: [{ text, showarrow: false, font: { color: colour("faint") } }],
  });
}

// Of neighbours whose labels would cover each other only the first is named; the others tell their name when pointed at.
function named(points, cover) {
  const kept = [];
  for (const point of points) if (!kept.some((other) => cover(point, other))) kept.push(point);
  return new Set(kept);
}

// A row named by many options would leave no room for its plot; pointing at it tells the whole name.
const brief = (label) => (label.length > 34 ? `${label.slice(0, 33)}…` : label);
const briefTicks = (labels) => ({ tickmode: "array", tickvals: labels, ticktext: labels.map(brief) });

function scatter(node, table, axis, onMethod) {
  const { title, points } = table.scatter[axis];
  if (!points.length) return empty(node, `no complete row knows its ${title}`);
  // the bars of many methods hide their points: then only the front's are drawn
  const many = points.length > 20;
  const trace = (chosen, extra) => ({
    x: chosen.map((p) => p.cost),
    y: chosen.map((p) => p.accuracy),
    customdata: chosen.map((p) => p.method),
    error_y: {
      type: "data", array: chosen.map((p) => p.interval ?? 0), thickness: 1, width: 3, color: colour("muted"),
      visible: !many || chosen[0]?.front,
    },
    hovertemplate: "%{customdata}<br>%{x:.4s}, %{y:.2f} %<extra></extra>",
    ...extra,
  });
  const front = points.filter((p) => p.front).sort((a, b) => a.cost - b.cost);
  const others = points.filter((p) => !p.front);
  const logs = points.map((p) => Math.log10(p.cost));
  const decades = Math.max(...logs) - Math.min(...logs);
  const pad = 0.12 * decades + 0.1;
  // labels point into the plot, those of neighbours up and down by turns
  const middle = (Math.max(...logs) + Math.min(...logs)) / 2;
  const side = (p, i) => `${i % 2 ? "bottom" : "top"} ${Math.log10(p.cost) > middle ? "left" : "right"}`;
  const means = points.map((p) => p.accuracy);
  const height = Math.max(...means) - Math.min(...means);
  const labelled = named([...front].reverse(), (a, b) =>
    Math.abs(Math.log10(a.cost / b.cost)) < 0.25 * decades && Math.abs(a.accuracy - b.accuracy) < 0.12 * height);
  draw(
    node,
    [
      trace(others, { mode: "markers", marker: { color: colour("muted"), size: 8 }, name: "other" }),
      trace(front, {
        mode: "lines+markers+text",
        text: front.map((p) => (labelled.has(p) ? brief(p.method) : "")),
        textposition: front.map(side),
        textfont: { size: 11 },
        line: { color: colour("accent"), width: 1.5, shape: "hv" },
        marker: { color: colour("accent"), size: 10 },
        name: "Pareto front",
      }),
    ],
    {
      height: 400,
      showlegend: false,
      xaxis: {
        type: "log", title: { text: title }, tickformat: "~s",
        dtick: decades > 1.5 ? 1 : "D2",
        range: [Math.min(...logs) - pad, Math.max(...logs) + pad],
      },
      yaxis: {
        title: { text: `${table.overall}, %` },
        ...(many && { range: [Math.min(...means) - 0.1 * height, Math.max(...means) + 0.15 * height] }),
      },
      margin: { l: 60, r: 20, t: 20, b: 65 },
    },
    (point) => onMethod(point.customdata),
  );
}

function heatmap(node, table, onCell) {
  const measured = table.rows.filter((r) => !r.published_by);
  const rows = measured.length ? measured : table.rows;
  const columns = table.columns.map((c) => c.name);
  const families = new Set(columns.map((c) => c.split("/")[0]));
  const short = families.size === 1 ? columns.map((c) => c.split("/").slice(1).join("/") || c) : columns;
  const best = columns.map((c) =>
    Math.max(...rows.filter((r) => r.cells[c]).map((r) => r.cells[c].mean), 0));
  const z = rows.map((r) => columns.map((c, i) => (r.cells[c] ? r.cells[c].mean - best[i] : null)));
  const many = columns.length > 12;
  draw(
    node,
    [{
      type: "heatmap", z, x: short, y: rows.map((r) => r.label), xgap: 1, ygap: 1,
      customdata: rows.map((r) => columns.map(() => r.label)),
      text: rows.map((r) => columns.map((c) => (r.cells[c] ? r.cells[c].mean.toFixed(1) : ""))),
      texttemplate: "%{text}", textfont: { size: many ? 10 : 12 },
      colorscale: "Cividis", zmax: 0, zmin: Math.max(-30, Math.min(...z.flat().filter((v) => v !== null))),
      colorbar: { title: { text: "points" }, thickness: 12, outlinewidth: 0 },
      hovertemplate: "%{customdata}<br>%{x}: %{text} %, %{z:.1f} points<extra></extra>",
    }],
    {
      height: 110 + 22 * rows.length,
      xaxis: { side: "top", tickangle: many ? -45 : 0, showgrid: false, type: "category" },
      yaxis: { autorange: "reversed", showgrid: false, type: "category", ...briefTicks(rows.map((r) => r.label)) },
      margin: { l: 60, r: 20, t: 60, b: 20 },
    },
    (point) => onCell(rows[point.pointNumber[0]].label, columns[point.pointNumber[1]]),
  );
}

function ranks(node, hint, table) {
  const { methods, average_ranks, nemenyi_critical_difference: difference, friedman } = table.comparison;
  if (methods.length < 2) {
    hint.textContent = "";
    return empty(node, "ranks need two complete rows");
  }
  const order = methods.map((_, i) => i).sort((a, b) => average_ranks[a] - average_ranks[b]);
  const sets = `${table.columns.length} data set${table.columns.length === 1 ? "" : "s"}`;
  hint.textContent = difference === null
    ? `Average rank over ${sets}; too little data for a critical difference (see the notes of the table).`
    : `Average rank over ${sets}. Bars are one critical difference (${difference.toFixed(2)}) long: methods whose bars ` +
      "overlap cannot be told apart (Nemenyi, 5 %)." +
      (friedman.p > 0.05 ? ` Friedman's test shows no difference at all (p = ${friedman.p.toPrecision(2)}).` : "");
  const apart = (i) => difference !== null && average_ranks[i] - average_ranks[order[0]] > difference;
  draw(
    node,
    [{
      type: "scatter", mode: "markers",
      x: order.map((i) => average_ranks[i]),
      y: order.map((i) => methods[i]),
      customdata: order.map((i) => methods[i]),
      marker: { size: 9, color: order.map((i) => (apart(i) ? colour("muted") : colour("accent"))) },
      error_x: {
        type: "constant", value: difference === null ? 0 : difference / 2, visible: difference !== null,
        thickness: 3, width: 0, color: colour("muted"),
      },
      hovertemplate: "%{customdata}: %{x:.2f}<extra></extra>",
    }],
    {
      height: 90 + 22 * methods.length,
      xaxis: { title: { text: "average rank, 1 is best" } },
      yaxis: { autorange: "reversed", type: "category", ...briefTicks(methods) },
      shapes: difference === null ? [] : [{
        type: "rect", yref: "paper", y0: 0, y1: 1, line: { width: 0 }, fillcolor: colour("accent"), opacity: 0.12,
        x0: average_ranks[order[0]] - difference / 2, x1: average_ranks[order[0]] + difference / 2,
      }],
    },
  );
}

function curves(node, table, column, value, recordOf) {
  const traces = [];
  for (const row of table.rows) {
    const runs = (row.cells[column]?.records ?? []).map(recordOf).filter(Boolean).map((r) => r.curve);
    const sums = new Map();
    for (const run of runs) {
      for (const point of run) {
        if (point[value] === null) continue;
        const [sum, n] = sums.get(point.epoch) ?? [0, 0];
        sums.set(point.epoch, [sum + point[value], n + 1]);
      }
    }
    const epochs = [...sums.keys()].sort((a, b) => a - b);
    if (!epochs.length) continue;
    const scale = value === "val_accuracy" ? 100 : 1;
    traces.push({
      x: epochs,
      y: epochs.map((e) => (scale * sums.get(e)[0]) / sums.get(e)[1]),
      name: brief(row.label),
      meta: row.label,
      mode: epochs.length > 1 ? "lines" : "markers",
      line: { dash: ["solid", "dash", "dot", "dashdot"][Math.floor(traces.length / 10) % 4] },
      hovertemplate: `%{meta}<br>epoch %{x}: %{y:.4~g}<extra></extra>`,
    });
  }
  if (!traces.length) return empty(node, "the records of this choice are not embedded or hold no such values");
  const titles = { loss: "training loss", val_accuracy: "validation accuracy, %", lr: "learning rate" };
  draw(node, traces, {
    height: Math.max(420, Math.min(900, 60 + 19 * traces.length)),
    xaxis: { title: { text: "epoch" } },
    yaxis: { title: { text: titles[value] }, type: value === "loss" ? "log" : "linear" },
    legend: { itemwidth: 30 },
  });
}
