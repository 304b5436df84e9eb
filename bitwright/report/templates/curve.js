"use strict";

const curve = JSON.parse(document.getElementById("data").textContent);
const tone = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const symbols = { baseline: "square", float: "diamond", int8: "triangle-up", mixed: "circle", recovered: "cross" };
const decimals = (value) => (value >= 100 ? 1 : value >= 1 ? 2 : 3);
const ms = (value) => (value === null ? "n/a" : value.toFixed(decimals(value)));
const signed = (value) => { const text = Math.abs(value).toFixed(3); return +text === 0 ? "±0" : (value > 0 ? "+" : "−") + text; };
const quality = `${curve.metric}, ${curve.unit}`;
let selected = null;

function layout(x, y, extra = {}) {
  const axis = (title) => ({
    title: { text: title, font: { size: 12 } }, gridcolor: tone("--line"), zeroline: false, linecolor: tone("--soft"),
    tickfont: { size: 11 }, automargin: true, exponentformat: "SI",
  });
  return {
    xaxis: axis(x), yaxis: { ...axis(y), exponentformat: "none", nticks: 6 }, margin: { l: 10, r: 14, t: 8, b: 10 }, showlegend: false,
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", hovermode: "closest",
    font: { family: tone("--sans"), size: 12, color: tone("--soft") },
    hoverlabel: { bgcolor: tone("--card"), bordercolor: tone("--line"), font: { color: tone("--ink") } }, ...extra,
  };
}

// Trace 0 is the front, the last one all points: a click tells its point by its number there.
function draw(id, points, x, y, flag, axes, extra = {}, lines = []) {
  const colours = points.map((p) => ((flag === null ? p.front.latency : p.front[flag]) || p.kind === "baseline" ? curve.kinds[p.kind].colour : tone("--grey")));
  const big = id === "latency";
  const front = (flag === null ? [] : points.filter((p) => p.front[flag])).sort((a, b) => x(a) - x(b));
  const traces = [...lines, {
    x: front.map(x), y: front.map(y), mode: "lines", line: { shape: "hv", width: 1.5, color: tone("--accent") }, opacity: 0.6, hoverinfo: "skip",
  }, {
    x: points.map(x), y: points.map(y), mode: "markers", customdata: points.map((p) => p.name),
    error_x: big ? {
      type: "data", symmetric: false, thickness: 1.2, width: 3, color: tone("--soft"),
      array: points.map((p) => (p.latency.high_ms === null ? 0 : Math.max(0, p.latency.high_ms - p.latency.ms))),
      arrayminus: points.map((p) => (p.latency.low_ms === null ? 0 : Math.max(0, p.latency.ms - p.latency.low_ms))),
    } : undefined,
    marker: {
      size: points.map((p) => (p.name === selected ? (big ? 16 : 13) : big ? 11 : 8)), color: colours, opacity: 1, symbol: points.map((p) => symbols[p.kind]),
      line: { width: points.map((p) => (p.name === selected ? 2.5 : 1)), color: points.map((p) => (p.name === selected ? tone("--ink") : tone("--card"))) },
    },
    text: points.map((p) => `<b>${p.name}</b><br>${p.label}<br>${p.quality.engine.toFixed(3)} ${curve.unit}, ${ms(p.latency.ms)} ms, ${p.size_text}, ${p.bitops_text} BitOps`),
    hovertemplate: "%{text}<extra></extra>",
  }];
  const node = document.getElementById(id);
  Plotly.react(node, traces, layout(...axes, extra), { displayModeBar: false, responsive: true });
  if (!node.dataset.live) {
    node.dataset.live = "yes";
    node.on("plotly_click", (event) => {
      const hit = event.points.find((p) => p.customdata);
      if (hit) select(hit.customdata);
    });
  }
}

