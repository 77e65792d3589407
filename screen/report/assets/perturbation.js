// One perturbation: where it is strong, which genes, gene sets and cells it moves.
const detailOf = placesByGroup(data.details.group);
const stripOf = placesByGroup(data.strips.group);
const setsOf = placesByGroup(data.sets === null ? [] : data.sets.group);
const shiftOf = placesByGroup(data.rank_shifts.group);
const current = { perturbation: null, group: null, gene: null };

const groupsTable = new SortedTable("perturbation-groups", "The perturbation in every stratum and time point", [
  { title: "stratum", value: (i) => strata[hits.stratum[i]], show: (i) => strata[hits.stratum[i]] },
  { title: "time", number: true, rising: true, value: (i) => times[hits.time[i]], show: (i) => timeName(hits.time[i]) },
  { title: "strength", number: true, value: (i) => hits.strength[i], show: (i) => digits(hits.strength[i]) },
  { title: "#", number: true, rising: true, value: (i) => hits.rank[i], show: (i) => whole(hits.rank[i]) },
  { title: "q", number: true, rising: true, value: (i) => hits.q_value[i], show: (i) => digits(hits.q_value[i], 2) },
  { title: "cells", number: true, value: (i) => hits.n_cells[i], show: (i) => whole(hits.n_cells[i]) },
  { title: "on-target change", number: true, wide: true, value: onTarget, show: (i) => (onTarget(i) === null ? "–" : signed(onTarget(i))) },
  { title: "like all edits (cosine)", number: true, wide: true, value: (i) => hits.universal_cosine[i], show: (i) => digits(hits.universal_cosine[i], 2) },
  { title: "strongest changes", wide: true, value: (i) => changesOf(i, 4), show: (i) => changesOf(i, 4) },
].filter(({ title }) => data.has_counts || !["strongest changes", "on-target change", "like all edits (cosine)"].includes(title)), 10);
groupsTable.isHit = isHit;

function onTarget(i) {
  const place = detailOf.get(groupOf(hits.perturbation[i], hits.stratum[i], hits.time[i]));
  return place === undefined ? null : data.details.on_target[place[0]];
}

const genesTable = new SortedTable("genes-table", "Genes that change most", [
  { title: "gene", value: (row) => genes.symbol[row.gene], show: (row) => element("button", { type: "button", class: "plain", onclick: () => showGene(row.gene, true) }, genes.symbol[row.gene]) },
  { title: "Ensembl ID", wide: true, value: (row) => genes.id[row.gene], show: (row) => genes.id[row.gene] },
  { title: "mean change", number: true, value: (row) => row.change, show: (row) => signed(row.change) },
  { title: "null z", number: true, value: (row) => row.z, show: (row) => digits(row.z) },
  { title: "fdr", number: true, rising: true, value: (row) => (row.fdr === null ? null : -row.fdr), show: (row) => (row.fdr === null ? "–" : digits(10 ** -row.fdr, 2)) },
].filter(({ title }) => data.details.null_z !== undefined || title !== "null z"), 12);

const setsTable = new SortedTable("sets-table", "Gene sets that shift", [
  { title: "gene set", value: (row) => row.name, show: (row) => row.name },
  { title: "genes", number: true, wide: true, value: (row) => row.n, show: (row) => whole(row.n) },
  { title: "z", number: true, value: (row) => row.z, show: (row) => digits(row.z, 2) },
  { title: "q", number: true, rising: true, value: (row) => row.q, show: (row) => digits(row.q, 2) },
], 12);
setsTable.isHit = (row) => row.q !== null && row.q < data.stands_out;

// numbers of the perturbations that a text names: exactly, or else as a part of a name
function perturbationsNamed(text) {
  const wanted = text.trim().toLowerCase();
  if (wanted === "") return [];
  const named = (isIt) => [...hitsOfPerturbation.keys()].filter((p) => [perturbations.id[p], perturbations.symbol[p], perturbations.target[p]].some((name) => isIt(name.toLowerCase())));
  const exact = named((name) => name === wanted);
  return exact.length ? exact : named((name) => name.includes(wanted));
}

