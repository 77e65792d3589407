// The ranking: strength against what it depends on, and the table of hits.
const MOST_POINTS = 1200;
const chosen = { edit: null, stratum: null, time: null, hitsOnly: false, search: "" };

function matches(i) {
  return (chosen.edit === null || perturbations.edit[hits.perturbation[i]] === chosen.edit)
    && (chosen.stratum === null || hits.stratum[i] === chosen.stratum)
    && (chosen.time === null || hits.time[i] === chosen.time);
}

// genes of the edit in a cell of the stratum, mean: for one gene the share of cells that have it
const presence = (i) => hits.coverage[i] * hits.n_edited[i];

function isFound(i) {
  const p = hits.perturbation[i];
  const wanted = chosen.search.trim().toLowerCase();
  return wanted === "" || [perturbations.symbol[p], perturbations.target[p], perturbations.id[p]].some((name) => name.toLowerCase().includes(wanted));
}

const hitsTable = new SortedTable("hits-table", "Hits", [
  { title: "#", number: true, rising: true, value: (i) => hits.rank[i], show: (i) => whole(hits.rank[i]) },
  { title: "gene", value: symbolOf, show: (i) => element("button", { type: "button", class: "plain", onclick: () => showPerturbation(hits.perturbation[i], hits.stratum[i], hits.time[i], true) }, symbolOf(i)) },
  { title: "edit", wide: true, value: editOf, show: editOf },
  { title: "stratum", value: (i) => strata[hits.stratum[i]], show: (i) => strata[hits.stratum[i]] },
  { title: "time", number: true, rising: true, value: (i) => times[hits.time[i]], show: (i) => timeName(hits.time[i]) },
  { title: "cells", number: true, wide: true, value: (i) => hits.n_cells[i], show: (i) => whole(hits.n_cells[i]) },
  { title: "strength", number: true, value: (i) => hits.strength[i], show: (i) => digits(hits.strength[i]) },
  { title: "q", number: true, rising: true, value: (i) => hits.q_value[i], show: (i) => digits(hits.q_value[i], 2) },
  { title: "z", number: true, wide: true, value: (i) => hits.null_z[i], show: (i) => digits(hits.null_z[i], 2) },
  { title: "changed genes", number: true, wide: true, value: (i) => hits.n_deg[i], show: (i) => whole(hits.n_deg[i]) },
  { title: "strongest changes", wide: true, value: (i) => changesOf(i, 3), show: (i) => changesOf(i, 3) },
].filter(({ title }) => (data.has_counts || !["changed genes", "strongest changes"].includes(title))
  && (strata.length > 1 || title !== "stratum") && (times.length > 1 || title !== "time") && (edits.length > 1 || title !== "edit")), 20);
hitsTable.isHit = isHit;

function changesOf(i, n) {
  const named = (list, sign) => list.slice(0, n).map((g) => `${sign}${genes.symbol[g]}`);
  return [...named(hits.up[i], "+"), ...named(hits.down[i], "−")].join(" ");
}

function listHits() {
  hitsTable.show([...Array(nHits).keys()].filter((i) => matches(i) && !isNull(i) && isFound(i) && (!chosen.hitsOnly || isHit(i))));
}

async function drawRanking() {
  const there = [...Array(nHits).keys()].filter(matches);
  const own = there.filter((i) => !isNull(i));
  const kinds = {
    none: sampled(there.filter(isNull), MOST_POINTS / 2),
    own: [...own.filter((i) => !isHit(i)).slice(0, MOST_POINTS / 2), ...sampled(own.filter((i) => !isHit(i)).slice(MOST_POINTS / 2), MOST_POINTS / 2)],
    hit: own.filter(isHit).slice(0, MOST_POINTS),
  };
  const called = own.filter(isHit);
  const label = (called.length ? called : own.filter((i) => hits.rank[i] !== null)).slice(0, 60);
  await Promise.all([
    drawStrength("rank", (i) => hits.rank_position[i], "mean rank of the gene (0: highest expressed)", kinds, label, own.length),
    drawStrength("presence", presence, "genes of the edit there, per cell", kinds, label, own.length),
  ]);
  await drawTimes();
}

const TITLES = { none: "null genes", own: "asked for", hit: `q < ${data.stands_out}` };

async function drawStrength(name, x, title, kinds, label, nAll) {
  const place = `plot-${name}`;
  const isThere = (i) => x(i) !== null && hits.strength[i] > 0;
  const traces = Object.entries(kinds).map(([kind, list]) => {
    const points = list.filter(isThere);
    return {
      type: "scatter", mode: "markers", name: TITLES[kind], showlegend: points.length > 0,
      x: points.map(x), y: points.map((i) => hits.strength[i]), customdata: points,
      text: points.map((i) => `${plain(symbolOf(i))}, ${plain(editOf(i))}, ${plain(placeName(hits.stratum[i], hits.time[i]))}<br>strength ${digits(hits.strength[i])}, q ${digits(hits.q_value[i], 2)}, ${whole(hits.n_cells[i])} cells`),
      hovertemplate: "%{text}<extra></extra>",
      marker: { color: COLOURS[kind], symbol: SYMBOLS[kind], size: kind === "hit" ? 9 : 5, opacity: kind === "hit" ? 1 : 0.55 },
    };
  });
  const n = traces.reduce((sum, trace) => sum + trace.x.length, 0);
  const nOwn = kinds.own.filter(isThere).length + kinds.hit.filter(isThere).length;
  const all = Object.values(kinds).flat().filter(isThere);
  const strength = (i) => hits.strength[i];
  const annotations = names(label.filter(isThere), all, { x, y: strength, logY: true, text: symbolOf, place });
  await draw(place, traces, { xaxis: axis(title), yaxis: logAxis("strength", all.map(strength)), annotations },
    `Strength against ${title}: ${n} points. The table below has the same numbers.`,
    (i) => showPerturbation(hits.perturbation[i], hits.stratum[i], hits.time[i], true));
  const lost = nAll > nOwn ? ` ${whole(nOwn)} of ${whole(nAll)} results are drawn: the strongest, and a sample of the others${name === "rank" ? "; genes that no cell had have no place" : ""}.` : "";
  const meaning = name === "rank" ? "the mean place of the edited gene in the cell's row" : "detection: how many of the edit's genes a cell of the stratum has, on average";
  at(`caption-${name}`).textContent = `Strength against ${meaning}. Diamonds: q < ${data.stands_out}; open grey: null genes.${lost}`;
}
