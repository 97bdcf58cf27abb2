"use strict";
// Maps of memory, from the bits of a run's tables.

/** PTEMagnet's picture: lines of guest entries, and the lines of host entries behind them. */
function linesPart(data) {
  const csv = [];
  const box = el("div", { class: "systems" });
  for (const system of data.systems) {
    for (const [va, entries] of system.lines) {
      entries.forEach((e, i) => { if (e) csv.push([system.name, "0x" + (BigInt("0x" + va) + BigInt(i * 4096)).toString(16), "0x" + e[0], "0x" + e[1], "0x" + e[2]]); });
    }
    const mean = system.mean === null || system.mean === undefined ? "" : `: ${readable(system.mean)} host ${system.mean === 1 ? "line" : "lines"} behind a guest line on average`;
    box.append(el("div", {}, el("p", { class: "note" }, system.name + mean), fitted((width) => linesPicture(system, width))));
  }
  const columns = ["system", "page", "guest frame", "host frame", "host entry at"];
  return el("div", { class: "part long" }, head({ title: "Lines of guest entries, and the host's entries behind them", columns, rows: csv }),
    el("p", { class: "note" }, "Left: cache lines of the process's level-1 entries, 8 neighbouring pages each, from the middle of its largest area. Right: the cache lines of the VM's level-1 entries that translate those pages, by address. A line on the left that fans out makes the walker load as many lines on the right."), box);
}

function linesPicture(system, width) {
  const lines = system.lines;
  const host = new Map();
  for (const [, entries] of lines) for (const e of entries) if (e) host.set(BigInt("0x" + e[2]) >> 6n, 0);
  const right = [...host.keys()].sort((a, b) => (a < b ? -1 : 1));
  right.forEach((line, i) => host.set(line, i));
  const row = 17;
  const height = Math.max(lines.length * row + 26, 120);
  const [x1, x2] = [Math.min(118, width * 0.3), width - Math.min(112, width * 0.28)];
  const svg = d3.create("svg").attr("class", "map").attr("width", width).attr("height", height).attr("viewBox", `0 0 ${width} ${height}`);
  svg.append("text").attr("x", x1 - 6).attr("y", 12).attr("text-anchor", "end").text("guest lines");
  svg.append("text").attr("x", x2 + 6).attr("y", 12).text(`host lines: ${right.length}`);
  const y = (i) => 26 + i * row + row / 2;
  const z = (i) => 26 + ((i + 0.5) * (height - 26)) / Math.max(1, right.length);
  const color = d3.scaleOrdinal(d3.range(1, 9), ["#3a8fc9", "#b59b3a", "#d98f1f", "#e07b12", "#d9640a", "#cc5208", "#bf4307", "#a83505"]);
  const tall = Math.max(1, Math.min(row - 4, (height - 26) / Math.max(1, right.length) - 1));
  for (const [line, i] of host) {
    svg.append("rect").attr("x", x2).attr("width", 12).attr("y", z(i) - tall / 2).attr("height", tall).attr("fill", "var(--soft)")
      .append("title").text(`host line 0x${(line << 6n).toString(16)}`);
    if (right.length <= lines.length * 1.5) svg.append("text").attr("x", x2 + 17).attr("y", z(i) + 4).attr("class", "soft").text((line << 6n).toString(16));
  }
  lines.forEach(([va, entries], i) => {
    const behind = new Set(entries.filter(Boolean).map((e) => BigInt("0x" + e[2]) >> 6n));
    const shade = color(Math.max(1, behind.size));
    entries.forEach((e, at) => {
      svg.append("rect").attr("x", x1 - 4 + at * 4 - 28).attr("width", 3).attr("y", y(i) - 6).attr("height", 12)
        .attr("fill", e ? shade : "none").attr("stroke", "var(--soft)").attr("stroke-width", 0.5);
      if (e) {
        const to = z(host.get(BigInt("0x" + e[2]) >> 6n));
        svg.append("path").attr("fill", "none").attr("stroke", shade).attr("stroke-opacity", 0.8)
          .attr("d", d3.linkHorizontal()({ source: [x1, y(i) + (at - 3.5)], target: [x2, to] }));
      }
    });
    svg.append("text").attr("x", x1 - 38).attr("y", y(i) + 4).attr("text-anchor", "end").attr("class", "soft").text(`…${va.slice(-7)}`)
      .append("title").text(`pages from 0x${va}: ${behind.size} host lines`);
  });
  return svg.node();
}

