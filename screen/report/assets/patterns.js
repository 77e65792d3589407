// Patterns: perturbations against the genes that they change; and one time point against another.
const nameOfMap = (map) => [editNames[map.edit], ...(nGroups > 1 ? [placeName(map.stratum, map.time)] : [])].join(", ");

// the change from which a colour is the darkest: one in a hundred is larger
function darkest(map) {
  const sizes = map.change.flat().filter((x) => x !== null).map(Math.abs).sort((a, b) => a - b);
  return sizes[Math.floor(0.99 * (sizes.length - 1))] || sizes.at(-1) || 1;
}

async function drawMap(number) {
  const map = data.heat_maps[number];
  if (map === undefined) return;
  const most = darkest(map);
  const rows = map.perturbation.map((p) => perturbations.symbol[p]);
  const columns = map.gene.map((g) => genes.symbol[g]);
  const ticks = (list) => ({ tickmode: "array", tickvals: list.map((_, i) => i), ticktext: list.map((x) => plain(short(x, 18))), tickfont: { size: 10 }, showgrid: false });
  const text = map.change.map((row, i) => row.map((x, j) => `${plain(rows[i])} → ${plain(columns[j])}<br>${x === null ? "not in the table" : signed(x)}`));
  const longest = (list) => Math.max(0, ...list.map((x) => 0.95 * widthOf(short(x, 18))));
  // a grey print tells no sign by its colour
  const down = map.change.flatMap((row, i) => row.flatMap((x, j) => (x !== null && x < -most / 3 ? [[i, j]] : [])));
  await draw("plot-map", [
    { type: "heatmap", z: map.change, customdata: text, hovertemplate: "%{customdata}<extra></extra>", colorscale: DIVERGING, zmin: -most, zmax: most, xgap: 1, ygap: 1, hoverongaps: false, colorbar: { title: { text: "mean change", side: "right" }, thickness: 12, len: 0.6 } },
    { type: "scatter", mode: "markers", x: down.map(([, j]) => j), y: down.map(([i]) => i), hoverinfo: "skip", marker: { symbol: "line-ew", size: 7, line: { color: "#fff", width: 1.5 } } },
  ], { margin: { l: Math.max(60, 20 + longest(rows)), r: 10, t: 26, b: 44 + longest(columns) }, xaxis: axis("genes that respond", { ...ticks(columns), tickangle: -60, range: [-0.5, columns.length - 0.5] }), yaxis: axis("", { ...ticks(rows), range: [rows.length - 0.5, -0.5] }) },
  `Heat map of ${nameOfMap(map)}: ${rows.length} perturbations by ${columns.length} genes.`,
  { onPoint: (_, { y }) => showPerturbation(map.perturbation[y], map.stratum, map.time, true) });
  at("caption-map").textContent = `Rows: the ${rows.length} strongest perturbations of ${nameOfMap(map)}, of those with a view of their own. Columns: the ${columns.length} genes that they change most. Both are ordered so that those alike stand together (average linkage of cosines). Changes beyond ±${digits(most, 2)} have the darkest colour; a white dash is one that is strongly down.`;
}

async function drawTimes() {
  at("times-figure").hidden = times.length < 2;
  if (times.length < 2) return;
  const [first, second] = [0, times.length - 1];
  const pairs = [...Array(nHits).keys()].filter((i) => hits.time[i] === first && !isNull(i) && hits.rank[i] !== null && hits.strength[i] > 0
    && (chosen.edit === null || perturbations.edit[hits.perturbation[i]] === chosen.edit) && (chosen.stratum === null || hits.stratum[i] === chosen.stratum))
    .map((i) => [i, hitOfGroup.get(groupOf(hits.perturbation[i], hits.stratum[i], second))])
    .filter(([, j]) => j !== undefined && hits.rank[j] !== null && hits.strength[j] > 0);
  const which = ([i, j]) => (isHit(i) && isHit(j) ? "both" : isHit(i) ? "first" : isHit(j) ? "second" : "neither");
  const kinds = { neither: ["stands out at neither", "circle-open", COLOURS.none, 5], both: ["at both", "diamond", COLOURS.hit, 9], first: [`at ${timeName(first)} only`, "triangle-left", COLOURS.own, 9], second: [`at ${timeName(second)} only`, "triangle-up", COLOURS.down, 9] };
  let nDrawn = 0;
  const traces = Object.entries(kinds).map(([kind, [name, symbol, color, size]]) => {
    const list = sampled(pairs.filter((pair) => which(pair) === kind), MOST_POINTS / 2);
    nDrawn += list.length;
    return { type: "scatter", mode: "markers", name, x: list.map(([i]) => hits.strength[i]), y: list.map(([, j]) => hits.strength[j]), customdata: list.map(([i]) => i), text: list.map(([i]) => `${plain(symbolOf(i))}, ${plain(editOf(i))}, ${plain(strata[hits.stratum[i]])}`), hovertemplate: "%{text}<br>%{x:.3g} → %{y:.3g}<extra></extra>", marker: { symbol, color, size, opacity: 0.75 } };
  });
  // what differs is what the figure is for: named first
  const apart = ([i, j]) => Math.abs(Math.log(hits.strength[j] / hits.strength[i]));
  const called = pairs.filter((pair) => which(pair) !== "neither");
  const names = [...called.filter((pair) => which(pair) !== "both").sort((a, b) => apart(b) - apart(a)).slice(0, 24), ...called.filter((pair) => which(pair) === "both").slice(0, 24)]
    .map(([i, j]) => ({ x: hits.strength[i], y: hits.strength[j], text: symbolOf(i) }));
  const all = pairs.flatMap(([i, j]) => [hits.strength[i], hits.strength[j]]);
  const [xaxis, yaxis] = [first, second].map((t) => logAxis(`strength at ${timeName(t)}`, all));
  const [low, high] = xaxis.range.map((v) => 10 ** v);
  const shapes = [{ type: "line", x0: low, y0: low, x1: high, y1: high, line: { color: COLOURS.none, width: 1, dash: "dot" } }];
  await draw("plot-times", traces, { shapes, xaxis, yaxis },
    `Strength at ${timeName(first)} against ${timeName(second)}: ${pairs.length} results.`, { onPoint: (i) => showPerturbation(hits.perturbation[i], hits.stratum[i], null, true), names });
  const lost = nDrawn < pairs.length ? ` ${whole(nDrawn)} of ${whole(pairs.length)} are drawn.` : "";
  at("caption-times").textContent = `The same perturbations at ${timeName(first)} and ${timeName(second)} (q < ${data.stands_out} where they stand out); on the dotted line they are equally strong.${lost}${times.length > 2 ? " Other time points are in the table." : ""}`;
}
