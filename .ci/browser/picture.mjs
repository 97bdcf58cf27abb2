// A picture of a part of a report, for the documentation: node picture.mjs REPORT SELECTOR FILE.png [WIDTH]

import { chromium } from "playwright-core";
import { pathToFileURL } from "node:url";
import path from "node:path";

const [report, selector, file, width = "1100"] = process.argv.slice(2);
const browser = await chromium.launch({
  executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
  args: ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync"],
});
const page = await browser.newPage({ viewport: { width: Number(width), height: 900 } });
await page.goto(pathToFileURL(path.resolve(report)).href);
await page.waitForSelector("html[data-ready=yes]");
await page.waitForTimeout(300);
await page.locator(selector).first().screenshot({ path: file });
await browser.close();
