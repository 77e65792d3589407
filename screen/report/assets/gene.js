// One gene that responds: which perturbations move it most.
const moversTable = data.has_counts ? new SortedTable("movers-table", "What moves the gene", [
  { title: "perturbation", value: (row) => perturbations.symbol[row.p], show: (row) => element("span", {}, element("button", { type: "button", class: "plain", onclick: () => showPerturbation(row.p, row.s, row.t, true) }, perturbations.symbol[row.p]), where(editNames[perturbations.edit[row.p]], nGroups > 1 && placeName(row.s, row.t))) },
  { title: "edit", wide: true, value: (row) => editNames[perturbations.edit[row.p]], show: (row) => editNames[perturbations.edit[row.p]] },
  { title: "stratum", wide: true, value: (row) => strata[row.s], show: (row) => strata[row.s] },
  { title: "time", number: true, rising: true, wide: true, value: (row) => times[row.t], show: (row) => timeName(row.t) },
  { title: "mean change", number: true, value: (row) => row.change, show: (row) => signed(row.change) },
  { title: "q", number: true, rising: true, value: (row) => row.q, show: (row) => digits(row.q, 2) },
].filter(({ title }) => (strata.length > 1 || title !== "stratum") && (times.length > 1 || title !== "time")), 12) : null;
if (moversTable) moversTable.isHit = (row) => row.q !== null && row.q < data.stands_out;

const BARS = 15;
const sameEdit = (rows) => new Set(rows.map((row) => perturbations.edit[row.p])).size < 2;

function findGene() {
  const wanted = at("choose-gene").value.trim().toLowerCase();
  const names = (g) => [genes.symbol[g].toLowerCase(), genes.id[g].toLowerCase()];
  const all = [...genes.id.keys()];
  const found = all.find((g) => names(g).includes(wanted)) ?? all.find((g) => names(g).some((name) => name.includes(wanted)));
  at("gene-answer").textContent = wanted === "" ? "" : found === undefined ? "the model predicts no gene that is called so" : `${genes.symbol[found]} is shown`;
  if (wanted !== "" && found !== undefined) showGene(found);
}

function showGene(gene, isAsked = false) {
  current.gene = gene;
  at("gene-name").textContent = `${genes.symbol[gene]} · ${genes.id[gene]}`;
  at("line-gene")?.replaceChildren(genes.symbol[gene]);
  const groups = data.movers.group[gene] ?? [];
  const rows = groups.map((group, k) => {
    const { p, s, t } = partsOf(group);
    const hit = hitOfGroup.get(group);
    return { p, s, t, change: data.movers.change[gene][k], q: hit === undefined ? null : hits.q_value[hit] };
  }).sort((a, b) => Math.abs(b.change) - Math.abs(a.change));
  moversTable.show(rows);
  const caption = rows.length ? `The ${data.movers.n_each} results of each edit that change ${genes.symbol[gene]} most, of those with a rank; the ${BARS} largest are drawn${rows.length && sameEdit(rows.slice(0, BARS)) ? `, all by ${editNames[perturbations.edit[rows[0].p]]}` : ""}. q is the perturbation's own; diamonds: q < ${data.stands_out}.` : `The table of genes has no change of ${genes.symbol[gene]}.`;
  at("caption-gene").textContent = caption;
  if (isLoaded()) drawMovers(gene, rows.slice(0, BARS).reverse());
  if (isAsked) reveal("gene", `gene=${encodeURIComponent(genes.symbol[gene])}`);
}

function drawMovers(gene, rows) {
  at("plot-gene").hidden = rows.length === 0;
  if (!rows.length) return;
  const isSame = sameEdit(rows);
  const label = (row) => [perturbations.symbol[row.p], ...(isSame ? [] : [editNames[perturbations.edit[row.p]]]), ...(nGroups > 1 ? [placeName(row.s, row.t)] : [])].join(" · ");
  const most = at("plot-gene").clientWidth < 420 ? 24 : 36;
  // the end says which stratum and time point, the start which perturbation
  const cut = (text) => (text.length > most ? `${text.slice(0, Math.ceil(most / 2) - 1)}…${text.slice(-Math.floor(most / 2))}` : text);
  const longest = Math.max(...rows.map((row) => widthOf(cut(label(row)))));
  draw("plot-gene", [{
    type: "bar", orientation: "h", x: rows.map((r) => r.change), y: rows.map((_, i) => i), customdata: rows.map((r) => [r.p, r.s, r.t]),
    text: rows.map((r) => plain(label(r))), textposition: "none", hovertemplate: "%{text}<br>change %{x:.3g}<extra></extra>",
    marker: { color: rows.map((r) => (r.change > 0 ? COLOURS.up : COLOURS.down)), pattern: { shape: rows.map((r) => (r.change > 0 ? "" : "/")) } },
  }], { margin: { ...MARGIN, l: 16 + longest }, xaxis: axis("mean change", { zeroline: true, zerolinecolor: "#8c959f", nticks: 6 }), yaxis: axis("", { tickmode: "array", tickvals: rows.map((_, i) => i), ticktext: rows.map((r) => plain(cut(label(r)))), tickfont: { size: 10 } }) },
  `What changes ${genes.symbol[gene]} most: ${rows.length} bars; the table has the same numbers.`, { onPoint: ([p, s, t]) => showPerturbation(p, s, t, true) });
}