/** Mitosis's picture: table pages by level and node, and where their entries point to. */
function nodesPart(data) {
  const csv = [];
  const box = el("div", { class: "systems" });
  for (const system of data.systems) {
    const last = d3.max(system.dumps, (d) => d.after);
    for (const dump of system.dumps.filter((d) => d.after === last && d3.sum(d.data, (k) => d3.sum(k.pages)) > 0)) {
      for (const level of dump.tables) level.sockets.forEach((s, node) => s.to.forEach((n, to) => csv.push([system.name, dump.of, level.level, node, s.pages, to, n])));
      const remote = dump.walkers.map((w, i) => `node ${i}: ${readable(100 * w.remote_share)} %`).join(", ");
      box.append(el("div", {}, el("p", { class: "note" }, `${system.name}, ${dump.of}. Leaf entries that a node's walkers find elsewhere: ${remote}`),
        fitted((width) => nodesPicture(dump, width))));
    }
  }
  const columns = ["system", "tables of", "level", "node", "table pages", "entries to node", "entries"];
  return el("div", { class: "part long" }, head({ title: "Table pages by node, and where their entries point", columns, rows: csv }),
    el("p", { class: "note" }, "A box for each level and node with its table pages; arrows go to the node that entries point to, with their share. Blue stays on the node, orange leaves it; dashed too."), box);
}

function nodesPicture(dump, width) {
  const levels = dump.tables.slice().reverse().filter((l) => l.sockets.some((s) => s.pages > 0));
  const nodes = levels[0]?.sockets.length ?? 1;
  const [tall, gap, top] = [34, 46, 22];
  const height = top + levels.length * (tall + gap) + tall + 6;
  const svg = d3.create("svg").attr("class", "map").attr("width", width).attr("height", height).attr("viewBox", `0 0 ${width} ${height}`);
  const left = 52;
  const column = (width - left - 26) / nodes;
  const wide = Math.min(column - 12, 130);
  const x = (node) => left + column * (node + 0.5);
  const y = (row) => top + row * (tall + gap);
  const names = [...levels.map((l) => `level ${l.level}`), "data"];
  names.forEach((name, row) => svg.append("text").attr("x", 0).attr("y", y(row) + tall / 2 + 4).attr("class", "soft").text(name));
  d3.range(nodes).forEach((n) => svg.append("text").attr("x", x(n)).attr("y", 13).attr("text-anchor", "middle").text(`node ${n}`));
  const labels = [];
  levels.forEach((level, row) => level.sockets.forEach((s, node) => {
    const total = d3.sum(s.to);
    s.to.forEach((n, to) => {
      if (!n) return;
      const share = n / total;
      const from = [x(node) + (to - (nodes - 1) / 2) * Math.min(12, wide / nodes), y(row) + tall];
      const target = [x(to) + (node - (nodes - 1) / 2) * Math.min(12, wide / nodes), y(row + 1)];
      const color = to === node ? "#2b8fd3" : "#e06c10";
      svg.append("path").attr("fill", "none").attr("stroke", color).attr("stroke-width", 0.8 + 4 * share)
        .attr("stroke-dasharray", to === node ? null : "5 3").attr("stroke-opacity", 0.9)
        .attr("d", d3.linkVertical()({ source: from, target }))
        .append("title").text(`level ${level.level}, node ${node} to node ${to}: ${readable(n)} entries, ${readable(100 * share)} %`);
      if (share > 0.02 && (nodes <= 4 || share > 0.2)) {
        // Near the box that the arrow leaves, where arrows are still apart.
        labels.push([from[0] + (to === node ? 5 : (target[0] > from[0] ? 3 : -3)), from[1] + 13 + 10 * (to === node ? 0 : 1), to === node || target[0] > from[0] ? "start" : "end",
          color, share > 0.995 ? "100 %" : `${(100 * share).toFixed(share < 0.1 ? 1 : 0)} %`]);
      }
    });
  }));
  for (const [x0, y0, anchor, color, text] of labels) {
    svg.append("text").attr("x", x0).attr("y", y0).attr("text-anchor", anchor).attr("paint-order", "stroke")
      .attr("stroke", "var(--paper)").attr("stroke-width", 3).attr("style", `fill:${color};font-size:10px`).text(text);
  }
  const boxes = [...levels.map((l) => l.sockets.map((s) => s.pages)), d3.range(nodes).map((n) => d3.sum(dump.data, (d) => d.pages[n]))];
  boxes.forEach((row, i) => row.forEach((pages, node) => {
    if (!pages) return;
    svg.append("rect").attr("x", x(node) - wide / 2).attr("width", wide).attr("y", y(i)).attr("height", tall).attr("rx", 4)
      .attr("fill", "var(--panel)").attr("stroke", "var(--soft)");
    svg.append("text").attr("x", x(node)).attr("y", y(i) + tall / 2 + 4).attr("text-anchor", "middle")
      .text(`${readable(pages)}${wide > 90 ? (i === levels.length ? " pages" : pages === 1 ? " table" : " tables") : ""}`);
  }));
  return svg.node();
}

