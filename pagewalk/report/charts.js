"use strict";
// Charts and tables from a report's parts: Observable Plot draws, data comes out again as CSV.

// Okabe and Ito's colours, told apart by colour-blind readers; dashes tell lines apart without any colour.
const PALETTE = ["#0072b2", "#e69f00", "#009e73", "#d55e00", "#56b4e9", "#cc79a7", "#8c6d31", "#8a8f98"];
const DASHES = ["", "6 3", "2 2", "8 3 2 3", "4 2", "1 3", "10 4", "6 2 2 2"];
const SYMBOLS = ["circle", "triangle", "square", "diamond", "star", "times", "wye", "cross"];

/** An element: `el("p", {class: "note"}, "text", child)`. */
function el(name, attributes = {}, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
    else if (value !== null && value !== undefined) element.setAttribute(key, value);
  }
  element.append(...children.filter((c) => c !== null && c !== undefined));
  return element;
}

/** Numbers as people read them: groups of three digits. */
function readable(value) {
  if (value === null || value === undefined) return "–";
  if (typeof value !== "number") return String(value);
  if (Number.isInteger(value)) return String(value).replace(/\B(?=(\d{3})+$)/g, "\u202f");
  return Math.abs(value) >= 100 ? readable(Math.round(value)) : String(Number(value.toPrecision(4)));
}

