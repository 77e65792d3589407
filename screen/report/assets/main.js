// Controls, addresses, and the order in which the page appears: tables first, figures when their library is there.
const ALL = "all";
const numberOf = (id) => (at(id).value === ALL ? null : Number(at(id).value));

function reveal(section, address) {
  history.replaceState(null, "", `#${address}`);
  at(section).scrollIntoView({ behavior: isStill ? "auto" : "smooth" });
  at(section).focus({ preventScroll: true });
}

function readControls() {
  Object.assign(chosen, { edit: numberOf("edit"), stratum: numberOf("stratum"), time: numberOf("time"), hitsOnly: at("hits-only").checked, once: nGroups > 1 && at("once").checked });
}

async function controlsChanged() {
  readControls();
  listHits();
  await drawRanking();
  if (isLoaded()) await drawTimes();
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
  choose("edit", listed(edits, (_, e) => editNames[e]), firstEdit());
  choose("stratum", listed(strata, (x) => x), strata.length > 1 ? ALL : 0);
  choose("time", listed(times, (_, t) => timeName(t)), times.length > 1 ? ALL : 0);
  for (const [id, list] of [["edit", edits], ["stratum", strata], ["time", times]]) at(id).closest("label").hidden = list.length < 2;
  at("once").closest("label").hidden = nGroups < 2;
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
  for (const id of ["edit", "stratum", "time", "hits-only", "once"]) at(id).addEventListener("change", controlsChanged);
  document.querySelectorAll("form").forEach((form) => form.addEventListener("submit", (event) => event.preventDefault()));
  at("search").addEventListener("input", soon(() => {
    chosen.search = at("search").value;
    listHits();
  }));
  at("choose-perturbation").addEventListener("input", soon(findPerturbation));
  at("perturbation-group").addEventListener("change", () => showGroup(Number(at("perturbation-group").value)));
  at("choose-gene")?.addEventListener("input", soon(findGene));
  at("map")?.addEventListener("change", () => drawMap(Number(at("map").value)));
  addEventListener("hashchange", followAddress);
  addEventListener("beforeprint", () => fitTo(true));
  addEventListener("afterprint", () => fitTo(false));
  matchMedia("print").addEventListener("change", ({ matches: isOn }) => fitTo(isOn));
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

// what the figures of the lower sections begin with
const strongest = () => [...Array(nHits).keys()].find((i) => !isNull(i) && matches(i)) ?? 0;

function listFirst() {
  const i = strongest();
  if (nHits) showPerturbation(hits.perturbation[i], hits.stratum[i], hits.time[i]);
  if (moversTable && genes.id.length) showGene(hits.up[i]?.[0] ?? hits.down[i]?.[0] ?? 0);
}

const painted = () => new Promise((done) => requestAnimationFrame(() => setTimeout(done, 0)));

const spare = () => new Promise((done) => (window.requestIdleCallback ? requestIdleCallback(done, { timeout: 300 }) : setTimeout(done, 0)));

// the section that the address asks for, or else the ranking, then the others when there is time
async function drawAll() {
  await spare();
  await loadPlotly();
  const draws = {
    ranking: drawRanking,
    times: drawTimes,
    perturbation: () => current.group !== null && showGroup(current.group),
    gene: () => current.gene !== null && showGene(current.gene),
    patterns: () => at("patterns") && drawMap(0),
  };
  const asked = location.hash.slice(1).split("=")[0];
  const order = Object.keys(draws).sort((a, b) => (b === asked) - (a === asked));
  for (const name of order) {
    await draws[name]();
    await spare();
  }
}

// milliseconds since the page was opened
function mark(what) {
  document.documentElement.setAttribute(`data-${what}`, Math.round(performance.now()));
}

fillControls();
readControls();
for (const id of ["ranking", "perturbation", "gene", "patterns"]) if (at(id)) at(id).hidden = false;
listHits();
listFirst();
listen();
followAddress();
await drawRanking();
if (at("patterns")) at("patterns").hidden = data.heat_maps.length === 0;
at("wait").hidden = false;
mark("ready");
await painted();
await drawAll();
at("wait").remove();
mark("drawn");
