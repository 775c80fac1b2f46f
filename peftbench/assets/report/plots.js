"use strict";
// Plots of one table, drawn as SVG in the colours of the page.

const tip = byId("tip");

function showTip(text, x, y) {
  tip.textContent = text;
  tip.hidden = false;
  const box = tip.getBoundingClientRect();
  tip.style.left = `${Math.max(4, Math.min(x + 14, innerWidth - box.width - 4))}px`;
  tip.style.top = `${y + 18 + box.height > innerHeight ? y - box.height - 10 : y + 18}px`;
}
const hideTip = () => { tip.hidden = true; };
// a mark reached by keys scrolls into view behind its focus: its words go with it
const moveTip = () => {
  if (document.activeElement?.matches(".mark")) document.activeElement.dispatchEvent(new FocusEvent("focus"));
  else hideTip();
};

function extent(values, pad) {
  const [low, high] = [Math.min(...values), Math.max(...values)];
  const room = (high - low || Math.abs(high) || 1) * pad;
  return [low - room, high + room];
}

function linearTicks(low, high, most) {
  const rough = (high - low) / most;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((m) => m * power).find((s) => s >= rough);
  const ticks = [];
  for (let k = Math.ceil(low / step); k * step <= high; k++) ticks.push(Number((k * step).toPrecision(12)));
  return ticks;
}

function logTicks(low, high) {
  const span = high - low;
  const digits = span > 2.2 ? [1] : span > 1 ? [1, 3] : span > 0.6 ? [1, 2, 3, 5] : [1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 8];
  const ticks = [];
  for (let power = Math.floor(low); power <= high; power++) {
    for (const digit of digits) {
      const at = power + Math.log10(digit);
      if (at >= low && at <= high) ticks.push([at, digit * 10 ** power]);
    }
  }
  return ticks;
}

// Words beside points, each at the nearest place where they cover neither other words nor a named point.
function placeLabels(points, width, bounds) {
  const boxes = points.map((p) => [p.x - 5, p.y - 5, p.x + 5, p.y + 5]);
  const overlap = (a, b) => Math.max(0, Math.min(a[2], b[2]) - Math.max(a[0], b[0])) * Math.max(0, Math.min(a[3], b[3]) - Math.max(a[1], b[1]));
  return points.map((point) => {
    let best = null;
    for (const far of [9, 20, 34, 50, 70]) {
      for (const [dx, dy] of [[-1, -0.8], [1, -1.3], [1, 1.5], [0, -1.6], [-1, 1.2], [0, 1.8]]) {
        const [x, y, w] = [point.x + dx * far, point.y + dy * far, width(point.text)];
        const left = dx > 0 ? x : dx < 0 ? x - w : x - w / 2;
        const box = [left - 2, y - 7, left + w + 2, y + 8];
        const outside = box[0] < bounds[0] || box[2] > bounds[2] || box[1] < bounds[1] || box[3] > bounds[3];
        const cost = boxes.reduce((sum, other) => sum + overlap(box, other), 0) + far / 10 + (outside ? 1e6 : 0);
        if (!best || cost < best.cost) best = { cost, box, left, y, far, w };
      }
    }
    boxes.push(best.box);
    return best;
  });
}

const MARKS = {
  front: (x, y) => `M${x} ${y - 6.5}L${x + 6.5} ${y}L${x} ${y + 6.5}L${x - 6.5} ${y}Z`,
  fits: (x, y) => `M${x - 4} ${y}a4 4 0 1 0 8 0a4 4 0 1 0 -8 0`,
  out: (x, y) => `M${x - 3} ${y - 3}L${x + 3} ${y + 3}M${x - 3} ${y + 3}L${x + 3} ${y - 3}`,
};