/** BabelFish's picture: whose level-1 tables are the same page. */
function sharedPart(data) {
  const csv = [];
  const box = el("div", { class: "systems" });
  for (const system of data.systems) {
    for (const [at, frames] of system.tables) frames.forEach((f, i) => { if (f) csv.push([system.name, "0x" + at, system.processes[i], "0x" + f]); });
    const saved = system.uses - system.frames;
    box.append(el("div", {}, el("p", { class: "note" }, `${system.name}: ${readable(system.uses)} level-1 tables in use by ${system.processes.length} processes are ${readable(system.frames)} pages`
      + (saved > 0 ? `; sharing saves ${readable(saved * 4)} KiB` : "; none is shared")), fitted((width) => sharedPicture(system, width))));
  }
  const key = el("div", { class: "key" }, ...[["var(--soft)", "of one process"], ["#e69f00", "shared by some"], ["#0072b2", "shared by all that map there"]]
    .map(([color, word]) => el("span", {}, el("i", { style: `background:${color}` }), word)));
  return el("div", { class: "part long" }, head({ title: "Level-1 tables of all processes", columns: ["system", "first address", "process", "table's frame"], rows: csv }),
    el("p", { class: "note" }, "A row for each process, a column for each 2 MiB that somebody maps, by address. Tables that are one and the same page have a line between them."), key, box);
}

function sharedPicture(system, width) {
  const [left, row, tall] = [72, 22, 14];
  const height = system.processes.length * row + 26;
  const step = (width - left - 4) / Math.max(1, system.tables.length);
  const wide = Math.max(1, Math.min(step * 0.8, 16));
  const svg = d3.create("svg").attr("class", "map").attr("width", width).attr("height", height).attr("viewBox", `0 0 ${width} ${height}`);
  const y = (i) => 4 + i * row;
  system.processes.forEach((p, i) => svg.append("text").attr("x", 0).attr("y", y(i) + tall - 3).text(`process ${p}`));
  system.tables.forEach(([at, frames], c) => {
    const x = left + c * step;
    const users = d3.rollup(frames.map((f, i) => [f, i]).filter(([f]) => f), (v) => v.map(([, i]) => i), ([f]) => f);
    const mapped = frames.filter(Boolean).length;
    for (const [frame, who] of users) {
      const color = who.length === 1 ? "var(--soft)" : who.length === mapped ? "#0072b2" : "#e69f00";
      if (who.length > 1) svg.append("line").attr("x1", x + wide / 2).attr("x2", x + wide / 2).attr("y1", y(who[0])).attr("y2", y(who.at(-1)) + tall).attr("stroke", color).attr("stroke-width", Math.max(0.8, wide / 4));
      for (const i of who) {
        svg.append("rect").attr("x", x).attr("y", y(i)).attr("width", wide).attr("height", tall).attr("fill", color)
          .append("title").text(`0x${at}: frame 0x${frame}, used by ${who.length} of ${mapped} processes`);
      }
    }
  });
  const [first, last] = [system.tables[0]?.[0], system.tables.at(-1)?.[0]];
  if (first) svg.append("text").attr("x", left).attr("y", height - 4).attr("class", "soft").text("0x" + first);
  if (last && system.tables.length > 1) svg.append("text").attr("x", width - 4).attr("y", height - 4).attr("text-anchor", "end").attr("class", "soft").text("0x" + last);
  return svg.node();
}

