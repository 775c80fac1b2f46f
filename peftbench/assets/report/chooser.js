"use strict";
// Which method for me: limits, what fits them, and the Pareto front of what fits.

const ranges = new Map();

const knows = (cost) => (row) => row.costs[cost] !== null;
const candidates = () => measured().filter((row) => overall(row));
const fits = (row) => Object.entries(state.limits).every(([name, limit]) =>
  name === "accuracy" ? good(overall(row)) >= table().sign * limit : row.costs[name] !== null && row.costs[name] <= limit);

// Of these rows those that no other beats: at least as accurate for at most the cost; of equal ones the first.
function frontOf(rows, cost) {
  const order = [...rows].sort((a, b) => a.costs[cost] - b.costs[cost] || good(overall(b)) - good(overall(a)));
  const chosen = [];
  for (const row of order) if (!chosen.length || good(overall(row)) > good(overall(chosen.at(-1)))) chosen.push(row);
  return new Set(chosen);
}

function pointsOf(cost, withLimits) {
  const known = candidates().filter(knows(cost));
  const fitting = withLimits ? known.filter(fits) : known;
  const front = frontOf(fitting, cost);
  const inside = new Set(fitting);
  return known.map((row) => ({ row, cost: row.costs[cost], state: front.has(row) ? "front" : inside.has(row) ? "fits" : "out" }));
}

function limitControl(name, words, values, show, atLeast) {
  const sorted = [...new Set(values)].sort((a, b) => (atLeast ? b - a : a - b));
  if (sorted.length < 2) return null;
  const input = html("input", { type: "range", id: `most-${name}`, min: 0, max: sorted.length - 1, step: 1 });
  const output = html("output", { for: `most-${name}` });
  const limit = state.limits[name];
  const within = (value) => (atLeast ? value >= limit : value <= limit);
  input.value = limit === undefined ? sorted.length - 1 : Math.max(0, sorted.filter(within).length - 1);
  const tell = () => {
    const any = Number(input.value) === sorted.length - 1;
    output.textContent = any ? "any" : `${atLeast ? "≥" : "≤"} ${show(sorted[input.value])}`;
    input.setAttribute("aria-valuetext", output.textContent);
    return any;
  };
  tell();
  input.addEventListener("input", () => {
    // a limit a hair wider than its value: what it was read from must fit it after printing and reading
    if (tell()) delete state.limits[name];
    else state.limits[name] = Number((sorted[input.value] * (atLeast ? 1 - 1e-9 : 1 + 1e-9)).toPrecision(12));
    drawChooser();
    writeAddress();
  });
  return html("div", { class: "limit" }, html("label", { for: `most-${name}` }, words), output, input);
}

function prepareChooser() {
  const rows = candidates();
  const known = Object.keys(COSTS).filter((cost) => rows.some((row) => row.costs[cost]));
  const controls = known.map((cost) =>
    limitControl(cost, COSTS[cost].words, rows.filter(knows(cost)).map((row) => row.costs[cost]), COSTS[cost].unit, false));
  controls.push(limitControl("accuracy", table().overall, rows.map((row) => overall(row).mean), (v) => shownScore(v, 1), table().sign > 0));
  const give = html("input", { type: "number", id: "give", min: 0, max: 50, step: 0.5, value: state.give, style: "width: 4.5rem" });
  give.addEventListener("input", () => { state.give = give.value; drawChooser(); writeAddress(); });
  byId("limits").replaceChildren(...controls.filter(Boolean), html("label", {}, "points I would give up for a lower cost ", give));
  byId("time-note").textContent = known.includes("minutes")
    ? "Training time: 1,000 images for 100 epochs at the measured rate, on the device where the records were made." : "";
  fillSelect(byId("chooser-axis"), known.map((cost) => [cost, COSTS[cost].words]), state.axis);
}

const costWords = (row) => Object.keys(COSTS).filter((c) => row.costs[c] !== null && c !== "flops").map((c) => COSTS[c].unit(row.costs[c])
  + (c === "trainable" ? " parameters" : c === "memory" ? " memory" : "")).join(", ");

function card(words, row) {
  const name = html("button", { type: "button", class: "linkish", title: row.label }, html("strong", {}, brief(row.label, 48)));
  name.addEventListener("click", () => openRow(row));
  const score = overall(row);
  const spread = score.ci95 ? ` ± ${fixed(score.ci95)}` : "";
  return html("div", {}, html("dt", {}, words), html("dd", {}, name, ` ${fixed(score.mean)}${spread}${table().unit}, ${costWords(row)}`));
}

function drawChooser() {
  const rows = candidates();
  const inside = rows.filter(fits);
  const answer = byId("answer");
  if (!inside.length) {
    answer.replaceChildren(html("p", {}, rows.length ? `None of the ${rows.length} methods fits: widen a limit.` : "No complete row to choose from."));
  } else {
    const best = inside.reduce((a, b) => (good(overall(b)) > good(overall(a)) ? b : a));
    const give = Number(state.give) || 0;
    const close = inside.filter((row) => good(overall(row)) >= good(overall(best)) - give);
    const roles = new Map([[best, ["best"]]]);
    for (const cost of ["trainable", "memory", "minutes"]) {
      const known = close.filter(knows(cost));
      if (!known.length) continue;
      const least = known.reduce((a, b) => (b.costs[cost] < a.costs[cost] ? b : a));
      roles.set(least, [...(roles.get(least) ?? []), { trainable: "fewest parameters", memory: "least memory", minutes: "least time" }[cost]]);
    }
    const cards = [...roles].map(([row, words]) =>
      card(words[0] === "best" ? words.join(", ") : `${words.join(", ")} within ${give} points of it`, row));
    answer.replaceChildren(html("p", {}, html("strong", {}, `${inside.length} of ${rows.length} methods fit.`)), html("dl", {}, ...cards));
  }
  scatter(byId("chooser-plot"), pointsOf(byId("chooser-axis").value, true), byId("chooser-axis").value, 430);
}

function drawCosts() {
  const costs = Object.keys(COSTS).filter((cost) => candidates().some((row) => row.costs[cost]));
  const nodes = costs.map((cost) => html("div", { class: "plot", "data-plot": cost }));
  byId("costs").replaceChildren(...nodes);
  costs.forEach((cost, i) => scatter(nodes[i], pointsOf(cost, false), cost, 380));
}
