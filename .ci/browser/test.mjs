// Opens reports from disk in Chromium: no error on the console, no request to anywhere, every chart drawn, the explorer
// clicked through. Leaves screenshots.
//
// A timeline of walks is opened in speedscope, which reads the format that Perfetto reads.
//
//   node test.mjs SCREENSHOTS KIND=FILE… timeline=FILE

import { chromium } from "playwright-core";
import { mkdirSync, readFileSync, statSync } from "node:fs";
import { pathToFileURL } from "node:url";
import path from "node:path";

const [shots, ...reports] = process.argv.slice(2);
mkdirSync(shots, { recursive: true });
let passed = 0;
const failures = [];
function check(what, holds, detail = "") {
  if (holds) passed += 1;
  else failures.push(`${what} ${detail}`);
}

const browser = await chromium.launch({
  executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
  args: ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync"],
});

async function open(name, file, options = {}) {
  const context = await browser.newContext({ viewport: { width: 1360, height: 900 }, acceptDownloads: true, ...options });
  const page = await context.newPage();
  page.on("console", (m) => { if (["error", "warning"].includes(m.type())) failures.push(`${name}: console: ${m.text()}`); });
  page.on("pageerror", (e) => failures.push(`${name}: ${e.stack}`));
  page.on("request", (r) => {
    if (!/^(file|data|blob):/.test(r.url())) failures.push(`${name}: asks for ${r.url()}`);
  });
  await page.goto(pathToFileURL(path.resolve(file)).href);
  await page.waitForSelector("html[data-ready=yes]");
  await page.waitForFunction(() => document.querySelectorAll("main .part").length > 0);
  await page.waitForTimeout(200);
  return { context, page };
}

async function shot(page, name, element) {
  const target = element ? page.locator(element).first() : page;
  await target.screenshot({ path: path.join(shots, `${name}.png`), ...(element ? {} : { fullPage: true }) });
}

// Chromium drops a download now and then that follows many others: a person would click again.
async function saved(page, button) {
  for (let tries = 0; ; tries += 1) {
    try {
      const [download] = await Promise.all([page.waitForEvent("download", { timeout: 8000 }), button.click()]);
      return download;
    } catch (error) {
      if (tries === 2) throw error;
    }
  }
}

for (const report of reports) {
  const [kind, file] = report.split("=");
  if (kind === "timeline") {
    await timeline(file);
    continue;
  }
  check(`${kind}: under 5 MB`, statSync(file).size < 5e6, `${statSync(file).size} bytes`);

  const { context, page } = await open(kind, file);
  const sections = await page.$$eval("main > section", (all) => all.map((s) => s.id));
  check(`${kind}: has sections`, sections.length > 0);
  const empty = await page.$$eval("main .part svg", (all) => all.filter((s) => {
    const box = s.getBoundingClientRect();
    return s.closest(".legend") === null && (box.width < 5 || box.height < 5);
  }).length);
  check(`${kind}: every chart is drawn`, empty === 0, `${empty} are empty`);
  const wide = await page.evaluate(() => document.documentElement.scrollWidth - document.documentElement.clientWidth);
  check(`${kind}: fits the window`, wide <= 1, `${wide} pixels too wide`);
  const told = await page.textContent("#about");
  check(`${kind}: says version and command`, /pagewalk \d+\.\d+/.test(told) && told.includes("command"));
  await shot(page, `${kind}-light`);

  // Each chart gives its data.
  const buttons = await page.locator("button.csv").count();
  check(`${kind}: data can be saved`, buttons > 0 || sections.every((s) => s === "text"));
  for (let i = 0; i < buttons; i += 1) {
    const download = await saved(page, page.locator("button.csv").nth(i));
    const text = readFileSync(await download.path(), "utf8");
    const rows = text.trim().split("\r\n");
    check(`${kind}: ${download.suggestedFilename()} has rows`, rows.length > 1, text.slice(0, 80));
  }

  if (sections.includes("explorer")) await explore(kind, page);

  await page.click("#theme");
  await page.click("#theme");
  check(`${kind}: dark when asked`, await page.evaluate(() => document.documentElement.dataset.theme === "dark"
    && getComputedStyle(document.body).backgroundColor === "rgb(22, 25, 29)"));
  await shot(page, `${kind}-dark`);
  await context.close();

  const dark = await open(`${kind}, dark system`, file, { colorScheme: "dark" });
  check(`${kind}: dark on a dark system`, await dark.page.evaluate(() => getComputedStyle(document.body).backgroundColor === "rgb(22, 25, 29)"));
  await dark.context.close();

  const narrow = await open(`${kind}, narrow`, file, { viewport: { width: 390, height: 800 } });
  const off = await narrow.page.evaluate(() => document.documentElement.scrollWidth - document.documentElement.clientWidth);
  check(`${kind}: fits a telephone`, off <= 1, `${off} pixels too wide`);
  await shot(narrow.page, `${kind}-narrow`);
  await narrow.context.close();

  const print = await open(`${kind}, printed`, file);
  await print.page.emulateMedia({ media: "print" });
  const pdf = await print.page.pdf({ path: path.join(shots, `${kind}.pdf`), format: "A4", margin: { top: "12mm", bottom: "12mm", left: "12mm", right: "12mm" } });
  check(`${kind}: prints`, pdf.length > 20000);
  await print.context.close();
}