/** Segments: what they cover, where they lead, and which pages escaped. */
function segmentsPart(data) {
  const csv = [];
  const box = el("div", { class: "systems" });
  for (const system of data.systems) {
    for (const segment of system.segments) {
      for (const [at, why] of segment.escaped) csv.push([system.name, segment.of, "0x" + at.toString(16), why]);
      box.append(el("div", {}, el("p", { class: "note" }, `${system.name}, ${segment.of}`), fitted((width) => segmentPicture(segment, width))));
    }
  }
  return el("div", { class: "part long" }, head({ title: "Segments, and pages that escaped", columns: ["system", "segment", "page", "why"], rows: csv }),
    el("p", { class: "note" }, "What base and limit cover, and where the offset puts it. Marks: pages within the bounds that escaped to paging."), box);
}

function segmentPicture(segment, width) {
  const [base, limit, offset] = [segment.base, segment.limit, segment.offset].map(BigInt);
  const target = BigInt.asUintN(64, base + offset);
  const length = limit - base;
  const height = 118;
  const svg = d3.create("svg").attr("class", "map").attr("width", width).attr("height", height).attr("viewBox", `0 0 ${width} ${height}`);
  const [x1, x2] = [8, width - 8];
  const mib = Number(length) / 1048576;
  const size = mib < 8192 ? `${readable(mib)} MiB` : `${readable(mib / 1024)} GiB`;
  const hex = (n) => "0x" + n.toString(16);
  svg.append("rect").attr("x", x1).attr("y", 22).attr("width", x2 - x1).attr("height", 22).attr("fill", "#56b4e9").attr("fill-opacity", 0.55).attr("stroke", "#0072b2");
  svg.append("rect").attr("x", x1).attr("y", 78).attr("width", x2 - x1).attr("height", 22).attr("fill", "#009e73").attr("fill-opacity", 0.45).attr("stroke", "#009e73");
  for (const x of [x1, (x1 + x2) / 2, x2]) svg.append("line").attr("x1", x).attr("x2", x).attr("y1", 46).attr("y2", 76).attr("stroke", "var(--soft)").attr("stroke-dasharray", "3 3");
  for (const [at, why] of segment.escaped) {
    const x = x1 + (x2 - x1) * (Number(BigInt(at) - base) / Number(length));
    svg.append("line").attr("x1", x).attr("x2", x).attr("y1", 20).attr("y2", 48).attr("stroke", "#d55e00").attr("stroke-width", 1.6)
      .append("title").text(`0x${at.toString(16)}: ${why}`);
  }
  svg.append("text").attr("x", x1).attr("y", 15).text(hex(base));
  svg.append("text").attr("x", x2).attr("y", 15).attr("text-anchor", "end").text(hex(limit));
  svg.append("text").attr("x", (x1 + x2) / 2).attr("y", 37).attr("text-anchor", "middle").attr("class", "over").text(size);
  svg.append("text").attr("x", x1).attr("y", 114).text(hex(target));
  svg.append("text").attr("x", x2).attr("y", 114).attr("text-anchor", "end").text(hex(target + length));
  svg.append("text").attr("x", (x1 + x2) / 2).attr("y", 64).attr("text-anchor", "middle").attr("class", "soft over")
    .text(segment.escapes ? `${readable(segment.escapes)} pages escaped` : "no page escaped");
  return svg.node();
}
