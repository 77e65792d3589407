// Figures: one style, colours that the colour-blind and a grey print tell apart, shapes beside them.
const COLOURS = { hit: "#d55e00", own: "#0072b2", none: "#8c959f", up: "#b35806", down: "#542788" };
const SYMBOLS = { hit: "diamond", own: "circle", none: "circle-open" };
const GLYPHS = { diamond: "◆", circle: "●", "circle-open": "○", "triangle-up": "▲", "triangle-down": "▼", "triangle-left": "◀" };
const DIVERGING = [[0, "#542788"], [0.25, "#998ec3"], [0.5, "#f7f7f7"], [0.75, "#f1a340"], [1, "#b35806"]];
const MARGIN = { l: 66, r: 14, t: 28, b: 50 };
const FONT = "system-ui, Liberation Sans, sans-serif";
const MOST_NAMES = 14;
const isStill = matchMedia("(prefers-reduced-motion: reduce)").matches;
// a finger on a figure scrolls the page
const isTouched = matchMedia("(pointer: coarse)").matches;
const isNarrow = () => matchMedia("(max-width: 48rem)").matches;

// plotly reads a few tags in text: a name has none
const plain = (text) => String(text).replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;");
const short = (text, most) => (text.length > most ? `${text.slice(0, most - 1)}…` : text);

const isLoaded = () => typeof Plotly !== "undefined";

async function loadPlotly() {
  // inert text until here; the page's policy knows its checksum
  const script = document.createElement("script");
  script.textContent = await unpacked("library");
  document.head.append(script);
  at("library").remove();
}

function axis(title, more = {}) {
  return { title: { text: plain(title), standoff: 6 }, zeroline: false, gridcolor: "#e6e9ec", linecolor: "#8c959f", showline: true, ticks: "outside", tickcolor: "#8c959f", ...more };
}

// an axis along all values, a little wider; `range` is of logarithms where it is logarithmic
function spread(values, isLog = false, pad = 0.06) {
  let [low, high] = [Infinity, -Infinity];
  for (const v of values) {
    if (v === null || (isLog && v <= 0)) continue;
    const w = isLog ? Math.log10(v) : v;
    if (w < low) low = w;
    if (w > high) high = w;
  }
  if (low > high) return [0, 1];
  const by = pad * (high - low || 1);
  return [low - by, high + by];
}

// ticks of a logarithmic axis, written out: 0.002, 0.005, 0.01
function logAxis(title, values) {
  const range = spread(values, true);
  const isWide = range[1] - range[0] > 2.5;
  const ticks = [];
  for (let e = Math.floor(range[0]); e <= Math.ceil(range[1]); e++) ticks.push(...(isWide ? [1] : [1, 2, 5]).map((m) => m * 10 ** e));
  return axis(title, { type: "log", range, tickvals: ticks, ticktext: ticks.map((x) => digits(x, 1)) });
}

// a figure, what it shows in words for who does not see it, and what a click on a point does
// names: {x, y, text} of points, in the order of their weight, as its axes count; axes with names have a range
async function draw(place, traces, layout, words, { onPoint = null, names = [] } = {}) {
  const target = at(place);
  target.named = { names, points: names.length ? traces.flatMap(pointsOf(layout)) : [] };
  const whole = {
    font: { family: FONT, size: 12, color: "#1b1f24" }, margin: MARGIN,
    paper_bgcolor: "#fff", plot_bgcolor: "#fff", hovermode: "closest", dragmode: isTouched ? false : "zoom", showlegend: false,
    hoverlabel: { align: "left", bgcolor: "#fff", bordercolor: "#8c959f", font: { color: "#1b1f24" } },
    modebar: { bgcolor: "rgba(255,255,255,0.85)", color: "#57606a", activecolor: "#1b1f24" },
    ...layout,
    annotations: annotationsOf(target, layout),
  };
  // nothing that sends the figure anywhere, as plotly would offer
  const config = { responsive: true, displaylogo: false, showSendToCloud: false, plotlyServerURL: "", modeBarButtons: [["zoom2d", "pan2d", "resetScale2d", "toImage"]], toImageButtonOptions: { format: "svg", filename: place } };
  legend(target, traces);
  target.setAttribute("role", "img");
  target.setAttribute("aria-label", words);
  if (!isLoaded()) {
    sketch(target, traces, whole);
    return;
  }
  target.querySelector(".sketch")?.remove();
  await Plotly.react(target, traces, whole, config);
  // tools of the mouse: the tables are there for the keyboard
  const skipTools = () => target.querySelectorAll(".modebar button").forEach((tool) => tool.setAttribute("tabindex", "-1"));
  skipTools();
  target.removeAllListeners?.("plotly_click");
  target.removeAllListeners?.("plotly_relayout");
  target.removeAllListeners?.("plotly_afterplot");
  target.on("plotly_afterplot", skipTools);
  if (onPoint) target.on("plotly_click", ({ points: [point] }) => point.customdata !== undefined && onPoint(point.customdata, point));
  if (names.length) target.on("plotly_relayout", (change) => "annotations" in change || Plotly.relayout(target, { annotations: annotationsOf(target, target.layout) }));
}

