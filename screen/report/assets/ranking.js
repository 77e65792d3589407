// The ranking: strength against what it depends on, and the table of hits.
const MOST_POINTS = 1000;
const nGroups = strata.length * times.length;
const chosen = { edit: null, stratum: null, time: null, hitsOnly: false, once: false, search: "" };

function matches(i) {
  return (chosen.edit === null || perturbations.edit[hits.perturbation[i]] === chosen.edit)
    && (chosen.stratum === null || hits.stratum[i] === chosen.stratum)
    && (chosen.time === null || hits.time[i] === chosen.time);
}

// "mask, B cells, all time points": what the figures show
function chosenWords() {
  const said = [chosen.edit === null ? "all edits" : editNames[chosen.edit]];
  if (strata.length > 1) said.push(chosen.stratum === null ? "all strata" : strata[chosen.stratum]);
  if (times.length > 1) said.push(chosen.time === null ? "all time points" : timeName(chosen.time));
  return said.join(", ");
}

// genes of the edit in a cell of the stratum, mean: for one gene the share of cells that have it
const presence = (i) => hits.coverage[i] * hits.n_edited[i];

function isFound(i) {
  const p = hits.perturbation[i];
  const wanted = chosen.search.trim().toLowerCase();
  return wanted === "" || [perturbations.symbol[p], perturbations.target[p], perturbations.id[p]].some((name) => name.toLowerCase().includes(wanted));
}

// perturbation -> in how many strata and time points it stands out, and has a rank
const standing = new Map();
for (const [p, listed] of hitsOfPerturbation) standing.set(p, [listed.filter(isHit).length, listed.filter((i) => hits.rank[i] !== null).length]);
const standingOf = (i) => standing.get(hits.perturbation[i]);

// on a phone the columns that say where have no room: what they say stands below the name
const where = (...words) => element("span", { class: "narrow" }, words.filter(Boolean).join(" · "));

const hitsTable = new SortedTable("hits-table", "Perturbations, strongest first", [
  { title: "#", number: true, rising: true, value: (i) => hits.rank[i], show: (i) => whole(hits.rank[i]) },
  { title: "gene", value: symbolOf, show: (i) => element("span", {}, perturbationButton(i), where(edits.length > 1 && editOf(i), nGroups > 1 && groupName(i))) },
  { title: "edit", wide: true, value: editOf, show: editOf },
  { title: "stratum", wide: true, value: (i) => strata[hits.stratum[i]], show: (i) => strata[hits.stratum[i]] },
  { title: "time", number: true, rising: true, wide: true, value: (i) => times[hits.time[i]], show: (i) => timeName(hits.time[i]) },
  { title: "stands out in", number: true, wide: true, value: (i) => standingOf(i)[0], show: (i) => `${standingOf(i)[0]} of ${standingOf(i)[1]}` },
  { title: "cells", number: true, wide: true, value: (i) => hits.n_cells[i], show: (i) => whole(hits.n_cells[i]) },
  { title: "strength", number: true, value: (i) => hits.strength[i], show: (i) => digits(hits.strength[i]) },
  { title: "q", number: true, rising: true, value: (i) => hits.q_value[i], show: (i) => digits(hits.q_value[i], 2) },
  { title: "z", number: true, wide: true, value: (i) => hits.null_z[i], show: (i) => digits(hits.null_z[i], 2) },
  { title: "changed genes", number: true, wide: true, value: (i) => hits.n_deg[i], show: (i) => whole(hits.n_deg[i]) },
  { title: "strongest changes", wide: true, value: (i) => changesOf(i, 3), show: (i) => changesOf(i, 3) },
].filter(({ title }) => (data.has_counts || !["changed genes", "strongest changes"].includes(title))
  && (strata.length > 1 || title !== "stratum") && (times.length > 1 || title !== "time") && (edits.length > 1 || title !== "edit")
  && (nGroups > 1 || title !== "stands out in")), 20);
hitsTable.isHit = isHit;

