"use strict";
(() => {
  const { head, rows } = JSON.parse(document.getElementById("data").textContent);
  const CHUNK = 100;
  const BINS = 20;
  const QUIET = new Set(["OK", "PARTIAL", "NOT_APPLICABLE"]);
  const WORDS = { NOT_APPLICABLE: "n/a", PARTIAL: "partial" };
  const byId = (id) => document.getElementById(id);

  // Texts of samples are inserted as text, never as markup.
  const element = (name, attributes = {}, ...children) => {
    const made = document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) {
      if (key === "on") Object.entries(value).forEach(([event, heard]) => made.addEventListener(event, heard));
      else if (value !== undefined && value !== false) made.setAttribute(key, value === true ? "" : value);
    }
    made.append(...children.filter((child) => child !== null && child !== undefined && child !== ""));
    return made;
  };
  const number = (value, digits = 3) =>
    value === null || value === undefined ? "–" : Number.isInteger(value) && Math.abs(value) > 1 ? String(value) : value.toFixed(digits);
  const count = (value) => value.toLocaleString("en-US");
  const share = (value, metric) =>
    Math.min(1, Math.max(0, (value - metric.lowest) / (metric.highest - metric.lowest || 1)));

  const samples = rows.map(({ texts, row }) => ({
    texts,
    row,
    results: new Map((row.results || []).map((result) => [result.label, result])),
    haystack: null,
  }));
  const haystack = (sample) => {
    if (sample.haystack === null) {
      const { texts, row } = sample;
      const own = texts ? [texts.user_input, texts.response, texts.reference] : [row.error?.message];
      const contexts = texts ? [...texts.retrieved_contexts, ...texts.reference_contexts].flat() : [];
      sample.haystack = [row.id, `line ${row.line}`, ...own, ...contexts].filter(Boolean).join("\n").toLowerCase();
    }
    return sample.haystack;
  };

  // Page header.
  const total = (name, value, isBad) =>
    element("div", { class: isBad ? "is-bad" : undefined }, element("dt", {}, name), element("dd", {}, value));
  const showHead = () => {
    const title = `Scores of ${head.input.split("/").pop()}`;
    document.title = title;
    byId("title").textContent = title;
    const judge = head.judge && `judge ${head.judge.model}${head.judge.name ? ` (${head.judge.name})` : ""}`;
    const model = head.embedding_model && `embeddings by ${head.embedding_model}`;
    const made = head.created.replace("T", " ").replace("Z", " UTC");
    byId("origin").textContent = [made, `assay ${head.version}`, judge, model].filter(Boolean).join(" · ");
    const { cost } = head;
    byId("totals").append(total("samples", count(head.rows - head.bad_lines)));
    if (head.bad_lines) byId("totals").append(total("invalid lines", count(head.bad_lines), true));
    byId("totals").append(total("failed results", count(head.failed_cells), head.failed_cells > 0));
    if (cost.calls || cost.cache_hits) {
      byId("totals").append(
        total("judge calls", count(cost.calls)),
        total("prompt tokens", count(cost.prompt_tokens)),
        total("completion tokens", count(cost.completion_tokens)),
      );
    }
    if (cost.usd !== undefined) byId("totals").append(total("cost", `$${cost.usd.toFixed(cost.usd < 1 ? 4 : 2)}`));
  };

  // Metric cards.
  const svg = (name, attributes, ...children) => {
    const made = document.createElementNS("http://www.w3.org/2000/svg", name);
    Object.entries(attributes).forEach(([key, value]) => made.setAttribute(key, value));
    made.append(...children);
    return made;
  };
  const scoresOf = (metric) =>
    samples
      .map((sample) => sample.results.get(metric.label))
      .filter((result) => result && result.status === "OK" && typeof result.score === "number")
      .map((result) => result.score);
  const histogram = (metric, scores) => {
    const range = metric.highest - metric.lowest;
    const isGrades = range > 1 && Number.isInteger(range) && range < BINS;
    const bins = Array(isGrades ? range + 1 : BINS).fill(0);
    const place = (score) =>
      isGrades ? Math.round(score - metric.lowest) : Math.floor(share(score, metric) * bins.length);
    scores.forEach((score) => (bins[Math.min(bins.length - 1, Math.max(0, place(score)))] += 1));
    const tallest = Math.max(1, ...bins);
    const width = 200 / bins.length;
    const edge = (index) => (metric.lowest + (range * index) / bins.length).toFixed(2);
    const bars = bins.map((bin, index) => {
      const height = bin === 0 ? 0 : Math.max(1.5, (bin / tallest) * 56);
      const where = isGrades ? `${metric.lowest + index}` : `${edge(index)} to ${edge(index + 1)}`;
      const bar = { x: index * width + 0.5, y: 60 - height, width: width - 1, height, rx: 1, "data-count": bin };
      return svg("rect", bar, svg("title", {}, `${where}: ${count(bin)}`));
    });
    const line = { x1: 0, x2: 200, y1: 60.5, y2: 60.5 };
    const label = `Histogram of ${metric.label}: ${bins.join(", ")}`;
    const drawing = svg("svg", { viewBox: "0 0 200 62", preserveAspectRatio: "none", role: "img", "aria-label": label });
    drawing.append(...bars, svg("line", line));
    if (metric.mean !== null && !isGrades) {
      const x = share(metric.mean, metric) * 200;
      drawing.append(svg("line", { class: "mean-line", x1: x, x2: x, y1: 2, y2: 60 }));
    }
    return drawing;
  };
  const card = (metric) => {
    const scores = scoresOf(metric);
    const interval = metric.interval && `${number(metric.interval[0])} to ${number(metric.interval[1])}`;
    const better = { true: "higher is better", false: "lower is better" }[metric.higher_is_better];
    const covered = metric.coverage === null ? null : metric.coverage * 100;
    const part = (text, name) => element("span", { class: name }, text);
    return element(
      "article",
      { class: "card", "data-label": metric.label, title: metric.formula },
      element("h2", {}, metric.label),
      element("div", { class: "mean" }, number(metric.mean), better && metric.mean !== null ? element("small", {}, better) : null),
      element("div", { class: "quiet" }, interval ? `95 %: ${interval}` : scores.length ? "no interval" : "no scores"),
      scores.length ? histogram(metric, scores) : null,
      scores.length ? element("div", { class: "scale" }, part(String(metric.lowest)), part(String(metric.highest))) : null,
      element("div", { class: "coverage" }, element("i", { style: `width:${covered ?? 0}%` })),
      element(
        "div",
        { class: "counts" },
        part(covered === null ? "not applicable" : `coverage ${covered.toFixed(covered === 100 ? 0 : 1)} %`),
        part(`${count(metric.scored)} scored`),
        metric.partial ? part(`${count(metric.partial)} partial`, "is-partial") : null,
        metric.not_applicable ? part(`${count(metric.not_applicable)} n/a`) : null,
        ...metric.failures.map(([status, failed]) => part(`${count(failed)} ${status}`, "is-failed")),
      ),
    );
  };

  // Table. Rows are created when they become visible.
  const state = { sort: "line", descending: false, search: "", status: "", shown: samples, made: 0, open: null, tab: null };
  const columns = [
    { key: "line", title: "line", number: true, value: (sample) => sample.row.line },
    { key: "id", title: "id", value: (sample) => sample.row.id || null },
    { key: "text", title: "question", value: (sample) => sample.texts?.user_input || null },
    ...head.metrics.map((metric) => ({
      key: `metric ${metric.label}`,
      title: metric.label,
      number: true,
      metric,
      value: (sample) => sample.results.get(metric.label)?.score ?? null,
    })),
  ].filter((column) => column.key !== "id" || samples.some((sample) => sample.row.id));

  const compare = (column) => (one, other) => {
    const [a, b] = [column.value(one), column.value(other)];
    // Rows without a score are last in both directions.
    if (a === null || b === null) return (a === null) - (b === null) || one.row.line - other.row.line;
    const order = typeof a === "string" ? a.localeCompare(b) : a - b;
    return (state.descending ? -order : order) || one.row.line - other.row.line;
  };
  const matches = (sample) => {
    const { row } = sample;
    const statuses = () => [...sample.results.values()].map((result) => result.status);
    const isOf = {
      "": () => true,
      failed: () => Boolean(row.error) || statuses().some((status) => !QUIET.has(status)),
      "invalid line": () => Boolean(row.error),
    }[state.status];
    return (isOf ? isOf() : statuses().includes(state.status)) && (!state.search || haystack(sample).includes(state.search));
  };
  const cell = (column, sample) => {
    if (column.key === "line") return element("td", { class: "number quiet" }, String(sample.row.line));
    if (column.key === "id") return element("td", { class: "id", title: sample.row.id }, sample.row.id || "");
    if (column.key === "text") {
      const error = sample.row.error;
      const text = error ? element("div", { class: "is-failed" }, error.message) : element("div", {}, sample.texts?.user_input || "");
      return element("td", { class: "text" }, text);
    }
    const result = sample.results.get(column.metric.label);
    const made = element("td", { class: "number", "data-label": column.metric.label });
    if (!result) return made;
    if (typeof result.score === "number") {
      const bar = element("i", { style: `width:${share(result.score, column.metric) * 100}%` });
      made.append(number(result.score), element("span", { class: "bar" }, bar));
    } else if (result.status === "PARTIAL") {
      const bounds = `${number(result.lower, 2)}–${number(result.upper, 2)}`;
      made.append(element("span", { class: "is-partial", title: "PARTIAL" }, bounds));
    } else {
      const name = QUIET.has(result.status) ? "quiet status" : "is-failed status";
      const word = result.status === "OK" ? result.value || "ok" : WORDS[result.status] || result.status;
      made.append(element("span", { class: name, title: result.reason || result.error?.message || "" }, word));
    }
    return made;
  };
  const tableRow = (sample) => {
    const made = element("tr", { tabindex: 0, "data-line": sample.row.line }, ...columns.map((column) => cell(column, sample)));
    made.classList.toggle("is-open", state.open === sample);
    return made;
  };
  const makeMore = (upTo = state.made + CHUNK) => {
    byId("rows").append(...state.shown.slice(state.made, upTo).map(tableRow));
    state.made = Math.max(state.made, Math.min(upTo, state.shown.length));
  };
  const showTable = () => {
    const column = columns.find(({ key }) => key === state.sort);
    state.shown = samples.filter(matches).sort(compare(column));
    state.made = 0;
    byId("rows").replaceChildren();
    byId("none").hidden = state.shown.length > 0;
    byId("shown").textContent = `${count(state.shown.length)} of ${count(samples.length)} rows`;
    [...byId("columns").children].forEach((header, index) => {
      const isSorted = columns[index].key === state.sort;
      if (isSorted) header.setAttribute("aria-sort", state.descending ? "descending" : "ascending");
      else header.removeAttribute("aria-sort");
    });
    byId("table-box").scrollTop = 0;
    makeMore();
  };
  const sortBy = (column) => {
    if (state.sort === column.key) state.descending = !state.descending;
    else Object.assign(state, { sort: column.key, descending: false });
    showTable();
  };
  const startTable = () => {
    byId("columns").append(
      ...columns.map((column) => {
        const title = column.title.split(/(?<=_)/).flatMap((part) => [part, element("wbr")]);
        const button = element("button", { type: "button", on: { click: () => sortBy(column) } }, ...title);
        return element("th", { scope: "col", class: column.number ? "number" : undefined }, button);
      }),
    );
    const statuses = new Set(samples.flatMap((sample) => [...sample.results.values()].map((result) => result.status)));
    const option = (value, title) => element("option", { value }, title);
    byId("status").append(option("", "any"), option("failed", "any failure"), ...[...statuses].sort().map((status) => option(status, status)));
    if (head.bad_lines) byId("status").append(option("invalid line", "invalid line"));
    byId("status").addEventListener("change", (event) => {
      state.status = event.target.value;
      showTable();
    });
    byId("search").addEventListener("input", (event) => {
      state.search = event.target.value.trim().toLowerCase();
      showTable();
    });
    byId("filters").addEventListener("submit", (event) => event.preventDefault());
    byId("rows").addEventListener("click", (event) => open(sampleOf(event.target)));
    byId("rows").addEventListener("keydown", rowKey);
    const watcher = new IntersectionObserver(([seen]) => seen.isIntersecting && makeMore(), {
      root: byId("table-box"),
      rootMargin: "600px",
    });
    watcher.observe(byId("more"));
    byId("table-box").addEventListener("scroll", ({ target }) => {
      if (target.scrollHeight - target.scrollTop - target.clientHeight < 600) makeMore();
    });
  };
  const sampleOf = (target) => {
    const line = Number(target.closest("tr")?.dataset.line);
    return samples.find((sample) => sample.row.line === line);
  };
  const rowKey = (event) => {
    const row = event.target.closest("tr");
    const other = { ArrowDown: row.nextElementSibling, ArrowUp: row.previousElementSibling }[event.key];
    if (event.key === "Enter" || event.key === " ") open(sampleOf(row));
    else if (other) other.focus();
    else return;
    event.preventDefault();
  };

  // Details of one sample.
  const marked = (text, spans) => {
    // Offsets count code points, indices of strings count UTF-16 units.
    const points = Array.from(text);
    const edges = [...new Set(spans.flatMap(({ from, to }) => [from, to]))].filter((edge) => edge > 0 && edge < points.length);
    const cuts = [0, ...edges.sort((a, b) => a - b), points.length];
    return cuts.slice(1).map((to, index) => {
      const from = cuts[index];
      const piece = points.slice(from, to).join("");
      const claims = spans.filter((span) => span.from <= from && to <= span.to).map((span) => span.claim);
      return claims.length ? element("mark", { "data-claims": claims.join(" ") }, piece) : piece;
    });
  };
  const spansOf = (result, source, index) =>
    (result?.claims || []).flatMap((claim, place) =>
      (claim.evidence || [])
        .filter((found) => found.code_points && found.source === source && (found.context_index ?? null) === index)
        .map((found) => ({ from: found.code_points[0], to: found.code_points[1], claim: place })),
    );
  const passage = (title, text, spans) =>
    text ? [element("h3", {}, title), element("div", { class: "passage", "data-part": title }, ...marked(text, spans))] : [];
  const contextList = (title, contexts, spans) =>
    contexts.length === 0
      ? []
      : [
          element("h3", {}, title),
          ...contexts.map(([id, text], index) =>
            element(
              "div",
              { class: "context", "data-context": index },
              element("span", { class: "quiet" }, id ? `${index + 1} · ${id}` : String(index + 1)),
              element("div", { class: "passage" }, ...marked(text, spans(index))),
            ),
          ),
        ];
  const place = (found) => (found.source === "retrieved_context" ? `context ${found.context_index + 1}` : found.source);
  const pick = (index) => {
    const body = byId("panel-body");
    body.querySelectorAll(".claim").forEach((claim, at) => claim.classList.toggle("is-picked", at === index));
    body.querySelectorAll("mark").forEach((mark) => {
      mark.classList.toggle("is-picked", mark.dataset.claims.split(" ").includes(String(index)));
    });
    body.querySelector("mark.is-picked")?.scrollIntoView({ block: "center" });
  };
  const claimItem = (claim, index) => {
    const evidence = claim.evidence || [];
    const [sign, word, tone] =
      { true: ["✓", "yes", "is-yes"], false: ["✗", "no", "is-no"] }[claim.verdict] || ["?", "no verdict", "is-partial"];
    const hasPlace = evidence.some((found) => found.code_points);
    const lines = evidence.map((found) =>
      found.quote
        ? element("p", { class: "quote" }, `${place(found)}: “`, element("q", { style: "quotes:none" }, found.quote), "”")
        : element("p", { class: "quiet" }, `${place(found)}, quote not found`),
    );
    const choose = () => hasPlace && pick(index);
    return element(
      "li",
      {
        class: hasPlace ? "claim has-evidence" : "claim",
        tabindex: hasPlace ? 0 : undefined,
        on: { click: choose, keydown: (event) => event.key === "Enter" && choose() },
      },
      element("span", { class: `verdict ${tone}`, title: word, "aria-label": word }, sign),
      element(
        "div",
        {},
        element("p", {}, claim.text || (claim.origin === "retrieved_context" ? `context ${claim.context_index + 1}` : claim.id)),
        claim.reason ? element("p", { class: "quiet" }, claim.reason) : null,
        ...lines,
        claim.evidence_unverified ? element("p", { class: "unverified" }, "⚠ the judge's quote stands in none of the texts") : null,
      ),
    );
  };
  const resultBox = (result) => {
    const facts = [];
    if (typeof result.score === "number") facts.push(`score ${number(result.score, 4)}`);
    if (result.lower !== undefined) facts.push(`between ${number(result.lower, 4)} and ${number(result.upper, 4)}`);
    if (result.value) facts.push(`value ${result.value}`);
    if (result.ranking) facts.push(`order ${result.ranking.map((index) => index + 1).join(", ")}`);
    if (result.submitted) facts.push(`${result.judged ?? 0} of ${result.submitted} verdicts`);
    Object.entries(result.details || {}).forEach(([name, value]) => facts.push(`${name} ${number(value, 4)}`));
    const plural = (number, word) => `${count(number)} ${word}${number === 1 ? "" : "s"}`;
    if (result.cost) facts.push(plural(result.cost.calls, "call"), `${count(result.cost.prompt_tokens + result.cost.completion_tokens)} tokens`);
    const tone = QUIET.has(result.status) ? (result.status === "PARTIAL" ? "is-partial" : "quiet") : "is-failed";
    return element(
      "div",
      { class: "result", "data-label": result.label },
      element("h2", {}, result.label, " ", element("small", { class: tone }, result.status)),
      element("div", { class: "facts" }, ...facts.map((fact) => element("span", {}, fact))),
      result.reason && result.reason !== result.error?.message ? element("p", {}, result.reason) : null,
      result.error ? element("p", { class: "is-failed" }, `${result.error.code}: ${result.error.message}`) : null,
      result.claims ? element("ul", { class: "claims" }, ...result.claims.map(claimItem)) : null,
    );
  };
  const tab = (sample, result) => {
    const word = typeof result.score === "number" ? number(result.score) : WORDS[result.status] || result.status;
    const choose = () => {
      state.tab = result.label;
      showPanel();
    };
    const attributes = { type: "button", "aria-pressed": String(state.tab === result.label), on: { click: choose } };
    return element("button", attributes, result.label, element("b", {}, word));
  };
  const showPanel = () => {
    const sample = state.open;
    const results = [...sample.results.values()];
    const sorted = state.sort.startsWith("metric ") ? sample.results.get(state.sort.slice(7)) : null;
    if (!sample.results.has(state.tab)) {
      state.tab = (sorted || results.find((result) => result.claims) || results[0])?.label ?? null;
    }
    const chosen = sample.results.get(state.tab);
    const { texts, row } = sample;
    byId("panel-title").textContent = row.id ? `${row.id} · line ${row.line}` : `Line ${row.line}`;
    const parts = [];
    if (row.error) parts.push(element("p", { class: "is-failed" }, `${row.error.code}: ${row.error.message}`));
    if (results.length) parts.push(element("div", { class: "tabs", role: "group", "aria-label": "Metrics" }, ...results.map((result) => tab(sample, result))));
    if (chosen) parts.push(resultBox(chosen));
    if (texts) {
      parts.push(
        ...passage("Question", texts.user_input, []),
        ...passage("Response", texts.response, spansOf(chosen, "response", null)),
        ...contextList("Contexts", texts.retrieved_contexts, (index) => spansOf(chosen, "retrieved_context", index)),
        ...passage("Reference", texts.reference, spansOf(chosen, "reference", null)),
        ...contextList("Reference contexts", texts.reference_contexts, () => []),
      );
    }
    byId("panel-body").replaceChildren(...parts);
    byId("panel-body").scrollTop = 0;
    byId("panel").hidden = false;
  };
  const rowOf = (sample) => byId("rows").querySelector(`tr[data-line="${sample.row.line}"]`);
  const open = (sample) => {
    if (!sample) return;
    if (state.open) rowOf(state.open)?.classList.remove("is-open");
    state.open = sample;
    rowOf(sample)?.classList.add("is-open");
    showPanel();
    byId("panel-title").focus({ preventScroll: true });
  };
  const step = (by) => {
    const at = state.shown.indexOf(state.open);
    const next = state.shown[at + by];
    if (at < 0 || !next) return;
    if (at + by >= state.made) makeMore(at + by + CHUNK);
    open(next);
    rowOf(next)?.scrollIntoView({ block: "nearest" });
  };
  const close = () => {
    if (!state.open) return;
    const row = rowOf(state.open);
    row?.classList.remove("is-open");
    state.open = null;
    byId("panel").hidden = true;
    row?.focus();
  };
  const startPanel = () => {
    byId("close").addEventListener("click", close);
    byId("previous").addEventListener("click", () => step(-1));
    byId("next").addEventListener("click", () => step(1));
    document.addEventListener("keydown", (event) => event.key === "Escape" && close());
    byId("panel").addEventListener("keydown", (event) => {
      const by = { ArrowDown: 1, ArrowUp: -1 }[event.key];
      if (!by || event.target.closest(".claim")) return;
      event.preventDefault();
      step(by);
    });
  };

  showHead();
  byId("cards").append(...head.metrics.map(card));
  startTable();
  startPanel();
  showTable();
})();