function findPerturbation() {
  const found = perturbationsNamed(at("choose-perturbation").value);
  const shown = found.length ? `${nameOf(found[0])} is shown` : "no perturbation of this screen is called so";
  const text = found.length > 1 ? `${shown}, the strongest of ${found.length} that match; the table above finds all` : shown;
  at("perturbation-answer").textContent = at("choose-perturbation").value.trim() === "" ? "" : text;
  if (found.length) showPerturbation(found[0]);
}

const nameOf = (p) => `${perturbations.symbol[p]} · ${editNames[perturbations.edit[p]]}`;

function showPerturbation(p, s = null, t = null, isAsked = false) {
  const listed = hitsOfPerturbation.get(p) ?? [];
  const isNear = (i) => (s === null || hits.stratum[i] === s) && (t === null || hits.time[i] === t);
  const best = listed.find(isNear) ?? listed[0];
  current.perturbation = p;
  at("perturbation-name").textContent = nameOf(p);
  const known = [perturbations.target[p] === perturbations.symbol[p] ? null : perturbations.target[p], perturbations.id[p], perturbations.isNull[p] ? "a null perturbation" : null];
  const hidden = isShown.has(p) ? "" : ` Its genes, gene sets and cells are not in this page, which holds ${whole(data.shown.length)} perturbations; see "Every number".`;
  at("perturbation-words").textContent = `${known.filter((x) => x !== null).join(" · ")}.${hidden}`;
  groupsTable.show(listed);
  at("line-perturbation")?.replaceChildren(perturbations.id[p]);
  at("perturbation-detail").hidden = !isShown.has(p);
  if (isShown.has(p)) {
    const options = listed.map((i) => [groupOf(p, hits.stratum[i], hits.time[i]), placeName(hits.stratum[i], hits.time[i])]);
    choose("perturbation-group", options, groupOf(p, hits.stratum[best], hits.time[best]));
    at("perturbation-group").closest("form").hidden = options.length < 2;
    showGroup(groupOf(p, hits.stratum[best], hits.time[best]));
  }
  if (isAsked) reveal("perturbation", `perturbation=${encodeURIComponent(perturbations.id[p])}`);
}

function showGroup(group) {
  current.group = group;
  const { p, s, t } = partsOf(group);
  const [place] = detailOf.get(group) ?? [];
  const rows = place === undefined ? [] : data.details.gene[place].map((gene, k) => ({ gene, change: data.details.change[place][k], fdr: data.details.fdr[place][k], z: data.details.null_z?.[place][k] ?? null }));
  genesTable.show(rows.slice(0, place !== undefined && rows.length < data.details.n_genes[place] ? data.details.n_top : rows.length));
  const sets = (setsOf.get(group) ?? []).map((i) => ({ name: data.sets.names[data.sets.set[i]], n: data.sets.n_set[i], z: data.sets.z[i] ?? data.sets.score[i], q: data.sets.q[i] }));
  if (data.sets === null) replace("sets-table", element("p", { class: "hint" }, "No gene sets were tested; perturbscreen deg DIR --gene-sets FILE.gmt does."));
  else setsTable.show(sets);
  showRankShift(group);
  if (!isLoaded()) return;
  drawVolcano(group, rows, place, `${perturbations.symbol[p]}, ${placeName(s, t)}`);
  drawCells(p);
}

