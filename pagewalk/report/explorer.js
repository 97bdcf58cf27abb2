"use strict";
// Walks, drawn: the two-dimensional grid, and the explorer that follows the walk for one address.

const SERVED_COLORS = ["#e4e4e4", "#c4c4c4", "#c6dff0", "#6fb1dd", "#0b63a3", "#f0a030", "#c0440a"];
const SERVED_NAMES = ["PWC", "nTLB", "L1", "L2", "LLC", "local", "remote"];
const SERVED_WORDS = ["not made: page-walk cache", "not made: nested TLB", "L1 cache", "L2 cache", "last-level cache", "local memory", "remote memory"];

function inkOn(color) {
  return d3.lab(color).l > 58 ? "#111111" : "#ffffff";
}

function servedKey() {
  return el("div", { class: "key" }, ...SERVED_WORDS.map((word, i) =>
    el("span", {}, el("i", { style: `background:${SERVED_COLORS[i]}` }), word)));
}

function gridRow(guest, two) {
  if (!two) return `level ${guest}`;
  return guest === 0 ? "data page" : `process L${guest}`;
}

/** A grid of levels; `cell(guest, host)` gives text, colour and title, or nothing. */
function gridTable(levels, two, cell, id) {
  const hosts = two ? d3.range(levels, 0, -1) : [];
  const guests = d3.range(levels, two ? -1 : 0, -1);
  const header = el("tr", {}, el("th"), ...hosts.map((h) => el("th", { scope: "col" }, `VM L${h}`)),
    el("th", { scope: "col" }, two ? "entry" : ""));
  const box = (guest, host) => {
    const found = cell(guest, host);
    if (!found) return el("td", { class: "none" }, "·");
    return el("td", {
      style: `background:${found.color};color:${inkOn(found.color)}`, title: found.title,
      "data-cell": `${guest},${host}`, onmouseenter: found.enter ?? (() => {}), onmouseleave: found.leave ?? (() => {}),
    }, found.text);
  };
  const rows = guests.map((guest) => el("tr", {}, el("th", { class: "row", scope: "row" }, gridRow(guest, two)),
    ...hosts.map((host) => box(guest, host)), guest === 0 ? el("td", { class: "none" }, "") : box(guest, 0)));
  return el("div", { class: "scroll" }, el("table", { class: "grid", id }, el("thead", {}, header), el("tbody", {}, ...rows)));
}

/** Average walks, a grid a system. */
function gridsPart(data) {
  const rows = [];
  const most = d3.max(data.systems, (s) => d3.max(s.cells, (c) => c.cycles)) || 1;
  const scale = d3.scaleSequentialSqrt([0, most], (t) => d3.interpolateYlOrBr(0.05 + 0.85 * t));
  const box = el("div", { class: "systems" });
  for (const system of data.systems) {
    const two = system.cells.some((c) => c.host > 0);
    const levels = d3.max(system.cells, (c) => Math.max(c.guest, c.host)) ?? 4;
    const at = new Map(system.cells.map((c) => [`${c.guest},${c.host}`, c]));
    for (const c of system.cells) rows.push([system.system, c.guest, c.host, c.cycles, ...c.served]);
    box.append(el("div", {}, el("p", { class: "note" }, system.system), gridTable(levels, two, (guest, host) => {
      const c = at.get(`${guest},${host}`);
      // What leads to a table that is known is not made either.
      if (!c && at.has(`${guest},0`)) return { text: "–", color: SERVED_COLORS[0], title: "Not made: the process's path was known" };
      if (!c) return null;
      const made = d3.sum(c.served.slice(2));
      const lines = c.served.map((n, i) => (n > 0 ? `${SERVED_WORDS[i]}: ${readable(n)} a walk` : null)).filter(Boolean);
      return {
        text: made > 0 ? readable(Number(c.cycles.toPrecision(3))) : "–", color: made > 0 ? scale(c.cycles) : SERVED_COLORS[0],
        title: [c.name, `${readable(c.cycles)} cycles a walk, ${readable(made)} references`, ...lines].join("\n"),
      };
    })));
  }
  const columns = ["system", "process's level", "VM's level", "cycles per walk", ...SERVED_NAMES.map((n) => `${n} per walk`)];
  return el("div", { class: "part long" }, head({ title: "Cycles of each reference, per walk", columns, rows }),
    el("p", { class: "note" }, "Darker is dearer. –: never made, as a cache knew it. Point at a place to see where it was served."), box);
}