// points: {row, cost, state} with state front, fits or out. Every point tells its name to pointer and arrow keys.
function scatter(node, points, cost, height) {
  if (!points.length) {
    // printed tables may hold no cost at all, so that there is none to choose
    const words = cost in COSTS ? `its ${COSTS[cost].words}` : "a cost";
    return node.replaceChildren(html("p", { class: "hint", style: "padding: 0 1rem" }, `no complete row knows ${words}`));
  }
  const wide = Math.max(300, node.clientWidth || 600);
  const [left, right, top, bottom] = [46, 14, 14, 46];
  // a logarithm has no zero: what costs nothing stands left of all that costs something
  const least = Math.min(...points.filter((p) => p.cost > 0).map((p) => Math.log10(p.cost)));
  const nothing = points.some((p) => p.cost === 0) ? least - 0.4 : null;
  const logs = points.map((p) => (p.cost > 0 ? Math.log10(p.cost) : nothing));
  const means = points.map((p) => overall(p.row).mean);
  const [x0, x1] = extent(logs, 0.06);
  const [y0, y1] = extent(means, 0.07);
  const X = (log) => left + ((log - x0) / (x1 - x0)) * (wide - left - right);
  const Y = (mean) => height - bottom - ((mean - y0) / (y1 - y0)) * (height - top - bottom);
  const picture = svg("svg", { viewBox: `0 0 ${wide} ${height}`, role: "group", "aria-label": `accuracy against ${COSTS[cost].words}` });
  for (const tick of linearTicks(y0, y1, 6)) {
    picture.append(svg("line", { class: "gridline", x1: left, x2: wide - right, y1: Y(tick), y2: Y(tick) }));
    picture.append(svg("text", { class: "axis", x: left - 6, y: Y(tick) + 4, "text-anchor": "end" }, String(tick)));
  }
  const ticks = logTicks(x0, x1).filter(([at]) => nothing === null || at > least - 0.15);
  for (const [at, value] of nothing === null ? ticks : [[nothing, 0], ...ticks]) {
    picture.append(svg("line", { class: "gridline", x1: X(at), x2: X(at), y1: top, y2: height - bottom }));
    picture.append(svg("text", { class: "axis", x: X(at), y: height - bottom + 16, "text-anchor": "middle" }, COSTS[cost].unit(value)));
  }
  picture.append(svg("text", { class: "axis", x: wide - right, y: height - 8, "text-anchor": "end" }, `${page.axes[cost]} →`));
  picture.append(svg("text", { class: "axis halo", x: left + 2, y: top + 4 }, `${table().overall}${table().unit && `,${table().unit}`}`));
  const drawn = points.map((p, i) => ({ ...p, x: X(logs[i]), y: Y(means[i]) })).sort((a, b) => a.x - b.x);
  const front = drawn.filter((p) => p.state === "front");
  let path = "";
  for (const p of front) path += path ? `H${p.x}V${p.y}` : `M${p.x} ${p.y}`;
  picture.append(svg("path", { d: path || "M0 0", fill: "none", stroke: "var(--accent)", "stroke-width": 1.5 }));
  const clamp = (y) => Math.max(top, Math.min(height - bottom, y));
  for (const p of front) {
    const half = overall(p.row).ci95;
    if (half) picture.append(svg("line", { x1: p.x, x2: p.x, y1: clamp(Y(overall(p.row).mean + half)), y2: clamp(Y(overall(p.row).mean - half)), stroke: "var(--accent)", opacity: 0.45 }));
  }
  const text = (p) => `${p.row.label}\n${shownScore(overall(p.row).mean)}${overall(p.row).ci95 ? ` ± ${fixed(overall(p.row).ci95)}` : ""}, ${COSTS[cost].unit(p.cost)}${p.state === "out" ? "\ndoes not fit" : p.state === "front" ? "\non the Pareto front" : ""}`;
  const order = { out: 0, fits: 1, front: 2 };
  const marks = new Map();
  for (const p of [...drawn].sort((a, b) => order[a.state] - order[b.state])) {
    const colour = state.picked.includes(p.row.label) ? "var(--second)" : p.state === "front" ? "var(--accent)" : "var(--muted)";
    const mark = svg("path", {
      class: "mark", "data-label": p.row.label, "data-state": p.state, d: MARKS[p.state](p.x, p.y), role: "button", tabindex: "-1", "aria-label": text(p).replaceAll("\n", ", "),
      fill: p.state === "out" ? "none" : colour, stroke: p.state === "out" ? colour : "var(--card)", opacity: p.state === "out" ? 0.55 : 1,
    });
    mark.addEventListener("click", () => openRow(p.row));
    mark.addEventListener("focus", () => {
      const box = mark.getBoundingClientRect();
      showTip(text(p), box.right, box.bottom);
    });
    mark.addEventListener("blur", hideTip);
    mark.addEventListener("keydown", (event) => {
      if (event.key === "Enter" || event.key === " ") { event.preventDefault(); openRow(p.row); }
      const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
      if (!step) return;
      event.preventDefault();
      marks.get(drawn[(drawn.indexOf(p) + step + drawn.length) % drawn.length])?.focus();
    });
    marks.set(p, mark);
    picture.append(mark);
  }
  marks.get(front[0] ?? drawn[0]).setAttribute("tabindex", "0");
  // several rows of one method are told apart by their options
  const alone = (p) => drawn.every((q) => q === p || nameOf(q.row.label) !== nameOf(p.row.label));
  const named = front.map((p) => ({ x: p.x, y: p.y, text: alone(p) ? brief(nameOf(p.row.label), 20) : brief(p.row.label, 28) }));
  placeLabels(named, (words) => 6.7 * words.length, [left, top + 8, wide - right, height - bottom]).forEach((place, i) => {
    if (place.far > 12) picture.append(svg("line", { class: "lead", x1: named[i].x, y1: named[i].y, x2: Math.max(place.left, Math.min(place.left + place.w, named[i].x)), y2: place.y }));
    picture.append(svg("text", { class: "halo front-name", x: place.left, y: place.y + 4, "pointer-events": "none" }, named[i].text));
  });
  const nearest = (event) => {
    const box = picture.getBoundingClientRect();
    const [x, y] = [((event.clientX - box.left) * wide) / box.width, ((event.clientY - box.top) * height) / box.height];
    const far = (p) => Math.hypot(p.x - x, p.y - y);
    const found = drawn.reduce((a, b) => (far(b) < far(a) ? b : a));
    return far(found) < 22 ? found : null;
  };
  picture.addEventListener("pointermove", (event) => {
    const found = nearest(event);
    if (found) showTip(text(found), event.clientX, event.clientY);
    else hideTip();
  });
  picture.addEventListener("pointerleave", hideTip);
  node.replaceChildren(picture);
}