// what the shapes mean, above the figure, as text
function legend(target, traces) {
  let line = target.parentElement.querySelector(".legend");
  if (line === null) {
    line = element("p", { class: "legend" });
    target.before(line);
  }
  const kinds = traces.filter((trace) => trace.type === "scatter" && trace.name && trace.x.length);
  line.hidden = kinds.length < 2;
  line.replaceChildren(...kinds.reverse().map((trace) => {
    const glyph = element("span", { "aria-hidden": "true" }, `${GLYPHS[trace.marker.symbol]} `);
    glyph.style.color = trace.marker.color;
    return element("span", {}, glyph, trace.name);
  }));
}

const pointsOf = (layout) => (trace) => (trace.type === "scatter" && trace.marker?.size > 5 ? trace.x.map((x, i) => [placeOn(layout.xaxis, x), placeOn(layout.yaxis, trace.y[i])]) : []);
const placeOn = (one, value) => (one.type === "log" ? Math.log10(value) : value);

// names beside their points: each once, where it covers no other name, least of the points, and stays inside
function annotationsOf(target, layout) {
  const { names, points } = target.named ?? { names: [] };
  if (!names.length) return [];
  const margin = layout.margin ?? MARGIN;
  const [wide, high] = [(layout.width ?? target.clientWidth) - margin.l - margin.r, (layout.height ?? target.clientHeight) - margin.t - margin.b];
  const along = ([low, top], size) => (v) => ((v - low) / (top - low)) * size;
  const [left, up] = [along(layout.xaxis.range, wide), along(layout.yaxis.range, high)];
  const marks = points.map(([x, y]) => [left(x), up(y)]);
  const [taken, used, found] = [[], new Set(), []];
  for (const name of names) {
    const [x, y] = [left(placeOn(layout.xaxis, name.x)), up(placeOn(layout.yaxis, name.y))];
    const text = short(String(name.text), 28);
    if (used.has(text) || !(x >= 0 && x <= wide && y >= 0 && y <= high)) continue;
    const size = widthOf(text);
    const places = [[x + 7, y - 6, "left", 7, 0], [x - 7 - size, y - 6, "right", -7, 0], [x - size / 2, y + 5, "center", 0, 13], [x - size / 2, y - 18, "center", 0, -14]];
    const open = places.filter(([a, b]) => a >= 0 && a + size <= wide && b >= -2 && b + 13 <= high + 12 && !taken.some((t) => a < t[0] + t[2] && t[0] < a + size && b < t[1] + 13 && t[1] < b + 13));
    const covered = open.map(([a, b]) => marks.filter(([p, q]) => p > a - 3 && p < a + size + 3 && q > b - 2 && q < b + 15).length);
    const best = open[covered.indexOf(Math.min(...covered))];
    if (best === undefined) continue;
    taken.push([best[0], best[1], size]);
    used.add(text);
    found.push({ x: placeOn(layout.xaxis, name.x), y: placeOn(layout.yaxis, name.y), text: plain(text), showarrow: false, xanchor: best[2], yanchor: "middle", xshift: best[3], yshift: best[4], borderpad: 0, font: { size: 11 } });
    if (found.length >= MOST_NAMES) break;
  }
  return found;
}

const pen = document.createElement("canvas").getContext("2d");
function widthOf(text) {
  pen.font = `11px ${FONT}`;
  return pen.measureText(text).width + 2;
}

// at most n of them, every so many
function sampled(list, n) {
  if (list.length <= n) return list;
  const step = list.length / n;
  return Array.from({ length: n }, (_, i) => list[Math.floor(i * step)]);
}

// on paper a figure has the width of its column
const PAPER = { one: [660, 300], pair: [325, 270], tall: [660, 620] };
let isPaper = false;
function fitTo(paper) {
  if (!isLoaded() || paper === isPaper) return;
  isPaper = paper;
  document.querySelectorAll(".plot.js-plotly-plot").forEach((plot) => {
    const kind = plot.classList.contains("tall") ? "tall" : plot.closest(".pair") ? "pair" : "one";
    const [width, height] = PAPER[kind];
    Plotly.relayout(plot, paper ? { autosize: false, width, height } : { autosize: true, width: undefined, height: undefined });
  });
}
