// Figures: one style, colours that the colour-blind and a grey print tell apart, shapes beside them.
const COLOURS = { hit: "#d55e00", own: "#0072b2", none: "#8c959f", up: "#b35806", down: "#542788" };
const SYMBOLS = { hit: "diamond", own: "circle", none: "circle-open" };
const DIVERGING = [[0, "#542788"], [0.25, "#998ec3"], [0.5, "#f7f7f7"], [0.75, "#f1a340"], [1, "#b35806"]];
const isStill = matchMedia("(prefers-reduced-motion: reduce)").matches;

// plotly reads a few tags in text: a name has none
const plain = (text) => String(text).replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;");

const isLoaded = () => typeof Plotly !== "undefined";

async function loadPlotly() {
  // inert text until here; the page's policy knows its checksum
  const script = document.createElement("script");
  script.textContent = await unpacked("library");
  document.head.append(script);
  at("library").remove();
}

function axis(title, more = {}) {
  return { title: { text: plain(title), standoff: 8 }, automargin: true, zeroline: false, gridcolor: "#e6e9ec", linecolor: "#8c959f", showline: true, ticks: "outside", tickcolor: "#8c959f", ...more };
}

// a figure, what it shows in words for who does not see it, and what a click on a point does
async function draw(place, traces, layout, words, onPoint = null) {
  const target = at(place);
  const whole = {
    font: { family: "system-ui, Liberation Sans, sans-serif", size: 12, color: "#1b1f24" },
    margin: { l: 56, r: 12, t: 30, b: 48 },
    paper_bgcolor: "#fff", plot_bgcolor: "#fff", hovermode: "closest", dragmode: "zoom",
    hoverlabel: { align: "left", bgcolor: "#fff", bordercolor: "#8c959f", font: { color: "#1b1f24" } },
    legend: { orientation: "h", y: 1.02, yanchor: "bottom", x: 0, font: { size: 11 } },
    transition: { duration: isStill ? 0 : 150 },
    ...layout,
  };
  const config = { responsive: true, displaylogo: false, modeBarButtonsToRemove: ["select2d", "lasso2d", "autoScale2d"], toImageButtonOptions: { format: "svg", filename: place } };
  await Plotly.react(target, traces, whole, config);
  target.setAttribute("role", "img");
  target.setAttribute("aria-label", words);
  target.removeAllListeners?.("plotly_click");
  if (onPoint) target.on("plotly_click", ({ points: [point] }) => point.customdata !== undefined && onPoint(point.customdata));
}

// at most n of them, every so many
function sampled(list, n) {
  if (list.length <= n) return list;
  const step = list.length / n;
  return Array.from({ length: n }, (_, i) => list[Math.floor(i * step)]);
}

// names beside points, each name once, those that would lie on one that is there already left out
function labelled(points, width, height) {
  const kept = [];
  for (const point of points) {
    const wide = (a, b) => (a.fx > 0.8) === (b.fx > 0.8) ? 6.5 * (a.fx > 0.8 ? b : a).text.length : 3.3 * (a.text.length + b.text.length);
    const clash = (k) => k.text === point.text || (Math.abs(k.fy - point.fy) * height < 15 && Math.abs(k.fx - point.fx) * width < (k.fx < point.fx ? wide(point, k) : wide(k, point)));
    if (!kept.some(clash)) kept.push(point);
  }
  return kept;
}

// ticks of a logarithmic axis, written out: 0.002, 0.005, 0.01
function logAxis(title, values) {
  const known = values.filter((v) => v !== null && v > 0);
  if (!known.length) return axis(title, { type: "log" });
  const [low, high] = known.reduce(([a, b], v) => [Math.min(a, v), Math.max(b, v)], [Infinity, -Infinity]);
  const isWide = Math.log10(high / low) > 2.5;
  const ticks = [];
  for (let e = Math.floor(Math.log10(low)); e <= Math.ceil(Math.log10(high)); e++) ticks.push(...(isWide ? [1] : [1, 2, 5]).map((m) => m * 10 ** e));
  return axis(title, { type: "log", tickvals: ticks, ticktext: ticks.map((x) => digits(x, 1)) });
}

const scaleOf = (values, isLog) => {
  const known = values.filter((v) => v !== null && (!isLog || v > 0)).map((v) => (isLog ? Math.log10(v) : v));
  const [low, high] = known.reduce(([a, b], v) => [Math.min(a, v), Math.max(b, v)], [Infinity, -Infinity]);
  return (v) => ((isLog ? Math.log10(v) : v) - low) / (high - low || 1);
};

// names beside `points`, where `all` are drawn: x and y give a point's place, text its name; log: whether the axes are logarithmic
function names(points, all, { x, y, logX = false, logY = false, text, place, n = 14 }) {
  const [fx, fy] = [scaleOf(all.map(x), logX), scaleOf(all.map(y), logY)];
  const { clientWidth, clientHeight } = at(place);
  const placed = points.map((p) => ({ p, fx: fx(x(p)), fy: fy(y(p)), text: String(text(p)) }));
  // axes and margins take some of the place
  return labelled(placed, 0.8 * clientWidth, 0.65 * clientHeight).slice(0, n).map(({ p, fx: across }) => ({
    x: logX ? Math.log10(x(p)) : x(p), y: logY ? Math.log10(y(p)) : y(p), text: plain(text(p)), showarrow: false,
    xanchor: across > 0.8 ? "right" : "left", xshift: across > 0.8 ? -6 : 6, yshift: 5, font: { size: 11 },
  }));
}
