// Opens the page of clients/web in Chromium, which calls Assay by gRPC-Web, from another origin than the page's.
//
//   node grpc_web.cjs PROXY_URL PAGE_PORT DIRECTORY_FOR_SCREENSHOTS
//
// CHROMIUM is the browser's path; playwright-core is found by NODE_PATH. The proxy allows the origin of the page alone.
"use strict";
const assert = require("node:assert/strict");
const fs = require("node:fs");
const os = require("node:os");
const path = require("node:path");
const { chromium } = require("playwright-core");

const [proxy, port, shots] = process.argv.slice(2);
const FLAGS = [
  "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
  "--disable-component-update", "--disable-sync", "--disable-default-apps",
];

const rows = async (page, form) => {
  await page.locator(`#${form} button`).click();
  await page.locator(`#${form} output *`).first().waitFor();
  return page.locator(`#${form} tr`).evaluateAll((lines) => lines.map((line) => [...line.cells].map((cell) => cell.textContent)));
};

const checks = {
  async "texts are embedded, and the nearer one is nearer"(page) {
    const [[near, nearer], [far, farther]] = await rows(page, "embed");
    assert.ok(near.startsWith("Foxes") && far.startsWith("The bridge"));
    assert.ok(Number(nearer) > Number(farther) + 0.3, `${nearer} ${farther}`);
  },

  async "an answer is evaluated, by a judge too"(page) {
    const results = await rows(page, "evaluate");
    assert.deepEqual(results.map(([metric]) => metric), ["faithfulness", "semantic_similarity", "token_f1"]);
    assert.equal(results[0][1], "0.500");
    assert.equal(results[0][2], "1 of 2 claims of the response are supported by the contexts");
    assert.ok(results.every(([, score]) => Number(score) > 0), results.join());
  },

  async "a mistake is shown with the field that it is in"(page) {
    await page.locator("#embed textarea").fill("A red fox.\n\nA blue bird.");
    await rows(page, "embed");
    assert.equal(await page.locator("#embed .error").innerText(), "inputs[1]: the text is empty inputs[1]");
  },

  async "the inputs of a stream are one body, and its answers come as they finish"(page) {
    const ids = await page.evaluate(async () => {
      const requests = Array.from({ length: 200 }, (_, index) => ({ id: String(index), input: `Fox ${index}.` }));
      const ids = new Set();
      for await (const { id, embedding } of assay.stream("assay.v1.EmbeddingService/EmbedStream", requests)) {
        if (embedding.values.length === 384) ids.add(id);
      }
      return ids.size;
    });
    assert.equal(ids, 200);
  },

  async "samples of a stream end with a summary"(page) {
    const last = await page.evaluate(async () => {
      const sample = { response: "A red fox.", reference: "A red fox." };
      const requests = Array.from({ length: 20 }, () => ({ request: { sample, metrics: [{ name: "token_f1" }] } }));
      let last;
      for await (const event of assay.stream("assay.v1.EvaluationService/EvaluateStream", requests)) last = event;
      return last;
    });
    assert.ok(last.summary, JSON.stringify(last));
  },

  async "a deadline ends a call"(page) {
    const code = await page.evaluate(() => {
      const inputs = Array(64).fill("a red fox and a blue bird ".repeat(30));
      return assay.unary("assay.v1.EmbeddingService/Embed", { inputs }, { timeout: 20 }).catch((error) => error.code);
    });
    assert.equal(code, 4);
  },

  async "a call that is given up is followed by one that is served"(page) {
    const outcome = await page.evaluate(async () => {
      const inputs = Array(64).fill("a red fox and a blue bird ".repeat(30));
      const given = new AbortController();
      const call = assay.unary("assay.v1.EmbeddingService/Embed", { inputs }, { signal: given.signal }).catch((error) => error.name);
      given.abort();
      const { embeddings } = await assay.unary("assay.v1.EmbeddingService/Embed", { inputs: ["A red fox."] });
      return [await call, embeddings.length];
    });
    assert.deepEqual(outcome, ["AbortError", 1]);
  },
};

const refusesAnotherOrigin = async (context, url) => {
  const page = await context.newPage();
  await page.goto(url);
  await page.waitForFunction(() => globalThis.assay);
  await page.locator("#embed button").click();
  assert.equal((await page.locator("#embed .error").innerText()).trim(), "Failed to fetch");
  await page.close();
};

const main = async () => {
  const { serve } = await import("../../clients/web/serve.js");
  const [server, stranger] = [await serve(Number(port)), await serve(0)];
  const profile = fs.mkdtempSync(path.join(os.tmpdir(), "assay-web-"));
  const context = await chromium.launchPersistentContext(profile, { executablePath: process.env.CHROMIUM, headless: true, args: FLAGS });
  const address = (origin) => `http://127.0.0.1:${origin.address().port}/?proxy=${encodeURIComponent(proxy)}`;
  try {
    const page = await context.newPage();
    page.setDefaultTimeout(20_000);
    const trouble = [];
    page.on("pageerror", (error) => trouble.push(String(error)));
    await page.goto(address(server));
    await page.waitForFunction(() => globalThis.assay);
    for (const [fact, check] of Object.entries(checks)) {
      await check(page);
      console.log(`ok: ${fact}`);
    }
    assert.deepEqual(trouble, []);
    fs.mkdirSync(shots, { recursive: true });
    await page.screenshot({ path: path.join(shots, "page.png"), fullPage: true });
    await refusesAnotherOrigin(context, address(stranger));
    console.log("ok: a page of another origin gets nothing");
  } finally {
    await context.close();
    fs.rmSync(profile, { recursive: true, force: true });
    for (const origin of [server, stranger]) origin.close();
  }
};

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
