// What the page holds, and what its numbers stand for.
const at = (id) => document.getElementById(id);

async function unpacked(id) {
  const text = atob(at(id).textContent);
  const bytes = new Uint8Array(text.length);
  for (let i = 0; i < text.length; i++) bytes[i] = text.charCodeAt(i);
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Response(stream).text();
}

const data = JSON.parse(await unpacked("data"));
const { perturbations, edits, genes, strata, times, hits } = data;
const nHits = hits.perturbation.length;
const timeName = (t) => (times[t] === 0 ? "source" : `t${times[t]}`);

function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key.startsWith("on")) made.addEventListener(key.slice(2), value);
    else if (value !== null && value !== undefined && value !== false) made.setAttribute(key, value === true ? "" : value);
  }
  // text nodes only: a name is never markup
  made.append(...children.map((c) => (c instanceof Node ? c : document.createTextNode(String(c)))));
  return made;
}

function replace(place, ...children) {
  at(place).replaceChildren(...children);
}

// "0.0123", "4.2e-7", "-" for what is not known
function digits(x, n = 3) {
  if (x === null || x === undefined) return "–";
  if (x !== 0 && (Math.abs(x) < 1e-4 || Math.abs(x) >= 1e6)) return x.toExponential(n - 1).replace("-", "−").replace("e−", "e-");
  return String(Number(x.toPrecision(n))).replace("-", "−");
}
const whole = (x) => (x === null || x === undefined ? "–" : x.toLocaleString("en"));
const signed = (x, n = 3) => (x > 0 ? "+" : "") + digits(x, n);

// a group is a perturbation in a stratum at a time point
function groupOf(p, s, t) {
  return (p * strata.length + s) * times.length + t;
}
function partsOf(group) {
  const t = group % times.length;
  const rest = (group - t) / times.length;
  return { p: Math.floor(rest / strata.length), s: rest % strata.length, t };
}
function placesByGroup(groups) {
  const found = new Map();
  groups.forEach((g, i) => (found.has(g) ? found.get(g).push(i) : found.set(g, [i])));
  return found;
}

const hitOfGroup = new Map();
const hitsOfPerturbation = new Map();
for (let i = 0; i < nHits; i++) {
  const p = hits.perturbation[i];
  hitOfGroup.set(groupOf(p, hits.stratum[i], hits.time[i]), i);
  if (!hitsOfPerturbation.has(p)) hitsOfPerturbation.set(p, []);
  hitsOfPerturbation.get(p).push(i);
}
const isNull = (i) => perturbations.isNull[hits.perturbation[i]] === 1;
const isHit = (i) => !isNull(i) && hits.rank[i] !== null && hits.q_value[i] !== null && hits.q_value[i] < data.stands_out;
const symbolOf = (i) => perturbations.symbol[hits.perturbation[i]];
// "mask" where all edits are of one site, else "src:mask"
const isOneSite = new Set(edits.map((name) => name.split(":")[0])).size < 2;
const editNames = edits.map((name) => (isOneSite ? name.slice(name.indexOf(":") + 1) : name));
const editOf = (i) => editNames[perturbations.edit[hits.perturbation[i]]];
const groupName = (i) => placeName(hits.stratum[i], hits.time[i]);
const placeName = (s, t) => [strata.length > 1 ? strata[s] : null, times.length > 1 ? timeName(t) : null].filter((x) => x !== null).join(", ") || strata[s];
const isShown = new Set(data.shown);