// The explorer, as a person uses it.
async function explore(kind, page) {
  const first = await page.inputValue("#address");
  check(`${kind}: an address is shown`, /^0x[0-9a-f]+$/.test(first), first);
  const sides = await page.locator(".side").count();
  const systems = await page.$$eval("#left option", (all) => all.length);
  check(`${kind}: two systems side by side`, systems === 0 ? sides === 1 : sides === 2, `${sides} sides of ${systems}`);
  const steps = await page.locator(".side >> nth=0 >> .steps tbody tr").count();
  check(`${kind}: the walk has steps`, steps > 0);

  await page.click("#next");
  const second = await page.inputValue("#address");
  check(`${kind}: the next page is another`, second !== first);

  // What was typed is what is shown.
  await page.fill("#address", first.slice(2));
  await page.click("#follow");
  check(`${kind}: a typed address is followed`, (await page.inputValue("#address")) === first);
  await page.fill("#address", "0xnonsense");
  await page.press("#address", "Enter");
  check(`${kind}: nonsense is told apart`, (await page.textContent(".said")).includes("is no address"));
  await page.fill("#address", "0x10");
  await page.press("#address", "Enter");
  check(`${kind}: an unmapped address leads to the nearest page`, (await page.textContent(".said")).includes("is not mapped"));

  // A click on an area chooses a page of it.
  const marks = await page.$$eval(".areas svg", (all) => all.map((svg) => svg.querySelectorAll("line.page").length));
  const area = page.locator(".areas svg").nth(marks.indexOf(Math.max(...marks)));
  const box = await area.boundingBox();
  await area.click({ position: { x: box.width * 0.98, y: box.height / 2 } });
  const clicked = await page.inputValue("#address");
  await area.click({ position: { x: 2, y: box.height / 2 } });
  check(`${kind}: clicks choose pages`, clicked !== (await page.inputValue("#address")), `${Math.max(...marks)} marks`);

  // Cold walks make all references; the grid has as many loaded places as there are references.
  await page.selectOption("#caches", "1");
  for (const side of await page.locator(".side").all()) {
    const facts = await side.locator(".facts").textContent();
    const references = Number(/^(\d+) references/.exec(facts)?.[1]);
    const loads = await side.locator(".steps tbody tr[data-cell*=',']").count();
    const cells = await side.locator(".grid td[data-cell]").evaluateAll((all) => all.filter((c) => !["PWC", "nTLB"].includes(c.textContent)).length);
    check(`${kind}: each reference has its row and its place`, references === loads && cells === loads,
      `${references} references, ${loads} rows, ${cells} places`);
  }
  await page.locator(".side >> nth=0 >> .steps tbody tr[data-cell*=',']").first().hover();
  check(`${kind}: a step lights its place in the grid`, (await page.locator(".side >> nth=0 >> .grid td.on").count()) === 1);
  if (systems > 1) {
    const name = await page.$eval("#right", (s) => s.options[s.options.length - 1].text);
    await page.selectOption("#right", String(systems - 1));
    check(`${kind}: the other system can be chosen`, (await page.getAttribute(".side >> nth=1", "data-system")) === name);
  }
  await shot(page, `${kind}-explorer`, "#explorer");
}

// Another program reads the timeline: all threads are there, and no slice was out of place.
async function timeline(file) {
  const context = await browser.newContext({ viewport: { width: 1360, height: 900 } });
  const page = await context.newPage();
  const said = [];
  page.on("console", (m) => said.push(m.text()));
  page.on("pageerror", (e) => failures.push(`timeline: ${e.stack}`));
  await page.goto(pathToFileURL(path.resolve("node_modules/speedscope/dist/release/index.html")).href);
  await page.setInputFiles("input[type=file]", file);
  await page.getByText("Time Order").waitFor();
  const threads = new Set(JSON.parse(readFileSync(file, "utf8")).traceEvents
    .filter((event) => event.ph === "X").map((event) => `${event.pid} ${event.tid}`));
  const body = await page.textContent("body");
  check("timeline: every walker is there", body.includes(`/${threads.size})`), body.slice(0, 300));
  check("timeline: it is read as what it is", said.some((text) => text.includes("Trace Event Format")));
  const wrong = said.filter((text) => /Tried to end|still open|mismatch/i.test(text));
  check("timeline: all slices are in place", wrong.length === 0, wrong.slice(0, 3).join("; "));
  await shot(page, "timeline");
  await context.close();
}

await browser.close();
for (const failure of failures) console.log(`FAILED ${failure}`);
console.log(`${passed} passed, ${failures.length} failed`);
process.exit(failures.length ? 1 : 0);
