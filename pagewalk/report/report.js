"use strict";
// Puts the report together from its data.

const PARTS = {
  chart: chartPart, table: tablePart, verbatim: verbatimPart, grids: gridsPart,
  explorer: explorerPart, lines: linesPart, nodes: nodesPart, shared: sharedPart, segments: segmentsPart,
};

const report = JSON.parse(document.getElementById("data").textContent);
document.getElementById("title").textContent = report.title;
// A number and its unit stay on one line.
const together = (text) => text.replace(/(\d) (%|KiB|MiB|GiB|TiB|ns)/g, "$1\u00a0$2");
document.getElementById("lead").textContent = together(report.lead);
for (const [name, value] of report.about) document.getElementById("about").append(el("dt", {}, name), el("dd", {}, value));
const main = document.getElementById("main");
main.replaceChildren();
for (const section of report.sections) {
  document.getElementById("contents").append(el("a", { href: "#" + section.id }, section.title));
  const box = el("section", { id: section.id }, el("h2", {}, section.title), ...section.text.map((t) => el("p", {}, together(t))));
  main.append(box);
  for (const part of section.parts) box.append(PARTS[part.type](part));
}

const theme = document.getElementById("theme");
const themes = ["auto", "light", "dark"];
theme.addEventListener("click", () => {
  const next = themes[(themes.indexOf(document.documentElement.dataset.theme ?? "auto") + 1) % themes.length];
  if (next === "auto") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = next;
  theme.textContent = `Colours: ${next}`;
});

// A sheet of paper is narrower than a screen.
addEventListener("beforeprint", () => drawn.forEach((draw) => draw(680)));
addEventListener("afterprint", () => drawn.forEach((draw) => draw()));
document.documentElement.dataset.ready = "yes";
