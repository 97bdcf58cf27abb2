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
    const mean = system.mean === null || system.mean === undefined ? "" : `: ${readable(system.mean)} host lines behind a guest line on average`;
    box.append(el("div", {}, el("p", { class: "note" }, system.name + mean), fitted((width) => linesPicture(system, width))));
  }
  const columns = ["system", "page", "guest frame", "host frame", "host entry at"];
  return el("div", { class: "part" }, head({ title: "Lines of guest entries, and the host's entries behind them", columns, rows: csv }),
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
  svg.append("text").attr("x", x2 + 6).attr("y", 12).text(`${right.length} host lines`);
  const y = (i) => 26 + i * row + row / 2;
  const z = (i) => 26 + ((i + 0.5) * (height - 26)) / Math.max(1, right.length);
  const color = d3.scaleOrdinal(d3.range(1, 9), d3.quantize(d3.interpolateCividis, 8));
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
    for (const dump of system.dumps.filter((d) => d.after === last)) {
      for (const level of dump.tables) level.sockets.forEach((s, node) => s.to.forEach((n, to) => csv.push([system.name, dump.of, level.level, node, s.pages, to, n])));
      const remote = dump.walkers.map((w, i) => `node ${i}: ${readable(100 * w.remote_share)} %`).join(", ");
      box.append(el("div", {}, el("p", { class: "note" }, `${system.name}, ${dump.of}. Leaf entries that a node's walkers find elsewhere: ${remote}`),
        fitted((width) => nodesPicture(dump, width))));
    }
  }
  const columns = ["system", "tables of", "level", "node", "table pages", "entries to node", "entries"];
  return el("div", { class: "part" }, head({ title: "Table pages by node, and where their entries point", columns, rows: csv }),
    el("p", { class: "note" }, "A box for each level and node with its table pages; arrows go to the node that entries point to, with their share. Blue stays on the node, orange leaves it; dashed too."), box);
}

function nodesPicture(dump, width) {
  const levels = dump.tables.slice().reverse().filter((l) => l.sockets.some((s) => s.pages > 0));
  const nodes = levels[0]?.sockets.length ?? 1;
  const [tall, gap, top] = [34, 46, 22];
  const height = top + levels.length * (tall + gap) + tall + 6;
  const svg = d3.create("svg").attr("class", "map").attr("width", width).attr("height", height).attr("viewBox", `0 0 ${width} ${height}`);
  const left = 52;
  const column = (width - left) / nodes;
  const wide = Math.min(column - 12, 130);
  const x = (node) => left + column * (node + 0.5);
  const y = (row) => top + row * (tall + gap);
  const names = [...levels.map((l) => `level ${l.level}`), "data"];
  names.forEach((name, row) => svg.append("text").attr("x", 0).attr("y", y(row) + tall / 2 + 4).attr("class", "soft").text(name));
  d3.range(nodes).forEach((n) => svg.append("text").attr("x", x(n)).attr("y", 13).attr("text-anchor", "middle").text(`node ${n}`));
  levels.forEach((level, row) => level.sockets.forEach((s, node) => {
    const total = d3.sum(s.to);
    s.to.forEach((n, to) => {
      if (!n) return;
      const share = n / total;
      const from = [x(node) + (to - (nodes - 1) / 2) * Math.min(12, wide / nodes), y(row) + tall];
      const target = [x(to) + (node - (nodes - 1) / 2) * Math.min(12, wide / nodes), y(row + 1)];
      const color = to === node ? "#0b77b8" : "#d55e00";
      svg.append("path").attr("fill", "none").attr("stroke", color).attr("stroke-width", 0.8 + 4 * share)
        .attr("stroke-dasharray", to === node ? null : "5 3").attr("stroke-opacity", 0.9)
        .attr("d", d3.linkVertical()({ source: from, target }))
        .append("title").text(`level ${level.level}, node ${node} to node ${to}: ${readable(n)} entries, ${readable(100 * share)} %`);
      if (nodes <= 4 || share > 0.2) {
        const at = 0.2 + 0.12 * (to % 3);
        svg.append("text").attr("x", from[0] + (target[0] - from[0]) * at * 0.6 + 4).attr("y", from[1] + gap * at + 6)
          .attr("style", `fill:${color};font-size:10px`).text(share > 0.995 ? "100 %" : `${(100 * share).toFixed(share < 0.1 ? 1 : 0)} %`);
      }
    });
  }));
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
  return el("div", { class: "part" }, head({ title: "Segments, and pages that escaped", columns: ["system", "segment", "page", "why"], rows: csv }),
    el("p", { class: "note" }, "What base and limit cover, and where the offset puts it. Marks: pages within the bounds that escaped to paging."), box);
}

function segmentPicture(segment, width) {
  const [base, limit, offset] = [segment.base, segment.limit, segment.offset].map(BigInt);
  const target = BigInt.asUintN(64, base + offset);
  const length = limit - base;
  const height = 118;
  const svg = d3.create("svg").attr("class", "map").attr("width", width).attr("height", height).attr("viewBox", `0 0 ${width} ${height}`);
  const [x1, x2] = [8, width - 8];
  const mib = Number(length / 1048576n);
  const hex = (n) => "0x" + n.toString(16);
  svg.append("rect").attr("x", x1).attr("y", 22).attr("width", x2 - x1).attr("height", 22).attr("fill", "#56b4e9").attr("fill-opacity", 0.55).attr("stroke", "#0072b2");
  svg.append("rect").attr("x", x1).attr("y", 78).attr("width", x2 - x1).attr("height", 22).attr("fill", "#009e73").attr("fill-opacity", 0.45).attr("stroke", "#009e73");
  for (const x of [x1, (x1 + x2) / 2, x2]) svg.append("line").attr("x1", x).attr("x2", x).attr("y1", 46).attr("y2", 76).attr("stroke", "var(--soft)").attr("stroke-dasharray", "3 3");
  svg.append("text").attr("x", x1).attr("y", 15).text(hex(base));
  svg.append("text").attr("x", x2).attr("y", 15).attr("text-anchor", "end").text(hex(limit));
  svg.append("text").attr("x", (x1 + x2) / 2).attr("y", 37).attr("text-anchor", "middle").text(`${readable(mib)} MiB`);
  svg.append("text").attr("x", x1).attr("y", 114).text(hex(target));
  svg.append("text").attr("x", x2).attr("y", 114).attr("text-anchor", "end").text(hex(target + length));
  svg.append("text").attr("x", (x1 + x2) / 2).attr("y", 64).attr("text-anchor", "middle").attr("class", "soft")
    .text(segment.escapes ? `${readable(segment.escapes)} pages escaped` : "no page escaped");
  for (const [at, why] of segment.escaped) {
    const x = x1 + (x2 - x1) * (Number(BigInt(at) - base) / Number(length));
    svg.append("line").attr("x1", x).attr("x2", x).attr("y1", 20).attr("y2", 48).attr("stroke", "#d55e00").attr("stroke-width", 1.6)
      .append("title").text(`0x${at.toString(16)}: ${why}`);
  }
  return svg.node();
}