function perturbationButton(i) {
  return element("button", { type: "button", class: "plain", onclick: () => showPerturbation(hits.perturbation[i], hits.stratum[i], hits.time[i], true) }, symbolOf(i));
}

function changesOf(i, n) {
  const named = (list, sign) => list.slice(0, n).map((g) => `${sign}${genes.symbol[g]}`);
  return [...named(hits.up[i], "+"), ...named(hits.down[i], "−")].join(" ");
}

function listHits() {
  const seen = new Set();
  const isFirst = (i) => !chosen.once || (!seen.has(hits.perturbation[i]) && seen.add(hits.perturbation[i]));
  hitsTable.show([...Array(nHits).keys()].filter((i) => matches(i) && !isNull(i) && isFound(i) && (!chosen.hitsOnly || isHit(i)) && isFirst(i)));
}

async function drawRanking() {
  const there = [...Array(nHits).keys()].filter((i) => matches(i) && hits.strength[i] > 0);
  const own = there.filter((i) => !isNull(i));
  const others = own.filter((i) => !isHit(i));
  const kinds = {
    none: sampled(there.filter(isNull), MOST_POINTS / 2),
    own: [...others.slice(0, MOST_POINTS / 2), ...sampled(others.slice(MOST_POINTS / 2), MOST_POINTS / 2)],
    hit: own.filter(isHit).slice(0, MOST_POINTS),
  };
  const called = own.filter(isHit);
  const label = (called.length ? called : own.filter((i) => hits.rank[i] !== null)).slice(0, 60);
  const isShare = own.every((i) => !(presence(i) > 1));
  await drawStrength("rank", (i) => hits.rank_position[i], "mean rank of the gene (0: highest)", kinds, label, own.length);
  await drawStrength("presence", presence, isShare ? "share of cells that have the gene" : "edited genes in a cell, mean", kinds, label, own.length);
}

const TITLES = { none: "null genes, drawn to judge by", own: "screened", hit: `stands out, q < ${data.stands_out}` };

async function drawStrength(name, x, title, kinds, label, nAll) {
  const place = `plot-${name}`;
  const isThere = (i) => x(i) !== null;
  const traces = Object.entries(kinds).map(([kind, list]) => {
    const points = list.filter(isThere);
    return {
      type: "scatter", mode: "markers", name: TITLES[kind],
      x: points.map(x), y: points.map((i) => hits.strength[i]), customdata: points,
      text: points.map((i) => `${plain(symbolOf(i))}, ${plain(editOf(i))}, ${plain(groupName(i))}<br>strength ${digits(hits.strength[i])}, q ${digits(hits.q_value[i], 2)}, ${whole(hits.n_cells[i])} cells`),
      hovertemplate: "%{text}<extra></extra>",
      marker: { color: COLOURS[kind], symbol: SYMBOLS[kind], size: kind === "hit" ? 9 : 5, opacity: kind === "hit" ? 0.9 : 0.55 },
    };
  });
  const all = Object.values(kinds).flat().filter(isThere);
  const nOwn = kinds.own.filter(isThere).length + kinds.hit.filter(isThere).length;
  const names = label.filter(isThere).map((i) => ({ x: x(i), y: hits.strength[i], text: symbolOf(i) }));
  await draw(place, traces, { xaxis: axis(title, { range: spread(all.map(x)) }), yaxis: logAxis("strength", all.map((i) => hits.strength[i])) },
    `Strength against ${title}, ${chosenWords()}: ${all.length} points. The table below has the same numbers.`,
    { onPoint: (i) => showPerturbation(hits.perturbation[i], hits.stratum[i], hits.time[i], true), names });
  const lost = nAll > nOwn ? ` ${whole(nOwn)} of ${whole(nAll)} results are drawn: the strongest, and a sample of the others${name === "rank" ? "; genes that no cell had have no place" : ""}.` : "";
  const meaning = name === "rank" ? "how high the edited gene ranks in its cells: high genes move more whatever they are" : "how often the edited genes are there";
  at(`caption-${name}`).textContent = `Strength against ${meaning}. Shown: ${chosenWords()}.${lost}`;
}
