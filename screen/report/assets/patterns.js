// Patterns: perturbations against the genes that they change; and one time point against another.
const nameOfMap = (map) => `${edits[map.edit]}, ${placeName(map.stratum, map.time)}`;

async function drawMap(number) {
  const map = data.heat_maps[number];
  if (map === undefined) return;
  const most = Math.max(...map.change.flat().map((x) => Math.abs(x ?? 0))) || 1;
  const rows = map.perturbation.map((p) => perturbations.symbol[p]);
  const columns = map.gene.map((g) => genes.symbol[g]);
  const ticks = (list) => ({ tickmode: "array", tickvals: list.map((_, i) => i), ticktext: list.map((x) => plain(x.length > 18 ? `${x.slice(0, 17)}…` : x)), tickfont: { size: 10 }, showgrid: false });
  const text = map.change.map((row, i) => row.map((x, j) => `${plain(rows[i])} → ${plain(columns[j])}<br>${x === null ? "not in the table" : signed(x)}`));
  // a grey print tells no sign by its colour
  const sign = map.change.map((row) => row.map((x) => (x !== null && x < -most / 4 ? "−" : "")));
  await draw("plot-map", [
    { type: "heatmap", z: map.change, customdata: text, hovertemplate: "%{customdata}<extra></extra>", text: sign, texttemplate: "%{text}", textfont: { color: "#fff", size: 10 }, colorscale: DIVERGING, zmin: -most, zmax: most, xgap: 1, ygap: 1, hoverongaps: false, colorbar: { title: { text: "mean change", side: "right" }, thickness: 12, len: 0.6 } },
  ], { margin: { l: 80, r: 10, t: 10, b: 90 }, xaxis: axis("genes that respond", { ...ticks(columns), tickangle: -60 }), yaxis: axis("", { ...ticks(rows), autorange: "reversed" }) },
  `Heat map of ${nameOfMap(map)}: ${rows.length} perturbations by ${columns.length} genes.`);
  at("caption-map").textContent = `The ${rows.length} strongest perturbations of ${nameOfMap(map)} (of those with a view of their own), and the ${columns.length} genes that they change most; both ordered so that alike stand together (average linkage of cosines). "−": strongly down.`;
}

async function drawTimes() {
  at("times-figure").hidden = times.length < 2;
  if (times.length < 2) return;
  const [first, second] = [0, times.length - 1];
  const pairs = [...Array(nHits).keys()].filter((i) => hits.time[i] === first && !isNull(i) && hits.rank[i] !== null
    && (chosen.edit === null || perturbations.edit[hits.perturbation[i]] === chosen.edit) && (chosen.stratum === null || hits.stratum[i] === chosen.stratum))
    .map((i) => [i, hitOfGroup.get(groupOf(hits.perturbation[i], hits.stratum[i], second))])
    .filter(([, j]) => j !== undefined && hits.rank[j] !== null);
  const which = ([i, j]) => (isHit(i) && isHit(j) ? "both" : isHit(i) ? "first" : isHit(j) ? "second" : "neither");
  const kinds = { neither: ["neither", "circle-open", COLOURS.none, 5], both: ["both", "diamond", COLOURS.hit, 9], first: [`${timeName(first)} only`, "triangle-left", COLOURS.own, 9], second: [`${timeName(second)} only`, "triangle-up", COLOURS.down, 9] };
  const traces = Object.entries(kinds).map(([kind, [name, symbol, color, size]]) => {
    const list = sampled(pairs.filter((pair) => which(pair) === kind), MOST_POINTS);
    return { type: "scatter", mode: "markers", name: kind === "neither" ? name : `q < ${data.stands_out}: ${name}`, showlegend: list.length > 0, x: list.map(([i]) => hits.strength[i]), y: list.map(([, j]) => hits.strength[j]), customdata: list.map(([i]) => i), text: list.map(([i]) => `${plain(symbolOf(i))}, ${plain(editOf(i))}, ${plain(strata[hits.stratum[i]])}`), hovertemplate: "%{text}<br>%{x:.3g} → %{y:.3g}<extra></extra>", marker: { symbol, color, size, opacity: 0.75 } };
  });
  const called = pairs.filter((pair) => which(pair) !== "neither").slice(0, 40);
  const annotations = names(called, pairs, { x: ([i]) => hits.strength[i], y: ([, j]) => hits.strength[j], logX: true, logY: true, text: ([i]) => symbolOf(i), place: "plot-times" });
  const all = pairs.flatMap(([i, j]) => [hits.strength[i], hits.strength[j]]).filter((x) => x > 0);
  const [low, high] = [Math.min(...sampled(all, 50000)), Math.max(...sampled(all, 50000))];
  const shapes = all.length ? [{ type: "line", x0: low, y0: low, x1: high, y1: high, line: { color: COLOURS.none, width: 1, dash: "dot" } }] : [];
  await draw("plot-times", traces, { shapes, annotations, xaxis: logAxis(`strength at ${timeName(first)}`, all), yaxis: logAxis(`strength at ${timeName(second)}`, all) },
    `Strength at ${timeName(first)} against ${timeName(second)}: ${pairs.length} results.`, (i) => showPerturbation(hits.perturbation[i], hits.stratum[i], null, true));
  at("caption-times").textContent = `The same perturbations at ${timeName(first)} and ${timeName(second)}; on the dotted line they are equally strong.${times.length > 2 ? " Other time points are in the table." : ""}`;
}
