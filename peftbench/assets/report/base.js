"use strict";
// What every part of the page stands on: elements, numbers, and the state that the address keeps.

const byId = (id) => document.getElementById(id);
// Names come from records: objects without a prototype hold no `constructor` or `__proto__` but those that are there.
const bare = (_key, value) =>
  (value && typeof value === "object" && !Array.isArray(value) ? Object.assign(Object.create(null), value) : value);
const parsed = (text) => JSON.parse(text, bare);
const page = parsed(byId("data").textContent);

function build(space, name, attributes, children) {
  const node = document.createElementNS(space, name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key.startsWith("on")) node.addEventListener(key.slice(2), value);
    else if (value !== null && value !== false) node.setAttribute(key, value === true ? "" : value);
  }
  node.append(...children);
  return node;
}
const html = (name, attributes = {}, ...children) => build("http://www.w3.org/1999/xhtml", name, attributes, children);
const svg = (name, attributes = {}, ...children) => build("http://www.w3.org/2000/svg", name, attributes, children);

// A row named by many options would take the page: the name in front of them, and as much of them as there is room for.
const nameOf = (label) => label.split(" (")[0];
// On a narrow screen a name breaks between its words, not within one.
const breakable = (name) => name.split(/(?<=_)/).flatMap((word, i) => (i ? [html("wbr"), word] : [word]));
const brief = (label, most = 26) => (label.length > most ? `${label.slice(0, most - 1)}…` : label);

function si(value) {
  const units = [[1e12, "T"], [1e9, "G"], [1e6, "M"], [1e3, "k"]];
  const [size, unit] = units.find(([least]) => Math.abs(value) >= 0.9995 * least) ?? [1, ""];
  return `${Number((value / size).toPrecision(3))}${unit ? ` ${unit}` : ""}`;
}
const minutes = (value) => (value >= 99.5 ? `${Number((value / 60).toPrecision(3))} h` : `${Number(value.toPrecision(2))} min`);

const COSTS = {
  trainable: { words: "trainable parameters", unit: si },
  memory: { words: "training memory", unit: (value) => `${si(value)}B` },
  minutes: { words: "training time", unit: minutes },
  flops: { words: "training FLOPs", unit: si },
};

// Opens with the table that has most measured rows: a newcomer's question is which of many methods to take.
const measuredOf = (one) => one.rows.filter((row) => row.kind !== "published");
const counts = page.tables.map((one) => measuredOf(one).length);
const WIDEST = String(Math.max(0, counts.indexOf(Math.max(...counts))));

const DEFAULTS = {
  table: WIDEST, sort: "", search: "", family: "", verdict: "", complete: "", hide: null, picked: [],
  axis: "trainable", limits: {}, give: "3", a: "", b: "", task: "", curve: "", value: "loss",
};
const state = structuredClone(DEFAULTS);

function readAddress() {
  const words = new URLSearchParams(location.hash.slice(1));
  Object.assign(state, structuredClone(DEFAULTS));
  for (const [key, value] of words) {
    if (key.startsWith("most-")) state.limits[key.slice(5)] = Number(value);
    else if (key === "hide") state.hide = value ? value.split("|") : [];
    else if (key === "picked") state.picked = value ? value.split("|") : [];
    else if (Object.hasOwn(DEFAULTS, key)) state[key] = value;
  }
  if (!page.tables[state.table]) state.table = WIDEST;
}

function writeAddress() {
  const words = new URLSearchParams();
  for (const [key, value] of Object.entries(state)) {
    if (key === "limits") for (const [name, most] of Object.entries(value)) words.set(`most-${name}`, most);
    else if (Array.isArray(value) ? value.length || key === "hide" : value !== DEFAULTS[key]) {
      words.set(key, Array.isArray(value) ? value.join("|") : value);
    }
  }
  history.replaceState(null, "", `#${words}`);
}

function fillSelect(select, options, chosen) {
  select.replaceChildren(...options.map(([value, text]) => new Option(text, value)));
  select.value = options.some(([value]) => value === chosen) ? chosen : options[0]?.[0] ?? "";
}

const table = () => page.tables[state.table];
const rowOf = (label) => table().rows.find((row) => row.label === label);
const overall = (row) => row.scores[table().overall];
// A score on a scale where more is better, and with its unit.
const good = (score) => table().sign * score.mean;
// numbers without a unit, mostly below 1, have more decimals
const fixed = (value, digits = 2) => value.toFixed(digits + table().finer);
const shownScore = (value, digits = 2) => `${fixed(value, digits)}${table().unit}`;
const measured = () => measuredOf(table());