function explorerPart(data) {
  const systems = data.systems.map((s) => ({
    name: s.name,
    pages: s.pages.map((p) => ({
      process: p[0], va: BigInt("0x" + p[1]), bytes: BigInt(p[2]), frame: p[3], node: p[4], writable: p[5] === 1, tlb: p[6], walks: [p[7], p[8]],
    })),
  })).map((s) => ({ ...s, at: new Map(s.pages.map((p) => [`${p.process}:${p.va}`, p])) }));
  const regions = data.regions.map((r) => ({ process: r[0], start: BigInt("0x" + r[1]), end: BigInt("0x" + r[2]), name: r[3] }));
  const pages = systems.flatMap((s) => s.pages);
  const all = [...new Map(pages.map((p) => [`${p.process}:${p.va}`, { process: p.process, va: p.va }])).values()]
    .sort((a, b) => a.process - b.process || (a.va < b.va ? -1 : 1));
  const processes = [...new Set(all.map((p) => p.process))];
  const first = data.first ? all.findIndex((p) => p.process === data.first[0] && p.va === BigInt("0x" + data.first[1])) : -1;
  const state = { at: first >= 0 ? first : Math.floor(all.length / 2), cold: 1, left: 0, right: Math.min(1, systems.length - 1) };

  const input = el("input", { type: "text", id: "address", spellcheck: "false", autocomplete: "off", "aria-label": "Address" });
  const said = el("div", { class: "said", role: "status" });
  const marks = [];
  const sides = el("div", { class: "sides" });
  const choice = (key, label) => el("label", {}, label, el("select", {
    id: key, onchange: (e) => { state[key] = Number(e.target.value); show(); },
  }, ...systems.map((s, i) => { const o = el("option", { value: i }, s.name); o.selected = i === state[key]; return o; })));
  const process = el("select", { id: "process", onchange: (e) => {
    state.at = all.findIndex((p) => p.process === Number(e.target.value));
    show();
  } }, ...processes.map((p) => el("option", { value: p }, `process ${p}`)));
  const caches = el("select", { id: "caches", onchange: (e) => { state.cold = Number(e.target.value); show(); } },
    el("option", { value: 1 }, "empty page-walk caches"), el("option", { value: 0 }, "caches as the run left them"));

  const go = (at) => { state.at = (at + all.length) % all.length; show(); };
  const typed = () => {
    const text = input.value.trim().replaceAll("_", "");
    if (!/^(0[xX])?[0-9a-fA-F]+$/.test(text)) {
      said.className = "said wrong";
      said.textContent = `“${input.value}” is no address; write it as 0x… or in hexadecimal digits`;
      return;
    }
    nearest(all[state.at].process, BigInt(/^0x/i.test(text) ? text : "0x" + text));
  };
  function nearest(of, va) {
    let best = -1;
    let off = null;
    all.forEach((p, i) => {
      if (p.process !== of) return;
      const distance = p.va > va ? p.va - va : va - p.va;
      if (off === null || distance < off) [best, off] = [i, distance];
    });
    // A huge page, or the last one before the address, holds it.
    const before = all.findLastIndex((p) => p.process === of && p.va <= va);
    const size = before < 0 ? 0n : systems.reduce((most, s) => {
      const page = s.at.get(`${of}:${all[before].va}`);
      return page && page.bytes > most ? page.bytes : most;
    }, 0n);
    if (before >= 0 && (va & ~(size - 1n)) <= all[before].va && va < (all[before].va & ~(size - 1n)) + size) {
      state.at = before;
      show(`0x${va.toString(16)} is in this page.`);
      return;
    }
    state.at = best;
    const far = off >> 12n;
    const inside = regions.some((r) => r.process === of && r.start <= va && va < r.end);
    show(`0x${va.toString(16)} ${inside ? "was not followed in this run's report" : "is not mapped"}; this is the nearest page that was, ${readable(Number(far))} pages away. \`pagewalk explain\` follows any address.`);
  }
  input.addEventListener("keydown", (e) => { if (e.key === "Enter") typed(); });

  const areas = el("div", { class: "areas" });
  for (const region of regions) {
    const inside = all.map((p, i) => ({ ...p, i })).filter((p) => p.process === region.process && p.va >= region.start && p.va < region.end);
    if (!inside.length) continue;
    const length = Number(region.end - region.start);
    const x = (va) => (1000 * Number(va - region.start)) / length;
    const svg = d3.create("svg").attr("viewBox", "0 0 1000 20").attr("preserveAspectRatio", "none").attr("role", "img")
      .attr("aria-label", `Pages of ${region.name || "an area"}: click one`);
    svg.append("rect").attr("width", 1000).attr("height", 20).attr("fill", "var(--panel)").attr("stroke", "var(--rule)").attr("vector-effect", "non-scaling-stroke");
    for (const p of inside) {
      const line = svg.append("line").attr("x1", x(p.va)).attr("x2", x(p.va)).attr("y1", 3).attr("y2", 17)
        .attr("stroke", "var(--accent)").attr("stroke-width", 2).attr("vector-effect", "non-scaling-stroke").attr("class", "page");
      marks.push([p.i, line, x(p.va)]);
    }
    svg.on("click", (event) => {
      const box = svg.node().getBoundingClientRect();
      const at = ((event.clientX - box.left) / box.width) * 1000;
      go(d3.least(inside, (p) => Math.abs(x(p.va) - at)).i);
    });
    const size = length >= 2 ** 30 ? `${readable(length / 2 ** 30)} GiB` : length >= 2 ** 20 ? `${readable(length / 2 ** 20)} MiB` : `${readable(length / 1024)} KiB`;
    const name = `${processes.length > 1 ? `p${region.process} ` : ""}${region.name || "area"} ${region.start.toString(16)}, ${size}`;
    areas.append(el("div", { class: "name", title: name }, name), svg.node());
  }

  function show(text) {
    const place = all[state.at];
    input.value = "0x" + place.va.toString(16);
    process.value = place.process;
    said.className = "said";
    said.textContent = text ?? "";
    for (const [i, line] of marks) {
      line.attr("stroke", i === state.at ? "#d55e00" : "var(--accent)").attr("stroke-width", i === state.at ? 5 : 2);
      if (i === state.at) line.raise();
    }
    const shown = systems.length > 1 ? [state.left, state.right] : [0];
    sides.style.gridTemplateColumns = shown.length === 1 ? "1fr" : "";
    sides.replaceChildren(...shown.map((s, n) => side(systems[s], place, n)));
  }

  function side(system, place, n) {
    const page = system.at.get(`${place.process}:${place.va}`);
    if (!page) return el("div", { class: "side" }, el("h3", {}, system.name), el("p", {}, "This page is not mapped under this system."));
    const [cycles, references, steps] = page.walks[state.cold];
    const two = steps.some((s) => (s[0] === 0 && s[2] > 0) || s[0] === 2 || (s[0] === 1 && s[1] === 1));
    const levels = d3.max(steps, (s) => (s[0] === 0 ? Math.max(s[1], s[2]) : s[0] === 1 ? s[3] : 1)) ?? 4;
    const top = Math.max(levels, 4);
    const tlb = page.tlb === 0 ? "No TLB holds this page: an access walks." :
      `The ${page.tlb === 1 ? "first" : "second"}-level TLB holds this page: an access does not walk, until it is evicted.`;
    const size = page.bytes >= 2n ** 30n ? "1 GiB" : page.bytes >= 2n ** 21n ? "2 MiB" : "4 KiB";
    const rows = [];
    const cells = new Map();
    const light = (cell, on) => {
      for (const e of box.querySelectorAll(`[data-cell="${cell}"]`)) e.classList.toggle("on", on);
    };
    const put = (guest, host, by, title) => {
      const key = `${guest},${host}`;
      if (!cells.has(key)) cells.set(key, { text: SERVED_NAMES[by], color: SERVED_COLORS[by], title,
        enter: () => light(key, true), leave: () => light(key, false) });
    };
    steps.forEach((step, i) => {
      const row = stepRow(step, i, two, top, put);
      row.addEventListener("mouseenter", () => light(row.dataset.cell, true));
      row.addEventListener("mouseleave", () => light(row.dataset.cell, false));
      rows.push(row);
    });
    const names = ["", "entry of", "served", "cycles", "node", "at hPA", two ? "gPA" : null, "its bits"].filter((x) => x !== null);
    const box = el("div", { class: "side", "data-system": system.name },
      el("h3", {}, system.name),
      el("p", { class: "facts" }, `${references} references, ${readable(cycles)} cycles. Page of ${size}, frame `,
        el("span", { class: "mono" }, "0x" + page.frame), ` on node ${page.node}, ${page.writable ? "writable" : "read-only"}. ${tlb}`),
      gridTable(top, two, (guest, host) => cells.get(`${guest},${host}`), `grid-${n}`),
      el("div", { class: "scroll" }, el("table", { class: "steps" }, el("thead", {}, el("tr", {}, ...names.map((c) => el("th", {}, c)))), el("tbody", {}, ...rows))));
    return box;
  }

  const box = el("div", { class: "part", id: "walk-explorer" },
    el("div", { class: "controls" },
      el("label", {}, "Address", input), el("button", { type: "button", id: "follow", onclick: typed }, "Follow"),
      el("button", { type: "button", id: "before", onclick: () => go(state.at - 1), "aria-label": "The page before" }, "‹"),
      el("button", { type: "button", id: "next", onclick: () => go(state.at + 1), "aria-label": "The next page" }, "›"),
      processes.length > 1 ? el("label", {}, "of", process) : null,
      el("label", {}, "with", caches),
      systems.length > 1 ? choice("left", "under") : null, systems.length > 1 ? choice("right", "and") : null),
    said, areas, servedKey(), sides);
  show();
  return box;
}

