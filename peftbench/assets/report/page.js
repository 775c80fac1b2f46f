"use strict";
// The page as a whole: which table is shown, the theme, and what redraws when something changes.

function drawPlots() {
  drawChooser();
  drawCosts();
  drawTask();
  drawCurves();
}

function show() {
  fillSelect(byId("choose-table"), page.tables.map((one, i) => [String(i), one.title]), state.table);
  prepareChooser();
  prepareGrid();
  drawGrid();
  prepareCompare();
  prepareViews();
  drawPlots();
}

function setTheme(dark) {
  document.documentElement.classList.toggle("dark", dark);
  byId("theme").textContent = dark ? "light" : "dark";
  byId("theme").setAttribute("aria-label", `switch to ${dark ? "light" : "dark"} colours`);
}

// `redraw` after the control's value went into the state and the address
function bind(id, key, redraw, event = "change") {
  byId(id).addEventListener(event, () => {
    const control = byId(id);
    state[key] = control.type === "checkbox" ? (control.checked ? "1" : "") : control.value;
    redraw();
    writeAddress();
  });
}

function start() {
  setTheme(matchMedia("(prefers-color-scheme: dark)").matches);
  byId("theme").addEventListener("click", () => setTheme(!document.documentElement.classList.contains("dark")));
  byId("legend").textContent = page.legend;
  byId("table-label").hidden = page.tables.length < 2;
  readAddress();
  byId("choose-table").addEventListener("change", () => {
    const chosen = byId("choose-table").value;
    Object.assign(state, structuredClone(DEFAULTS), { table: chosen });
    show();
    writeAddress();
  });
  bind("search", "search", drawGrid, "input");
  bind("family", "family", drawGrid);
  bind("verdict", "verdict", drawGrid);
  bind("complete", "complete", drawGrid);
  bind("chooser-axis", "axis", drawChooser);
  bind("first", "a", drawCompare);
  bind("second", "b", drawCompare);
  bind("task", "task", drawTask);
  bind("curve-task", "curve", drawCurves);
  bind("curve-value", "value", drawCurves);
  byId("swap").addEventListener("click", () => {
    [state.a, state.b] = [byId("second").value, byId("first").value];
    prepareCompare();
    writeAddress();
  });
  byId("csv").addEventListener("click", () => download("leaderboard.csv", "text/csv", asCsv()));
  byId("latex").addEventListener("click", () => download("leaderboard.tex", "text/plain", asLatex()));
  document.addEventListener("click", (event) => {
    if (!byId("columns").contains(event.target)) byId("columns").open = false;
  });
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape") byId("columns").open = false;
  });
  prepareDialog();
  prepareKeys();
  addEventListener("hashchange", () => { readAddress(); show(); });
  addEventListener("scroll", moveTip, { passive: true });
  let width = innerWidth;
  let timer = 0;
  addEventListener("resize", () => {
    if (innerWidth === width) return;
    width = innerWidth;
    clearTimeout(timer);
    timer = setTimeout(drawPlots, 150);
  });
  if (page.tables.length) show();
  document.body.dataset.ready = "yes";
}

start();