function drawAll() {
  const points = curve.points;
  const engine = (p) => p.quality.engine;
  const named = points.filter((p) => p.kind !== "mixed");
  const notes = named.map((p) => ({
    x: p.latency.ms, y: engine(p), text: p.label.replace(/</g, "&lt;"), showarrow: false, xanchor: "left", yanchor: "bottom", xshift: 5, yshift: 6, font: { size: 11, color: p.front.latency ? curve.kinds[p.kind].colour : tone("--soft") },
  }));
  draw("latency", points, (p) => p.latency.ms, engine, "latency", ["measured latency, ms", quality], { annotations: notes });
  draw("bitops", points, (p) => p.bitops, engine, "bitops", ["BitOps", quality]);
  draw("size", points, (p) => p.size_bytes, engine, "size", ["bytes", quality]);
  const told = points.filter((p) => p.prediction.ms !== null);
  const all = told.flatMap((p) => [p.latency.ms, p.prediction.ms]);
  if (!told.length) {
    document.getElementById("predicted").textContent = "No point of this curve was predicted.";
    return;
  }
  const ends = [Math.min(...all) * 0.97, Math.max(...all) * 1.03];
  const diagonal = { x: ends, y: ends, mode: "lines", line: { color: tone("--grey"), width: 1, dash: "dot" }, hoverinfo: "skip" };
  draw("predicted", told, (p) => p.prediction.ms, (p) => p.latency.ms, null, ["predicted, ms", "measured, ms"], {}, [diagonal]);
}

const make = (tag, name, text) => {
  const node = document.createElement(tag);
  if (name) node.className = name;
  if (text !== undefined) node.textContent = text;
  return node;
};

function select(name) {
  selected = name;
  const point = curve.points.find((p) => p.name === name);
  const panel = document.getElementById("detail");
  const latency = point.latency;
  const head = make("h2", "", point.name);
  const wrong = point.layers.filter((x) => x[3] !== x[4]).length;
  head.append(make("span", wrong ? "badge bad" : "badge", wrong ? `${wrong} layers not as planned` : "executed as planned"));
  const list = make("dl");
  const interval = latency.speedup_low === null ? "" : ` (${latency.speedup_low.toFixed(2)}–${latency.speedup_high.toFixed(2)})`;
  const rows = [
    ["Plan", `${point.label}`], ["Quality", `${point.quality.engine.toFixed(3)} ${curve.unit} (${signed(-point.quality.drop)}; ${signed(point.quality.torch_gap)} against torch)`],
    ["Latency", `${ms(latency.ms)} ms, ${latency.speedup.toFixed(2)}×${interval}`],
    ["Predicted", point.prediction.ms === null ? "n/a" : `${ms(point.prediction.ms)} ms by ${point.prediction.source}`],
    ["Size", `${point.size_text}, ${point.bitops_text} BitOps`], ["Engine", `${point.runtime}, ${point.engine}`], ["Samples", `${latency.n} in ${latency.session}${latency.noisy ? " (machine was busy)" : ""}`],
  ];
  for (const [key, value] of rows) list.append(make("dt", "", key), make("dd", "", value));
  const most = Math.max(...point.layers.map((x) => x[2]), 1);
  const layers = make("div", "rows");
  for (const [layer, op, macs, planned, executed, kernel] of point.layers) {
    const row = make("div", `row ${executed}${planned === executed ? "" : " wrong"}`);
    row.title = `${op}, ${macs.toLocaleString("en")} MACs, planned ${planned}, executed ${executed}${kernel ? ` by ${kernel}` : ""}`;
    const bar = make("span", "bar");
    const fill = make("i");
    fill.style.width = `${(100 * macs) / most}%`;
    bar.append(fill);
    row.append(make("span", "", layer), bar, make("b", "", executed));
    layers.append(row);
  }
  panel.replaceChildren(head, list, layers);
  for (const row of document.querySelectorAll("tr[data-point]")) row.classList.toggle("selected", row.dataset.point === name);
  drawAll();
}

for (const row of document.querySelectorAll("tr[data-point]")) row.addEventListener("click", () => select(row.dataset.point));
const front = curve.points.filter((p) => p.front.latency);
select(curve.chosen ?? (front[Math.floor(front.length / 2)] ?? curve.points[0]).name);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawAll);