const BITS = [[0, "P"], [1, "W"], [2, "U"], [5, "A"], [6, "D"], [7, "PS"], [63, "NX"]];

/** An entry's bits as people write them. */
function entryText(hex, leaf) {
  const bits = BigInt("0x" + hex);
  const flags = BITS.filter(([bit, name]) => (bits >> BigInt(bit)) & 1n && (name !== "PS" || leaf)).map(([, name]) => name);
  const frame = (bits >> 12n) & 0xffffffffffn;
  return `→ 0x${frame.toString(16)} ${flags.join(" ")}`;
}

function stepRow(step, i, two, top, put) {
  const where = (by) => el("span", { class: "where", style: `background:${SERVED_COLORS[by]};color:${inkOn(SERVED_COLORS[by])}` }, SERVED_NAMES[by]);
  const skipped = (what, text, by, cycles) => el("tr", { "data-cell": `skip-${i}` }, el("td", { class: "n" }, String(i + 1)), el("td", {}, what),
    el("td", {}, by === null ? "" : where(by)), el("td", { class: "n" }, readable(cycles)), el("td", { colspan: two ? 4 : 3, class: "soft" }, text));
  switch (step[0]) {
    case 0: {
      const [, guest, host, hpa, gpa, node, by, cycles, entry] = step;
      const table = host === 0 ? (two ? `process L${guest}` : `level ${guest}`) :
        guest === 0 ? `VM L${host} for data` : `VM L${host} for process L${guest}`;
      const at = BigInt("0x" + hpa);
      const title = `Entry ${Number(at & 4095n) / 8} of the table in frame 0x${(at >> 12n).toString(16)}, node ${node}; ${SERVED_WORDS[by]}; ${cycles} cycles`;
      put(guest, host, by, `${table}\n${title}`);
      const level = host === 0 ? guest : host;
      return el("tr", { "data-cell": `${guest},${host}`, title },
        el("td", { class: "n" }, String(i + 1)), el("td", { class: "what" }, table), el("td", {}, where(by)),
        el("td", { class: "n" }, readable(cycles)), el("td", { class: "n" }, String(node)), el("td", { class: "mono" }, "0x" + hpa),
        ...(two ? [el("td", { class: "mono" }, gpa ? "0x" + gpa : "")] : []), el("td", { class: "mono" }, entryText(entry, level > 1)));
    }
    case 1: {
      const [, host, row, from, to, cycles] = step;
      const levels = from === to ? `L${from}` : `L${from} to L${to}`;
      const title = `Known to the page-walk cache: not loaded`;
      for (let level = from; level >= to; level--) {
        if (host) put(row, level, 0, title);
        else {
          put(level, 0, 0, title);
          // A guest table that is known is known with its host frame.
          if (two) for (let h = top; h > 0; h--) put(level, h, 0, title);
        }
      }
      if (!host && two && to > 1) for (let h = top; h > 0; h--) put(to - 1, h, 0, title);
      return skipped(`${host ? "VM " : two ? "process " : ""}${levels}`, "skipped: the page-walk cache knows the path", 0, cycles);
    }
    case 2: {
      const [, row, gpa, cycles] = step;
      for (let h = top; h > 0; h--) put(row, h, 1, "Known to the nested TLB: not loaded");
      return skipped(`VM, for ${row === 0 ? "data" : `process L${row}`}`, `skipped: the nested TLB knows gPA 0x${gpa}`, 1, cycles);
    }
    default: {
      const [, check, cycles] = step;
      return skipped(`check`, check, null, cycles);
    }
  }
}
