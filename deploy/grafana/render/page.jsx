// The dashboard drawn by Grafana's own components over Prometheus' answers. What the rest of Grafana does between the two is
// done here: variables, $__rate_interval, legends, overrides, and the defaults of the panels' plugins, as far as assay.json
// needs them.
import { createTheme, dateTime, EventBusSrv, FieldType, getDisplayProcessor, LoadingState, ThemeContext } from "@grafana/data";
import { BigValue, GlobalStyles, PanelChrome, PanelContextProvider, TimeSeries } from "@grafana/ui";
import { createRoot } from "react-dom/client";
import "@fontsource/inter/latin-400.css";
import "@fontsource/inter/latin-500.css";
import board from "../assay.json";

const CELL = 30, GAP = 8, COLUMNS = 24;
const asked = new URLSearchParams(location.search);
const prometheus = asked.get("prometheus");
const scrape = Number(asked.get("scrape"));
const [from, to] = [Number(asked.get("from")), Number(asked.get("to"))];
const theme = createTheme({ colors: { mode: "dark" } });
const timeRange = { from: dateTime(from * 1000), to: dateTime(to * 1000), raw: { from: "", to: "" } };

const POINTS = 500;
const step = Math.max(scrape, Math.ceil((to - from) / POINTS));
const variables = { $__rate_interval: `${Math.max(step + scrape, 4 * scrape)}s`, $namespace: ".*", $pod: ".*" };

const TIMESERIES = {
  color: { mode: "palette-classic" },
  custom: {
    axisBorderShow: false, axisCenteredZero: false, axisColorMode: "text", axisLabel: "", axisPlacement: "auto", barAlignment: 0,
    gradientMode: "none", hideFrom: { legend: false, tooltip: false, viz: false }, insertNulls: false, lineInterpolation: "linear",
    lineStyle: { fill: "solid" }, pointSize: 5, scaleDistribution: { type: "linear" }, thresholdsStyle: { mode: "off" },
  },
};

async function ask(path, query) {
  const answer = await (await fetch(`${prometheus}/api/v1/${path}?${new URLSearchParams(query)}`)).json();
  if (answer.status !== "success") throw new Error(`${query.query}: ${answer.error}`);
  return answer.data.result;
}

function filled(expression) {
  const query = Object.entries(variables).reduce((text, [name, value]) => text.replaceAll(name, value), expression);
  if (/\$[a-z_{]/i.test(query)) throw new Error(`unknown variable: ${query}`);
  return query;
}

// Grafana's time series show what is not finite as a gap.
function finite(value) {
  return Number.isFinite(Number(value)) ? Number(value) : null;
}

function legend(format, labels) {
  return format.replace(/\{\{\s*(\w+)\s*\}\}/g, (_, name) => labels[name] ?? "") || JSON.stringify(labels);
}

// Overrides by Grafana's matchers byName and byRegexp.
function config(panel, name) {
  const { defaults, overrides } = panel.fieldConfig;
  const merged = { ...TIMESERIES, ...defaults, custom: { ...TIMESERIES.custom, ...defaults.custom }, displayName: name };
  for (const { matcher, properties } of overrides) {
    if (matcher.id === "byName" ? matcher.options !== name : !new RegExp(matcher.options.slice(1, -1)).test(name)) continue;
    for (const { id, value } of properties) {
      if (id.startsWith("custom.")) merged.custom[id.slice(7)] = value;
      else merged[id] = value;
    }
  }
  return merged;
}

async function load(panel) {
  const { targets = [], type } = panel;
  const answers = await Promise.all(targets.map(({ expr, instant }) =>
    instant ? ask("query", { query: filled(expr), time: to }) : ask("query_range", { query: filled(expr), start: from, end: to, step })));
  const series = answers.flatMap((results, n) => results.map((result) => ({
    name: legend(targets[n].legendFormat, result.metric), values: result.values ?? [result.value],
  })));
  return series.map(({ name, values }, seriesIndex) => {
    const field = { name: "Value", type: FieldType.number, state: { seriesIndex }, values: values.map(([, value]) => finite(value)) };
    field.config = type === "stat" ? { color: { mode: "thresholds" }, ...panel.fieldConfig.defaults } : config(panel, name);
    field.display = getDisplayProcessor({ field, theme });
    const time = { name: "Time", type: FieldType.time, config: { interval: step * 1000 }, values: values.map(([at]) => at * 1000) };
    time.display = getDisplayProcessor({ field: time, theme });
    return { length: values.length, refId: String(seriesIndex), fields: [time, field] };
  });
}

function Body({ panel, frames, width, height }) {
  if (!frames.length) return <div className="none">No data</div>;
  if (panel.type === "stat") {
    const field = frames[0].fields[1];
    return <BigValue {...panel.options} theme={theme} width={width} height={height} value={field.display(field.values.at(-1))} />;
  }
  const { options } = panel;
  return <TimeSeries frames={frames} width={width} height={height} timeRange={timeRange} timeZone="utc" options={options}
    legend={{ calcs: [], ...options.legend }} />;
}

function Panel({ panel, frames, unit }) {
  const { x, y, w, h } = panel.gridPos;
  const [width, height] = [w * unit - GAP, h * (CELL + GAP) - GAP];
  const place = { position: "absolute", left: x * unit + GAP / 2, top: y * (CELL + GAP) + GAP, width, height };
  if (panel.type === "row") return <h2 style={place}>{panel.title}</h2>;
  return <div style={place}>
    <PanelChrome title={panel.title} width={width} height={height} loadingState={LoadingState.Done}>
      {(innerWidth, innerHeight) => <Body panel={panel} frames={frames} width={innerWidth} height={innerHeight} />}
    </PanelChrome>
  </div>;
}

async function main() {
  await Promise.all(["12px Inter", "500 14px Inter"].map((font) => document.fonts.load(font)));
  const loaded = await Promise.all(board.panels.map(async (panel) => ({ panel, frames: await load(panel) })));
  for (const { panel, frames } of loaded) {
    if (panel.type !== "row" && !frames.length) console.error(`no data: ${panel.title}`);
  }
  createRoot(document.getElementById("board")).render(
    <ThemeContext.Provider value={theme}>
      <GlobalStyles />
      <PanelContextProvider value={{ eventsScope: "global", eventBus: new EventBusSrv() }}>
        {loaded.map((one) => <Panel key={one.panel.id} {...one} unit={innerWidth / COLUMNS} />)}
      </PanelContextProvider>
    </ThemeContext.Provider>,
  );
}

main();
