// One gene that responds: which perturbations move it most.
const moversTable = data.has_counts ? new SortedTable("movers-table", "What moves the gene", [
  { title: "perturbation", value: (row) => perturbations.symbol[row.p], show: (row) => element("button", { type: "button", class: "plain", onclick: () => showPerturbation(row.p, row.s, row.t, true) }, perturbations.symbol[row.p]) },
  { title: "edit", value: (row) => edits[perturbations.edit[row.p]], show: (row) => edits[perturbations.edit[row.p]] },
  { title: "stratum", wide: true, value: (row) => strata[row.s], show: (row) => strata[row.s] },
  { title: "time", number: true, rising: true, wide: true, value: (row) => times[row.t], show: (row) => timeName(row.t) },
  { title: "mean change", number: true, value: (row) => row.change, show: (row) => signed(row.change) },
  { title: "q", number: true, rising: true, value: (row) => row.q, show: (row) => digits(row.q, 2) },
], 12) : null;

function findGene() {
  const wanted = at("choose-gene").value.trim().toLowerCase();
  const names = (g) => [genes.symbol[g].toLowerCase(), genes.id[g].toLowerCase()];
  const all = [...genes.id.keys()];
  const found = all.find((g) => names(g).includes(wanted)) ?? all.find((g) => names(g).some((name) => name.includes(wanted)));
  at("gene-answer").textContent = wanted !== "" && found === undefined ? "the model predicts no gene that is called so" : "";
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
  const caption = rows.length ? `The ${data.movers.n_each} results of each edit that change ${genes.symbol[gene]} most, of those with a rank; the 15 largest are drawn. q is the perturbation's own.` : `The table of genes has no change of ${genes.symbol[gene]}.`;
  at("caption-gene").textContent = caption;
  if (isLoaded()) drawMovers(gene, rows.slice(0, 15).reverse());
  if (isAsked) reveal("gene", `gene=${encodeURIComponent(genes.symbol[gene])}`);
}

function drawMovers(gene, rows) {
  at("plot-gene").hidden = rows.length === 0;
  if (!rows.length) return;
  const label = (row) => `${perturbations.symbol[row.p]} ${edits[perturbations.edit[row.p]]}${strata.length * times.length > 1 ? ` ${placeName(row.s, row.t)}` : ""}`;
  const most = at("plot-gene").clientWidth < 420 ? 20 : 34;
  const short = (text) => (text.length > most ? `${text.slice(0, most - 1)}…` : text);
  draw("plot-gene", [{
    type: "bar", orientation: "h", x: rows.map((r) => r.change), y: rows.map((_, i) => i), customdata: rows.map((r) => [r.p, r.s, r.t]),
    text: rows.map((r) => plain(label(r))), textposition: "none", hovertemplate: "%{text}<br>change %{x:.3g}<extra></extra>",
    marker: { color: rows.map((r) => (r.change > 0 ? COLOURS.up : COLOURS.down)), pattern: { shape: rows.map((r) => (r.change > 0 ? "" : "/")) } },
  }], { xaxis: axis(`mean change of ${genes.symbol[gene]}`, { zeroline: true, zerolinecolor: "#8c959f" }), yaxis: axis("", { tickmode: "array", tickvals: rows.map((_, i) => i), ticktext: rows.map((r) => plain(short(label(r)))), tickfont: { size: 10 } }) },
  `What changes ${genes.symbol[gene]} most: ${rows.length} bars; the table has the same numbers.`, ([p, s, t]) => showPerturbation(p, s, t, true));
}