// One line a row: name, interval, value. rows: {row, mean, half, words}
function dots(node, rows, onRow, wordsBelow) {
  const wide = Math.max(320, node.clientWidth || 700);
  const [left, right, each, top] = [Math.min(210, 0.4 * wide), 62, 21, 26];
  const height = top + each * rows.length + 10;
  const [x0, x1] = extent(rows.flatMap((r) => [r.mean - (r.half ?? 0), r.mean + (r.half ?? 0)]), 0.04);
  const X = (value) => left + ((value - x0) / (x1 - x0)) * (wide - left - right);
  const picture = svg("svg", { viewBox: `0 0 ${wide} ${height}`, role: "list", "aria-label": wordsBelow });
  for (const tick of linearTicks(x0, x1, wide > 600 ? 8 : 4)) {
    picture.append(svg("line", { class: "gridline", x1: X(tick), x2: X(tick), y1: top - 6, y2: height }));
    picture.append(svg("text", { class: "axis", x: X(tick), y: 14, "text-anchor": "middle" }, String(tick)));
  }
  rows.forEach((one, i) => {
    const y = top + each * (i + 0.5);
    const colour = state.picked.includes(one.row.label) ? "var(--second)" : one.strong ? "var(--accent)" : "var(--muted)";
    const group = svg("g", { class: "mark", role: "listitem", "aria-label": `${one.row.label}: ${one.words}` });
    group.append(svg("rect", { x: 0, y: y - each / 2, width: wide, height: each, fill: "transparent" }));
    group.append(svg("text", { x: left - 10, y: y + 4, "text-anchor": "end" }, brief(one.row.label, Math.floor(left / 7.2))));
    if (one.half) group.append(svg("line", { x1: X(one.mean - one.half), x2: X(one.mean + one.half), y1: y, y2: y, stroke: colour, "stroke-width": 2, opacity: 0.6 }));
    group.append(svg("path", { d: MARKS[one.strong ? "front" : "fits"](X(one.mean), y), fill: colour }));
    group.append(svg("text", { class: "axis", x: wide - 6, y: y + 4, "text-anchor": "end" }, one.words.split(" ")[0]));
    group.addEventListener("click", () => onRow(one.row));
    group.addEventListener("pointermove", (event) => showTip(`${one.row.label}\n${one.words}`, event.clientX, event.clientY));
    group.addEventListener("pointerleave", hideTip);
    picture.append(group);
  });
  node.replaceChildren(picture);
}