function drawVolcano(group, rows, place, title) {
  at("plot-volcano").parentElement.hidden = rows.length === 0;
  if (!rows.length) return;
  const hasFdr = rows.some((row) => row.fdr !== null);
  const y = (row) => (hasFdr ? row.fdr : Math.abs(row.change));
  const known = rows.filter((row) => y(row) !== null && row.change !== null);
  const isChanged = (row) => hasFdr && row.fdr > -Math.log10(0.05) && Math.abs(row.change) > 0.01;
  const kinds = { none: known.filter((row) => !isChanged(row)), up: known.filter((row) => isChanged(row) && row.change > 0), down: known.filter((row) => isChanged(row) && row.change < 0) };
  const traces = Object.entries(kinds).filter(([, list]) => list.length).map(([kind, list]) => ({
    type: "scatter", mode: "markers", name: { none: "other", up: "up", down: "down" }[kind], x: list.map((r) => r.change), y: list.map(y), customdata: list.map((r) => r.gene),
    text: list.map((r) => `${plain(genes.symbol[r.gene])}<br>change ${signed(r.change)}, fdr ${r.fdr === null ? "–" : digits(10 ** -r.fdr, 2)}`), hovertemplate: "%{text}<extra></extra>",
    marker: { color: COLOURS[kind], symbol: { none: "circle-open", up: "triangle-up", down: "triangle-down" }[kind], size: kind === "none" ? 4 : 7, opacity: 0.8 },
  }));
  const yTitle = hasFdr ? "−log10 fdr" : "size of the change (no p)";
  const names = [...known].sort((a, b) => Math.abs(b.change) - Math.abs(a.change)).slice(0, 40).map((r) => ({ x: r.change, y: y(r), text: genes.symbol[r.gene] }));
  draw("plot-volcano", traces, { xaxis: axis("mean change (log1p CP10K)", { range: spread(known.map((r) => r.change), false, 0.12), zeroline: true, zerolinecolor: "#8c959f" }), yaxis: axis(yTitle, { range: spread([0, ...known.map(y)]) }) },
    `Volcano of ${title}: ${known.length} genes. The table of genes has the same numbers.`, { onPoint: (gene) => showGene(gene, true), names });
  const n = data.details.n_genes[place];
  const cut = rows.length < n ? ` ${whole(rows.length)} of ${whole(n)} genes are drawn: the ${whole(data.details.n_top)} that change most and a sample of the others.` : "";
  at("caption-volcano").textContent = `Genes of ${title}: mean change against false discovery rate; triangles: fdr < 0.05 and a change above 0.01.${cut}`;
}

function drawCells(p) {
  const groups = (hitsOfPerturbation.get(p) ?? []).map((i) => groupOf(p, hits.stratum[i], hits.time[i])).filter((g) => stripOf.has(g));
  at("plot-cells").parentElement.hidden = groups.length === 0;
  if (!groups.length) return;
  const title = (group) => short(placeName(partsOf(group).s, partsOf(group).t), isNarrow() ? 16 : 26);
  const traces = groups.map((group, k) => ({
    type: "box", x: data.strips.value[stripOf.get(group)[0]], name: String(k), boxpoints: "all", jitter: 0.6, pointpos: 0, fillcolor: "rgba(0,0,0,0)",
    line: { color: COLOURS.none, width: 1 }, marker: { color: COLOURS.own, size: 5, opacity: 0.6 }, hovertemplate: "%{x:.3g}<extra></extra>",
  })).reverse();
  const isCut = groups.some((g) => data.strips.value[stripOf.get(g)[0]].length < data.strips.n_cells[stripOf.get(g)[0]]);
  const longest = Math.max(...groups.map((g) => widthOf(title(g))));
  // tall enough for every name
  at("plot-cells").style.height = groups.length > 14 ? `${6 + 1.25 * groups.length}rem` : "";
  draw("plot-cells", traces, {
    margin: { ...MARGIN, l: 18 + longest }, xaxis: axis(data.has_counts ? "change of a cell (rms)" : "shift of a cell (1 − cosine)", { rangemode: "tozero", nticks: 6 }),
    yaxis: axis("", { type: "category", tickvals: groups.map((_, k) => String(k)), ticktext: groups.map((g) => plain(title(g))), tickfont: { size: 11 } }),
  }, `How far each cell moves, by stratum and time point: ${groups.length} groups.`);
  at("caption-cells").textContent = `How far each cell moves${data.has_counts ? ": root mean square change over genes" : ""}; one point is one cell, boxes have the quartiles.${isCut ? " Of large groups an even sample from least to most moved is drawn." : ""}`;
}

function showRankShift(group) {
  const [place] = shiftOf.get(group) ?? [];
  if (place === undefined) return replace("rank-shift");
  const found = data.rank_shifts;
  const named = found.gene[place].map((gene, k) => `${genes.symbol[gene]} ${signed(found.change[place][k], 2)}`).join(", ");
  replace("rank-shift", element("h4", {}, "Deletion minus padding"), element("p", {},
    `Deleting moves the cell by ${digits(found.deleted[place])}, a pad in the gene's place by ${digits(found.padded[place])}; the difference, ${digits(found.difference[place])}, is only everybody behind it moving up a rank. It moves most: ${named}.`));
}
