// Opens a report in Chromium and compares it with the rows of the output.
//
//   node report.cjs REPORT.html ROWS.jsonl DIRECTORY_FOR_SCREENSHOTS
//
// CHROMIUM is the path of the browser; NODE_PATH has playwright-core.
"use strict";
const assert = require("node:assert/strict");
const fs = require("node:fs");
const os = require("node:os");
const path = require("node:path");
const { pathToFileURL } = require("node:url");
const { chromium } = require("playwright-core");

const [report, rowsFile, shots] = process.argv.slice(2);
const rows = fs.readFileSync(rowsFile, "utf8").trim().split("\n").map(JSON.parse);
const FLAGS = [
  "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
  "--disable-component-update", "--disable-sync", "--disable-default-apps",
];

const labels = [...new Set(rows.flatMap((row) => (row.results || []).map((result) => result.label)))];
const scored = (label) =>
  rows.flatMap((row) => row.results || []).filter((result) => result.label === label && result.score !== undefined);

const checks = {
  async "there is a card for each metric, with its mean and coverage"(page) {
    assert.deepEqual(await page.locator(".card h2").allTextContents(), labels);
    for (const label of labels) {
      const scores = scored(label).map((result) => result.score);
      const mean = scores.reduce((sum, score) => sum + score, 0) / scores.length;
      const shown = parseFloat(await page.locator(`.card[data-label="${label}"] .mean`).innerText());
      assert.ok(Math.abs(shown - mean) < 0.0006, `${label}: ${shown} is not ${mean}`);
    }
  },

  async "the bars of a histogram add up to the scored rows"(page) {
    for (const label of labels) {
      const counts = await page.locator(`.card[data-label="${label}"] rect`).evaluateAll((bars) => bars.map((bar) => Number(bar.dataset.count)));
      assert.equal(counts.reduce((sum, count) => sum + count, 0), scored(label).length, label);
    }
  },

  async "scrolling adds rows to the table"(page) {
    const made = await page.locator("#rows tr").count();
    assert.ok(made >= 50 && made < rows.length, `${made} of ${rows.length}`);
    while ((await page.locator("#rows tr").count()) < rows.length) {
      const before = await page.locator("#rows tr").count();
      await page.locator("#table-box").evaluate((box) => box.scrollTo(0, box.scrollHeight));
      await page.waitForFunction((count) => document.querySelectorAll("#rows tr").length > count, before);
    }
    await page.locator("#table-box").evaluate((box) => box.scrollTo(0, 0));
  },

  async "hostile texts are displayed as text"(page) {
    assert.ok((await page.title()).startsWith("Scores of "));
    assert.equal(await page.locator("img, #rows b").count(), 0);
    const question = await page.locator('tr[data-line="1"] .text').innerText();
    assert.ok(question.includes("</script><img src=x onerror=") && question.includes("{{script}}"), question);
  },

  async "a click shows claims and highlights the quotes of their evidence"(page) {
    let quotes = 0;
    for (const row of rows.slice(0, 6).filter((row) => row.results)) {
      await page.locator(`tr[data-line="${row.line}"] .text`).click();
      const result = row.results.find((result) => result.label === "faithfulness");
      await page.locator('.tabs button', { hasText: "faithfulness" }).click();
      assert.equal(await page.locator(".claim").count(), result.claims.length);
      for (const [index, claim] of result.claims.entries()) {
        for (const found of (claim.evidence || []).filter((found) => found.quote)) {
          await page.locator(".claim").nth(index).click();
          const marks = page.locator(`[data-context="${found.context_index}"] mark.is-picked`);
          assert.equal((await marks.allTextContents()).join(""), found.quote);
          quotes += 1;
        }
        const warned = await page.locator(".claim").nth(index).locator(".unverified").count();
        assert.equal(warned, claim.evidence_unverified ? 1 : 0);
      }
    }
    assert.ok(quotes >= 3, `${quotes} quotes`);
    assert.ok((await page.locator(".unverified").count()) > 0);
    assert.equal(await page.locator(".panel img").count(), 0);
    await page.keyboard.press("Escape");
    assert.ok(await page.locator("#panel").isHidden());
  },

  async "an invalid line shows its error"(page) {
    const bad = rows.find((row) => row.error);
    await page.locator("#status").selectOption("invalid line");
    assert.equal(await page.locator("#rows tr").count(), rows.filter((row) => row.error).length);
    await page.locator(`tr[data-line="${bad.line}"] .text`).click();
    assert.ok((await page.locator("#panel-body").innerText()).includes(bad.error.code));
    await page.keyboard.press("Escape");
    await page.locator("#status").selectOption("");
  },

  async "a click on a metric sorts ascending, then descending"(page) {
    for (const [order, sign] of [["ascending", 1], ["descending", -1]]) {
      await page.locator("thead button", { hasText: "token_f1" }).click();
      assert.equal(await page.locator("thead th", { hasText: "token_f1" }).getAttribute("aria-sort"), order);
      const lines = await page.locator("#rows tr").evaluateAll((all) => all.slice(0, 40).map((row) => Number(row.dataset.line)));
      const scores = lines.map((line) => rows[line - 1].results.find((result) => result.label === "token_f1").score);
      const sorted = [...scores].sort((a, b) => sign * (a - b));
      assert.deepEqual(scores, sorted);
    }
    await page.locator("thead button", { hasText: "line" }).first().click();
  },

  async "a search filters the rows"(page) {
    await page.locator("#search").fill("第20座塔");
    assert.equal(await page.locator("#rows tr").count(), 1);
    await page.locator("#search").fill("nothing has this");
    assert.ok(await page.locator("#none").isVisible());
    await page.locator("#search").fill("");
  },

  async "the keyboard opens and moves between rows"(page) {
    await page.locator('tr[data-line="1"]').focus();
    await page.keyboard.press("ArrowDown");
    await page.keyboard.press("Enter");
    assert.ok((await page.locator("#panel-title").innerText()).includes("line 2"));
    await page.keyboard.press("ArrowUp");
    assert.ok((await page.locator("#panel-title").innerText()).includes("line 1"));
    await page.keyboard.press("Escape");
    assert.equal(await page.evaluate(() => document.activeElement.dataset.line), "1");
  },
};

