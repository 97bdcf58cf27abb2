"use strict";
// Charts and tables from a report's parts: Observable Plot draws, data comes out again as CSV.

// Okabe and Ito's colours, told apart by colour-blind readers; dashes tell lines apart without any colour.
const PALETTE = ["#0072b2", "#e69f00", "#009e73", "#d55e00", "#56b4e9", "#cc79a7", "#8c6d31", "#8a8f98"];
const DASHES = ["", "6 3", "2 2", "8 3 2 3", "4 2", "1 3", "10 4", "6 2 2 2"];
const SYMBOLS = ["circle", "triangle", "square", "diamond", "star", "times", "wye", "cross"];
/** Symbols that are lines, not areas. */
const OPEN = ["times"];

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

/** Bytes as people write them: `1.5 GiB`. */
function bytes(value) {
  const power = value < 1 ? 0 : Math.min(5, Math.floor(Math.log2(value) / 10));
  return `${Number((value / 1024 ** power).toPrecision(3))} ${["B", "KiB", "MiB", "GiB", "TiB", "PiB"][power]}`;
}

/** Ticks of an axis of bytes: powers of two, or round numbers of the unit that the largest has. */
function byteTicks(values, log, width) {
  const [least, most] = d3.extent(values);
  const count = Math.max(2, Math.floor(width / 110));
  if (log) {
    const powers = d3.range(Math.ceil(Math.log2(least)), Math.floor(Math.log2(most)) + 1);
    return powers.filter((_, i) => i % Math.ceil(powers.length / count) === 0).map((power) => 2 ** power);
  }
  const unit = 1024 ** Math.floor(Math.log2(Math.max(1, most)) / 10);
  return d3.ticks(least / unit, most / unit, count).map((tick) => tick * unit);
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

/** What stands for each name: a line, a symbol or a colour, as it is in the chart. */
function legend(names, style, mark) {
  const swatch = (name) => {
    const svg = d3.create("svg");
    if (mark === "line" || mark === "step") {
      svg.attr("class", "wide").attr("viewBox", "0 0 26 10").append("line").attr("x2", 26).attr("y1", 5).attr("y2", 5)
        .attr("stroke", style.color(name)).attr("stroke-width", 2.5).attr("stroke-dasharray", style.dash(name));
    } else if (mark === "dots" || mark === "points") {
      const shape = style.symbol(name);
      svg.attr("viewBox", "-7 -7 14 14").append("path").attr("stroke", style.color(name)).attr("stroke-width", 1.6)
        .attr("fill", OPEN.includes(shape) ? "none" : style.color(name)).attr("fill-opacity", 0.35)
        .attr("d", d3.symbol(d3["symbol" + shape[0].toUpperCase() + shape.slice(1)], 60)());
    } else {
      return el("i", { style: `background:${style.color(name)}` });
    }
    return svg.node();
  };
  return el("div", { class: "legend" }, ...names.map((name) => el("span", {}, swatch(name), name)));
}

function chartPart(chart) {
  const objects = chart.rows.map((row) => Object.fromEntries(chart.columns.map((c, i) => [c, row[i]])));
  const chosen = new Map(chart.colors ?? []);
  const present = namesIn(chart, chart.color);
  // What was chosen keeps its place, also in charts that do not have all of it.
  const order = chosen.size ? [...chosen.keys()] : present;
  const names = order.filter((name) => present.includes(name));
  const nth = (list) => (name) => list[Math.max(0, order.indexOf(name)) % list.length];
  const style = { color: (name) => chosen.get(name) ?? nth(PALETTE)(name), dash: nth(DASHES), symbol: nth(SYMBOLS) };
  const facets = chart.facet ? namesIn(chart, chart.facet) : [null];
  const one = (facet) => fitted((width) => {
    const rows = facet === null ? objects : objects.filter((d) => d[chart.facet] === facet);
    return MARKS[chart.mark](chart, rows, { width, names, objects, ...style });
  });
  const box = el("div", { class: "part", role: "group", "aria-label": chart.title }, head(chart));
  if (chart.note) box.append(el("p", { class: "note" }, chart.note));
  if (names.length > 1 || chosen.size) box.append(legend(names, style, chart.mark));
  if (chart.facet) {
    // Long names need the whole width.
    const long = chart.mark === "dots" && Math.max(...namesIn(chart, chart.y).map((name) => String(name).length)) > 26;
    box.append(el("div", { class: long ? "" : "two" }, ...facets.map((f) => el("div", {}, el("p", { class: "note" }, f), one(f)))));
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
  const most = Math.max(6, Math.floor((pixels - 12) / 7.3));
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

  dots(chart, rows, { width, names, color, symbol }) {
    const order = [...new Set(rows.map((d) => d[chart.y]))];
    const left = room(order, width);
    const shown = rows.filter((d) => d[chart.x] !== null);
    const spread = chart.columns.includes("least") && chart.columns.includes("most");
    return Plot.plot({
      width, style: FONT, marginLeft: left, marginRight: 24, marginBottom: 36, height: order.length * 21 + 52,
      x: { label: chart.labels[0], grid: true, type: chart.log[0] ? "log" : "linear", zero: !chart.log[0], nice: true, ticks: Math.max(3, Math.floor(width / 110)) },
      y: { label: null, type: "band", domain: order, tickFormat: (name) => shortened(name, left), tickSize: 0 },
      color: { domain: names, range: names.map(color) },
      symbol: { domain: names, range: names.map(symbol) },
      marks: [
        ...(chart.log[0] ? [] : [Plot.ruleX([0], { strokeOpacity: 0.5 })]),
        spread
          ? Plot.ruleY(shown, { x1: "least", x2: "most", y: chart.y, stroke: chart.color, strokeOpacity: 0.5, strokeWidth: 3 })
          : Plot.ruleY(shown, Plot.groupY({ x1: "min", x2: "max" }, { x1: chart.x, x2: chart.x, y: chart.y, stroke: "currentColor", strokeOpacity: 0.35 })),
        Plot.dot(shown, { x: chart.x, y: chart.y, stroke: chart.color, fill: chart.color, fillOpacity: 0.35, symbol: chart.color, r: 4, strokeWidth: 1.6 }),
        Plot.tip(shown, Plot.pointer({ x: chart.x, y: chart.y, title: (d) => told(chart, d) })),
      ],
    });
  },

  points(chart, rows, { width, names, color, symbol }) {
    return Plot.plot({
      width, style: FONT, marginTop: TOP, marginLeft: 56, marginRight: 30, marginBottom: 38, height: 310,
      x: { ...across(chart, rows, width), nice: !chart.bytes },
      y: { label: chart.labels[1], grid: true, type: chart.log[1] ? "log" : "linear", zero: !chart.log[1], nice: true },
      color: { domain: names, range: names.map(color) },
      symbol: { domain: names, range: names.map(symbol) },
      marks: [
        Plot.dot(rows, { x: chart.x, y: chart.y, stroke: chart.color, symbol: chart.color, r: 3 }),
        Plot.tip(rows, Plot.pointer({ x: chart.x, y: chart.y, title: (d) => told(chart, d) })),
      ],
    });
  },
};

/** Room above a chart, so that the name of its axis is not on the highest number. */
const TOP = 32;

/** The axis across. */
function across(chart, rows, width) {
  const axis = { label: chart.labels[0], type: chart.log[0] ? "log" : "linear" };
  const values = rows.map((d) => d[chart.x]);
  // Of a base of 10, only powers of 10 would have their names.
  if (chart.bytes) return { ...axis, base: 2, ticks: byteTicks(values, chart.log[0], width), tickFormat: bytes };
  const large = d3.max(values) >= 1000 ? { tickFormat: "~s" } : {};
  return { ...axis, ...large, ticks: Math.max(3, Math.floor(width / 110)) };
}

/** All that is known of a mark. */
function told(chart, d) {
  const name = (column) => (column === "value" && chart.mark !== "dots" ? chart.title : column);
  const value = (column) => (column === chart.x && chart.bytes ? bytes(d[column]) : readable(d[column]));
  const rest = chart.columns.filter((column) => column !== chart.color && column !== chart.facet && d[column] !== null);
  return [d[chart.color], ...rest.map((column) => `${name(column)}: ${value(column)}`)].join("\n");
}

function curve(chart, rows, { width, names, color, dash }, shape) {
  const shown = rows.filter((d) => d[chart.y] !== null);
  const each = d3.group(shown, (d) => d[chart.color]);
  // The first ones are wider, so that they show below those that lie on them.
  const wide = (name) => 1.5 + 0.6 * Math.min(4, names.length - 1 - names.indexOf(name));
  const marks = names.filter((name) => each.has(name)).map((name) => Plot.line(each.get(name), {
    x: chart.x, y: chart.y, stroke: color(name), strokeWidth: wide(name), curve: shape,
    strokeDasharray: dash(name) || undefined,
    // Few points are seen as such, not as a course between them.
    marker: shape === "linear" && each.get(name).length <= 24 ? "circle" : undefined,
  }));
  return Plot.plot({
    width, style: FONT, marginTop: TOP, marginLeft: 58, marginRight: 30, marginBottom: 38, height: 270,
    x: across(chart, shown, width),
    y: { label: chart.labels[1], grid: true, zero: true, nice: true, type: chart.log[1] ? "log" : "linear" },
    color: { domain: names, range: names.map(color) },
    marks: [...marks, Plot.ruleY([0]), Plot.tip(shown, Plot.pointer({ x: chart.x, y: chart.y, title: (d) => told(chart, d) }))],
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

/** Text as it is: open if there is nothing else. */
function verbatimPart(part) {
  const alone = report.sections.length === 1;
  return el("div", { class: "part" }, el("details", { open: alone ? "" : null }, el("summary", {}, part.title), el("pre", { class: "verbatim" }, part.text)));
}