function csvOf(columns, rows) {
  const cell = (value) => {
    const text = value === null || value === undefined ? "" : String(value);
    return /[",\n\r]/.test(text) ? '"' + text.replaceAll('"', '""') + '"' : text;
  };
  return [columns, ...rows].map((row) => row.map(cell).join(",")).join("\r\n") + "\r\n";
}

/** A button that hands the data out as a file. */
function csvButton(name, columns, rows) {
  const file = (name.toLowerCase().replace(/[^a-z0-9]+/g, "-").replace(/^-|-$/g, "") || "data") + ".csv";
  const save = () => {
    const url = URL.createObjectURL(new Blob([csvOf(columns, rows)], { type: "text/csv" }));
    const link = el("a", { href: url, download: file });
    document.body.append(link);
    link.click();
    link.remove();
    setTimeout(() => URL.revokeObjectURL(url), 10000);
  };
  return el("button", { type: "button", class: "csv", title: `Save the data of “${name}” as CSV`, onclick: save }, "CSV");
}

function head(part, extra = null) {
  return el("div", { class: "head" }, el("h3", {}, part.title), extra ?? csvButton(part.title, part.columns, part.rows));
}

/** Draws again whenever its width changes: `draw(width)` makes the picture. */
const drawn = [];
function fitted(draw) {
  const box = el("div");
  let last = 0;
  const update = (width, force = false) => {
    const rounded = Math.floor(width);
    if (rounded > 0 && (force || rounded !== last)) {
      last = rounded;
      box.replaceChildren(draw(rounded));
    }
  };
  drawn.push((width) => update(Math.min(width ?? Infinity, box.clientWidth), true));
  new ResizeObserver(() => update(box.clientWidth)).observe(box);
  return box;
}

function namesIn(chart, column) {
  const at = chart.columns.indexOf(column);
  return at < 0 ? [] : [...new Set(chart.rows.map((row) => row[at]))];
}

function legend(names, color, line) {
  const swatch = (name, i) => {
    if (!line) return el("i", { style: `background:${color(name)}` });
    const svg = d3.create("svg").attr("viewBox", "0 0 26 10");
    svg.append("line").attr("x2", 26).attr("y1", 5).attr("y2", 5).attr("stroke", color(name))
      .attr("stroke-width", 2.5).attr("stroke-dasharray", DASHES[i % DASHES.length]);
    return svg.node();
  };
  return el("div", { class: "legend" }, ...names.map((name, i) => el("span", {}, swatch(name, i), name)));
}

function chartPart(chart) {
  const objects = chart.rows.map((row) => Object.fromEntries(chart.columns.map((c, i) => [c, row[i]])));
  const chosen = new Map(chart.colors ?? []);
  let names = namesIn(chart, chart.color);
  if (chosen.size) names = [...chosen.keys()].filter((name) => names.includes(name));
  const color = (name) => chosen.get(name) ?? PALETTE[Math.max(0, names.indexOf(name)) % PALETTE.length];
  const lines = chart.mark === "line" || chart.mark === "step";
  const facets = chart.facet ? namesIn(chart, chart.facet) : [null];
  const one = (facet) => fitted((width) => {
    const rows = facet === null ? objects : objects.filter((d) => d[chart.facet] === facet);
    return MARKS[chart.mark](chart, rows, { width, names, color, objects });
  });
  const box = el("div", { class: "part", role: "group", "aria-label": chart.title }, head(chart));
  if (chart.note) box.append(el("p", { class: "note" }, chart.note));
  if (names.length > 1 || chosen.size) box.append(legend(names, color, lines));
  if (chart.facet) {
    box.append(el("div", { class: "two" }, ...facets.map((f) => el("div", {}, el("p", { class: "note" }, f), one(f)))));
  } else {
    box.append(one(null));
  }
  return box;
}

const FONT = { fontSize: "12px", fontFamily: "inherit" };

/** Room for the longest of these names, in pixels. */
function room(names, width) {
  const longest = Math.max(4, ...names.map((n) => String(n).length));
  return Math.min(longest * 7.3 + 16, width * 0.42);
}

function shortened(name, pixels) {
  const most = Math.max(6, Math.floor((pixels - 12) / 6.7));
  return String(name).length > most ? String(name).slice(0, most - 1) + "…" : name;
}

const MARKS = {
  stack(chart, rows, { width, names, color, objects }) {
    const order = [...new Set(rows.map((d) => d[chart.y]))];
    const left = room(order, width);
    // Small charts of one figure share their axis, so that they can be compared.
    const sums = d3.rollups(objects, (v) => [
      d3.sum(v, (d) => Math.min(0, d[chart.x])), d3.sum(v, (d) => Math.max(0, d[chart.x])),
    ], (d) => `${chart.facet ? d[chart.facet] : ""}\n${d[chart.y]}`).map((s) => s[1]);
    const domain = [d3.min(sums, (s) => s[0]) ?? 0, d3.max(sums, (s) => s[1]) ?? 1];
    return Plot.plot({
      width, style: FONT, marginLeft: left, marginRight: 24, marginBottom: 36,
      height: order.length * 26 + 50,
      x: { label: chart.labels[0], grid: true, domain, nice: true, ticks: Math.max(3, Math.floor(width / 110)) },
      y: { label: null, domain: order, tickFormat: (name) => shortened(name, left), tickSize: 0, padding: 0.22 },
      color: { domain: names, range: names.map(color) },
      marks: [
        Plot.barX(rows, Plot.stackX({ order: names, x: chart.x, y: chart.y, fill: chart.color })),
        // Edges, for those who cannot tell two neighbours apart.
        Plot.barX(rows, Plot.stackX({ order: names, x: chart.x, y: chart.y, z: chart.color, fill: "none", stroke: "var(--paper)", strokeWidth: 0.6 })),
        Plot.tip(rows, Plot.pointer(Plot.stackX({
          order: names, x: chart.x, y: chart.y, z: chart.color,
          title: (d) => `${d[chart.y]}\n${d[chart.color]}: ${readable(d[chart.x])} ${chart.labels[0]}`,
        }))),
        Plot.ruleX([0]),
      ],
    });
  },

  line(chart, rows, options) { return curve(chart, rows, options, "linear"); },
  step(chart, rows, options) { return curve(chart, rows, options, "step-after"); },

  dots(chart, rows, { width, names, color }) {
    const order = [...new Set(rows.map((d) => d[chart.y]))];
    const left = room(order, width);
    const shown = rows.filter((d) => d[chart.x] !== null);
    return Plot.plot({
      width, style: FONT, marginLeft: left, marginRight: 24, marginBottom: 36, height: order.length * 21 + 52,
      x: { label: chart.labels[0], grid: true, type: chart.log[0] ? "log" : "linear", zero: !chart.log[0], nice: true, ticks: Math.max(3, Math.floor(width / 110)) },
      y: { label: null, type: "band", domain: order, tickFormat: (name) => shortened(name, left), tickSize: 0 },
      color: { domain: names, range: names.map(color) },
      symbol: { domain: names, range: names.map((_, i) => SYMBOLS[i % SYMBOLS.length]) },
      marks: [
        Plot.ruleY(shown, Plot.groupY({ x1: "min", x2: "max" }, { x1: chart.x, x2: chart.x, y: chart.y, stroke: "currentColor", strokeOpacity: 0.35 })),
        Plot.dot(shown, { x: chart.x, y: chart.y, stroke: chart.color, fill: chart.color, fillOpacity: 0.35, symbol: chart.color, r: 4, strokeWidth: 1.6 }),
        Plot.tip(shown, Plot.pointer({ x: chart.x, y: chart.y, title: (d) => `${d[chart.y]}\n${d[chart.color]}: ${readable(d[chart.x])}` })),
      ],
    });
  },

  points(chart, rows, { width, names, color }) {
    return Plot.plot({
      width, style: FONT, marginLeft: 56, marginBottom: 38, height: 300,
      x: { label: chart.labels[0], type: chart.log[0] ? "log" : "linear", ticks: Math.max(3, Math.floor(width / 110)), nice: true },
      y: { label: chart.labels[1], grid: true, type: chart.log[1] ? "log" : "linear", zero: !chart.log[1], nice: true },
      color: { domain: names, range: names.map(color) },
      symbol: { domain: names, range: names.map((_, i) => SYMBOLS[i % SYMBOLS.length]) },
      marks: [
        Plot.dot(rows, { x: chart.x, y: chart.y, stroke: chart.color, symbol: chart.color, r: 3 }),
        Plot.tip(rows, Plot.pointer({ x: chart.x, y: chart.y, title: (d) => `${d[chart.color]}\n${chart.labels[0]}: ${readable(d[chart.x])}\n${chart.labels[1]}: ${readable(d[chart.y])}` })),
      ],
    });
  },
};

function curve(chart, rows, { width, names, color }, shape) {
  const shown = rows.filter((d) => d[chart.y] !== null);
  const each = d3.group(shown, (d) => d[chart.color]);
  // The first ones are wider, so that they show below those that lie on them.
  const wide = (name) => 1.5 + 0.6 * Math.min(4, names.length - 1 - names.indexOf(name));
  const marks = names.filter((name) => each.has(name)).map((name) => Plot.line(each.get(name), {
    x: chart.x, y: chart.y, stroke: color(name), strokeWidth: wide(name), curve: shape,
    strokeDasharray: DASHES[names.indexOf(name) % DASHES.length] || undefined,
    // Few points are seen as such, not as a course between them.
    marker: shape === "linear" && each.get(name).length <= 24 ? "circle" : undefined,
  }));
  return Plot.plot({
    width, style: FONT, marginLeft: 58, marginRight: 20, marginBottom: 38, height: 260,
    x: {
      label: chart.labels[0], type: chart.log[0] ? "log" : "linear", ticks: Math.max(3, Math.floor(width / 110)),
      tickFormat: chart.log[0] ? "~s" : "~s",
    },
    y: { label: chart.labels[1], grid: true, zero: true, nice: true, type: chart.log[1] ? "log" : "linear" },
    color: { domain: names, range: names.map(color) },
    marks: [
      ...marks,
      Plot.ruleY([0]),
      Plot.tip(shown, Plot.pointer({
        x: chart.x, y: chart.y,
        title: (d) => [d[chart.color], ...chart.columns.filter((c) => c !== chart.color)
          .map((c) => `${c === "value" ? chart.title : c}: ${readable(d[c])}`)].join("\n"),
      })),
    ],
  });
}

function tablePart(table) {
  const numeric = table.columns.map((_, i) => table.rows.every((row) => row[i] === null || typeof row[i] === "number"
    || /^[+-]?\d+(\.\d+)?( ?%)?$/.test(row[i])) && table.rows.some((row) => row[i] !== null));
  const kind = (i) => (numeric[i] || (i > 0 && table.rows.every((r) => typeof r[i] !== "string")) ? "n" : null);
  const cells = (row, name) => row.map((value, i) => el(name, { class: kind(i) }, name === "th" ? value : readable(value)));
  const body = table.rows.map((row) => el("tr", {}, ...cells(row, "td")));
  return el("div", { class: "part long" }, head(table),
    el("div", { class: "scroll" }, el("table", {}, el("thead", {}, el("tr", {}, ...cells(table.columns, "th"))), el("tbody", {}, ...body))));
}

function verbatimPart(part) {
  return el("div", { class: "part" }, el("details", {}, el("summary", {}, part.title), el("pre", { class: "verbatim" }, part.text)));
}
