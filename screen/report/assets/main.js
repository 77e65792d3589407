// Controls, addresses, and the order in which the page appears: tables first, figures when their library is there.
const ALL = "all";
const numberOf = (id) => (at(id).value === ALL ? null : Number(at(id).value));

function reveal(section, address) {
  history.replaceState(null, "", `#${address}`);
  at(section).scrollIntoView({ behavior: isStill ? "auto" : "smooth" });
  at(section).focus({ preventScroll: true });
}

function readControls() {
  Object.assign(chosen, { edit: numberOf("edit"), stratum: numberOf("stratum"), time: numberOf("time"), hitsOnly: at("hits-only").checked });
}

async function controlsChanged() {
  readControls();
  await drawRanking();
}

// the edit with most hits, or else the first in the ranking
function firstEdit() {
  const tally = edits.map(() => 0);
  for (let i = 0; i < nHits; i++) if (isHit(i)) tally[perturbations.edit[hits.perturbation[i]]] += 1;
  const most = Math.max(...tally);
  const best = [...Array(nHits).keys()].find((i) => !isNull(i));
  return most > 0 ? tally.indexOf(most) : best === undefined ? 0 : perturbations.edit[hits.perturbation[best]];
}

function fillControls() {
  const listed = (list, name) => [...(list.length > 1 ? [[ALL, "all"]] : []), ...list.map((x, i) => [i, name(x, i)])];
  choose("edit", listed(edits, (x) => x), firstEdit());
  choose("stratum", listed(strata, (x) => x), strata.length > 1 ? ALL : 0);
  choose("time", listed(times, (_, t) => timeName(t)), times.length > 1 ? ALL : 0);
  for (const [id, list] of [["edit", edits], ["stratum", strata], ["time", times]]) at(id).closest("label").hidden = list.length < 2;
  at("perturbation-list").replaceChildren(...data.shown.slice(0, 300).map((p) => element("option", { value: perturbations.id[p] }, perturbations.symbol[p])));
  at("gene-list")?.replaceChildren(...genes.symbol.slice(0, 2000).map((name) => element("option", { value: name })));
  if (at("map")) choose("map", data.heat_maps.map((map, i) => [i, nameOfMap(map)]), 0);
}

let waiting = 0;
function soon(act) {
  return () => {
    clearTimeout(waiting);
    waiting = setTimeout(act, 150);
  };
}

function listen() {
  for (const id of ["edit", "stratum", "time", "hits-only"]) at(id).addEventListener("change", controlsChanged);
  document.querySelectorAll("form").forEach((form) => form.addEventListener("submit", (event) => event.preventDefault()));
  at("search").addEventListener("input", soon(() => {
    chosen.search = at("search").value;
    hitsTable.show([...Array(nHits).keys()].filter((i) => matches(i) && !isNull(i) && isFound(i) && (!chosen.hitsOnly || isHit(i))));
  }));
  at("choose-perturbation").addEventListener("input", soon(findPerturbation));
  at("perturbation-group").addEventListener("change", () => showGroup(Number(at("perturbation-group").value)));
  at("choose-gene")?.addEventListener("input", soon(findGene));
  at("map")?.addEventListener("change", () => drawMap(Number(at("map").value)));
  addEventListener("hashchange", followAddress);
}

function followAddress() {
  const [what, text] = decodeURIComponent(location.hash.slice(1)).split(/=(.*)/s);
  if (what === "perturbation" && text) {
    const [p] = perturbationsNamed(text);
    if (p !== undefined) showPerturbation(p, null, null, true);
  } else if (what === "gene" && text && moversTable) {
    const g = genes.symbol.indexOf(text);
    if (g >= 0) showGene(g, true);
  }
}

const shown = (i) => !isNull(i) && matches(i);
const idle = () => new Promise((done) => setTimeout(done, 0));

fillControls();
readControls();
for (const id of ["ranking", "perturbation", "gene", "patterns"]) if (at(id)) at(id).hidden = false;
await loadPlotly();
at("wait").remove();
listen();
await drawRanking();
// ready to be used; what lies further down is drawn while one looks
document.documentElement.setAttribute("data-ready", "");
await idle();
const strongest = [...Array(nHits).keys()].find(shown) ?? 0;
if (nHits && current.perturbation === null) showPerturbation(hits.perturbation[strongest], hits.stratum[strongest], hits.time[strongest]);
await idle();
if (moversTable && genes.id.length) {
  if (current.gene === null) showGene(hits.up[strongest]?.[0] ?? hits.down[strongest]?.[0] ?? 0);
  at("patterns").hidden = data.heat_maps.length === 0;
  await idle();
  await drawMap(0);
}
followAddress();
document.documentElement.setAttribute("data-drawn", "");