const shoot = async (page) => {
  fs.mkdirSync(shots, { recursive: true });
  for (const scheme of ["light", "dark"]) {
    await page.emulateMedia({ colorScheme: scheme });
    await page.screenshot({ path: path.join(shots, `report-${scheme}.png`) });
    await page.locator('tr[data-line="2"] .text').click();
    await page.locator(".claim.has-evidence").first().click();
    await page.screenshot({ path: path.join(shots, `sample-${scheme}.png`) });
    await page.keyboard.press("Escape");
  }
};

const main = async () => {
  const profile = fs.mkdtempSync(path.join(os.tmpdir(), "assay-report-"));
  const context = await chromium.launchPersistentContext(profile, {
    executablePath: process.env.CHROMIUM,
    headless: true,
    args: FLAGS,
    viewport: { width: 1400, height: 1000 },
  });
  try {
    const page = await context.newPage();
    const problems = [];
    page.on("console", (message) => ["error", "warning"].includes(message.type()) && problems.push(message.text()));
    page.on("pageerror", (error) => problems.push(String(error)));
    page.on("dialog", (dialog) => problems.push(`a dialog: ${dialog.message()}`));
    page.on("request", (request) => !/^(file|data):/.test(request.url()) && problems.push(`a request: ${request.url()}`));
    await page.goto(pathToFileURL(report).href);
    await page.locator("#rows tr").first().waitFor();
    for (const [fact, check] of Object.entries(checks)) {
      await check(page);
      console.log(`ok: ${fact}`);
    }
    assert.deepEqual(problems, []);
    console.log("ok: no errors and no requests");
    await shoot(page);
  } finally {
    await context.close();
    fs.rmSync(profile, { recursive: true, force: true });
  }
};

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