// Okabe and Ito's colours, told apart by dashes and by the names at their ends as well.
const LINES = [["#0072b2", ""], ["#d55e00", "7 3"], ["#009e73", "2 3"], ["#cc79a7", "9 3 2 3"], ["#e69f00", "12 4"], ["#56b4e9", "4 2"]];

// series: {label, points: [[epoch, value]]}; epochs, or what `along` calls them, are whole numbers.
function lineChart(node, series, title, logarithmic, along = "epoch") {
  const wide = Math.max(320, node.clientWidth || 700);
  const height = 340;
  const names = series.map((s) => brief(s.label, wide > 600 ? 26 : 14));
  const [left, right, top, bottom] = [56, 22 + 7 * Math.max(...names.map((n) => n.length)), 22, 40];
  const turn = (value) => (logarithmic ? Math.log10(value) : value);
  const all = series.flatMap((s) => s.points);
  const [x0, x1] = [Math.min(...all.map((p) => p[0])), Math.max(...all.map((p) => p[0]), 2)];
  const [y0, y1] = extent(all.map((p) => turn(p[1])), 0.06);
  const X = (epoch) => left + ((epoch - x0) / (x1 - x0 || 1)) * (wide - left - right);
  const Y = (value) => height - bottom - ((turn(value) - y0) / (y1 - y0)) * (height - top - bottom);
  const picture = svg("svg", { viewBox: `0 0 ${wide} ${height}`, role: "img", "aria-label": title });
  const ticks = logarithmic ? logTicks(y0, y1).map(([, value]) => value) : linearTicks(y0, y1, 6);
  for (const tick of ticks) {
    picture.append(svg("line", { class: "gridline", x1: left, x2: wide - right, y1: Y(tick), y2: Y(tick) }));
    picture.append(svg("text", { class: "axis", x: left - 6, y: Y(tick) + 4, "text-anchor": "end" }, String(Number(tick.toPrecision(3)))));
  }
  for (const tick of linearTicks(x0, x1, 10).filter(Number.isInteger)) {
    picture.append(svg("text", { class: "axis", x: X(tick), y: height - bottom + 16, "text-anchor": "middle" }, String(tick)));
  }
  picture.append(svg("text", { class: "axis", x: left, y: 13 }, title));
  picture.append(svg("text", { class: "axis", x: wide - right, y: height - 6, "text-anchor": "end" }, `${along} →`));
  const ends = series.map((s, i) => ({ i, y: Y(s.points.at(-1)[1]) })).sort((a, b) => a.y - b.y);
  ends.forEach((end, k) => { if (k) end.y = Math.max(end.y, ends[k - 1].y + 14); });
  const over = Math.max(0, (ends.at(-1)?.y ?? 0) - (height - bottom));
  for (const end of ends) end.y -= over;
  series.forEach((s, i) => {
    const [colour, dash] = LINES[i % LINES.length];
    const path = s.points.map(([epoch, value], k) => `${k ? "L" : "M"}${X(epoch)} ${Y(value)}`).join("");
    picture.append(svg("path", { class: "curve", d: path, fill: "none", stroke: colour, "stroke-width": 2, "stroke-dasharray": dash || null }));
    for (const [epoch, value] of s.points) {
      const mark = svg("circle", { cx: X(epoch), cy: Y(value), r: s.points.length > 40 ? 2 : 3.5, fill: colour });
      mark.addEventListener("pointerenter", (event) => showTip(`${s.label}\n${along} ${epoch}: ${Number(value.toPrecision(4))}`, event.clientX, event.clientY));
      mark.addEventListener("pointerleave", hideTip);
      picture.append(mark);
    }
    const end = ends.find((one) => one.i === i);
    picture.append(svg("circle", { cx: wide - right + 7, cy: end.y, r: 3.5, fill: colour }));
    picture.append(svg("text", { x: wide - right + 14, y: end.y + 4 }, names[i]));
  });
  node.replaceChildren(picture);
}
