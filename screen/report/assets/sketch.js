// Sketch: a figure of points at once, as plotly will draw it, which takes longer to start than the page to open.
const shape = (name, attributes, ...children) => {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
};

// what `plain` made for plotly, as text
const bare = (text) => text.replaceAll("&lt;", "<").replaceAll("&gt;", ">").replaceAll("&amp;", "&");

// outlines around a point, by half their size
const OUTLINES = {
  circle: (r) => `M${-r},0a${r},${r} 0 1 0 ${2 * r},0a${r},${r} 0 1 0 ${-2 * r},0z`,
  diamond: (r) => `M0,${-1.3 * r}L${1.3 * r},0L0,${1.3 * r}L${-1.3 * r},0z`,
};

// round values within a range, about n of them
function roundTicks([low, high], n) {
  const rough = (high - low) / n;
  const unit = 10 ** Math.floor(Math.log10(rough));
  const step = unit * [1, 2, 5, 10].find((m) => m * unit >= rough);
  return Array.from({ length: Math.floor(high / step) - Math.ceil(low / step) + 1 }, (_, k) => (Math.ceil(low / step) + k) * step);
}

// [place along the axis, text] of its ticks; places of a logarithmic axis are logarithms, as its range
function ticksOf(one, size) {
  const ticks = one.tickvals ? one.tickvals.map((v, i) => [placeOn(one, v), one.ticktext[i]]) : roundTicks(one.range, size / 70).map((v) => [v, digits(v, 6)]);
  return ticks.filter(([v]) => v >= one.range[0] && v <= one.range[1]);
}

function sketch(target, traces, { xaxis, yaxis, annotations }) {
  const [width, height] = [target.clientWidth, target.clientHeight];
  const [right, floor] = [width - MARGIN.r, height - MARGIN.b];
  // a page that is not shown yet has no size
  if (right <= MARGIN.l || floor <= MARGIN.t) return;
  const along = ([low, high], from, to) => (v) => from + ((v - low) / (high - low)) * (to - from);
  const [left, up] = [along(xaxis.range, MARGIN.l, right), along(yaxis.range, floor, MARGIN.t)];
  const line = (x1, y1, x2, y2, stroke) => shape("path", { d: `M${x1},${y1}L${x2},${y2}`, stroke });
  const words = (x, y, text, anchor, more = {}) => shape("text", { x, y, "text-anchor": anchor, ...more }, text);
  const at_x = ticksOf(xaxis, right - MARGIN.l).flatMap(([v, text]) => [line(left(v), MARGIN.t, left(v), floor, xaxis.gridcolor), line(left(v), floor, left(v), floor + 5, xaxis.tickcolor), words(left(v), floor + 17, text, "middle")]);
  const at_y = ticksOf(yaxis, floor - MARGIN.t).flatMap(([v, text]) => [line(MARGIN.l, up(v), right, up(v), yaxis.gridcolor), line(MARGIN.l - 5, up(v), MARGIN.l, up(v), yaxis.tickcolor), words(MARGIN.l - 8, up(v) + 4, text, "end")]);
  const frame = [line(MARGIN.l, floor, right, floor, xaxis.linecolor), line(MARGIN.l, MARGIN.t, MARGIN.l, floor, yaxis.linecolor)];
  const middle = (MARGIN.t + floor) / 2;
  const titles = [
    words((MARGIN.l + right) / 2, height - 10, bare(xaxis.title.text), "middle", { "font-size": 14 }),
    words(16, middle, bare(yaxis.title.text), "middle", { "font-size": 14, transform: `rotate(-90 16 ${middle})` }),
  ];
  const points = traces.map(({ x, y, marker }) => {
    const isOpen = marker.symbol.endsWith("-open");
    const outline = OUTLINES[marker.symbol.replace("-open", "")](marker.size / 2);
    const paint = isOpen ? { fill: "none", stroke: marker.color } : { fill: marker.color };
    return shape("g", { ...paint, class: "points", "fill-opacity": marker.opacity, "stroke-opacity": marker.opacity }, ...x.map((v, i) => shape("path", { d: outline, transform: `translate(${left(placeOn(xaxis, v)).toFixed(1)} ${up(placeOn(yaxis, y[i])).toFixed(1)})` })));
  });
  const anchors = { left: "start", center: "middle", right: "end" };
  const names = annotations.map((a) => words(left(a.x) + a.xshift, up(a.y) - a.yshift + 4, bare(a.text), anchors[a.xanchor]));
  target.replaceChildren(shape("svg", { class: "sketch", width, height, viewBox: `0 0 ${width} ${height}`, "font-family": FONT, "font-size": 12, fill: "#1b1f24" }, ...at_x, ...at_y, ...frame, ...points, ...titles, shape("g", { class: "names", "font-size": 11 }, ...names)));
}
