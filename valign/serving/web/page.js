"use strict";
// The page of the server. All text from outside is set as text, never as markup.
const el = (id) => document.getElementById(id);
const KEY = "valign-key";
const LAST = 12; // pictures drawn before that are shown
let scorers = {};

async function ask(path, body) {
  const headers = {};
  const key = sessionStorage.getItem(KEY);
  if (key) headers.Authorization = `Bearer ${key}`;
  if (body) headers["Content-Type"] = "application/json";
  const answer = await fetch(path, { method: body ? "POST" : "GET", headers, body: body && JSON.stringify(body) });
  const found = await answer.json().catch(() => ({}));
  if (answer.ok) return found;
  if (answer.status === 401) { sessionStorage.removeItem(KEY); el("key-form").hidden = false; el("key").focus(); }
  const wait = answer.headers.get("Retry-After");
  if (answer.status === 401) throw new Error(key ? "the server does not know this API key" : "this server asks for an API key");
  const said = found.error ? found.error.message : `the server answered ${answer.status}`;
  throw new Error(wait ? `${said} (in ${wait} s)` : said);
}

function say(where, text, bad = false) {
  el(where).textContent = text;
  el(where).classList.toggle("bad", bad);
}

function option(select, value, text) {
  const made = document.createElement("option");
  made.value = value;
  made.textContent = text;
  select.append(made);
}

function cell(row, text, kind = "") {
  const made = row.insertCell();
  made.textContent = text;
  if (kind) made.className = kind;
}

function shown(value) {
  if (value === null || value === undefined) return "none";
  if (typeof value === "number") return value.toFixed(3);
  return Object.entries(value).map(([name, part]) => `${name} ${part.toFixed(2)}`).join(", ");
}

function show(image, source, alt) {
  image.onload = () => image.classList.toggle("small", image.naturalWidth < 256);
  image.src = source;
  image.alt = alt;
}

async function start() {
  try {
    // one after the other, here and below: a key may allow one request at a time
    const models = await ask("v1/models"), principles = await ask("v1/principles"), found = await ask("v1/scorers");
    el("key-form").hidden = true;
    scorers = Object.fromEntries(found.data.map((one) => [one.id, one]));
    const aligned = models.data.filter((one) => one.principles.length);
    for (const id of ["model", "size", "principle"]) el(id).replaceChildren();
    (aligned.length ? aligned : models.data).forEach((one) => option(el("model"), one.id, one.id));
    option(el("principle"), "auto", "auto: found from the prompt");
    option(el("principle"), "none", "none");
    principles.data.filter((one) => one.models.length).forEach((one) => option(el("principle"), one.id, `${one.id}: ${one.text}`));
    const side = parseInt(models.data[0].size, 10);
    option(el("size"), "auto", `${side} x ${side}`);
    [[2, 3], [3, 2]].filter(([w, h]) => side * side * w * h / 4 <= models.data[0].max_pixels).forEach(([w, h]) => option(el("size"), `${side * w / 2}x${side * h / 2}`, `${side * w / 2} x ${side * h / 2}`));
    say("draw-status", "");
  } catch (error) {
    say("draw-status", error.message, true);
  }
}

function picture(answer) { return `data:image/png;base64,${answer.data[0].b64_json}`; }

async function draw() {
  const asked = { prompt: el("prompt").value, size: el("size").value, seed: Number(el("seed").value) };
  const chosen = el("principle").value;
  const more = { model: el("model").value, principles: ["auto", "none"].includes(chosen) ? chosen : [chosen],
    value_strength: Number(el("strength").value) };
  const base = await ask("v1/images/generations", { ...asked, model: "base" });
  const aligned = await ask("v1/images/generations", { ...asked, ...more });
  const images = [base, aligned].map((one) => one.data[0].b64_json);
  const votes = await ask("v1/compare", { prompt: asked.prompt, images });
  return { ...asked, model: more.model, told: aligned.data[0].valign, base: picture(base), aligned: picture(aligned), votes };
}

function present(drawn) {
  const { told, votes } = drawn;
  show(el("base-image"), drawn.base, `${drawn.prompt}, drawn by the base model`);
  show(el("aligned-image"), drawn.aligned, `${drawn.prompt}, drawn by the model ${drawn.model}`);
  el("aligned-name").textContent = drawn.model;
  for (const [id, source, name] of [["base-save", drawn.base, "base"], ["aligned-save", drawn.aligned, drawn.model]]) {
    el(id).href = source;
    el(id).download = `${name}-seed${drawn.seed}.png`;
    el(id).setAttribute("aria-label", `download the ${name} image`);
  }
  const how = told.applied ? `its token is on this image, at strength ${told.value_strength}` : "its token is not on this image";
  el("reason").textContent = told.principle ? `${told.principle}: ${told.reason}; ${how}.` : `No principle: ${told.reason}. Both models draw the same image.`;
  const body = el("ballots").tBodies[0];
  body.replaceChildren();
  const pair = votes.pairs[0];
  for (const [name, ballot] of Object.entries(pair ? pair.ballots : {})) {
    const row = body.insertRow();
    const words = { 1: "base", "-1": "aligned", 0: "abstains" };
    cell(row, name);
    votes.images.forEach((one) => cell(row, shown(one.scores[name]), "number"));
    cell(row, words[ballot]);
  }
  const row = body.insertRow();
  const verdict = { 1: "the base image wins", "-1": "the aligned image wins", 0: "a tie" };
  cell(row, "verdict");
  cell(row, ""); cell(row, "");
  cell(row, pair ? `${verdict[pair.verdict]} (${pair.margin > 0 ? "+" : ""}${pair.margin})` : "nobody votes");
  el("result").hidden = false;
}

function remember(drawn) {
  const item = document.createElement("li");
  const button = document.createElement("button");
  button.type = "button";
  button.setAttribute("aria-label", `show again: ${drawn.prompt}, seed ${drawn.seed}`);
  button.title = `${drawn.prompt}, seed ${drawn.seed}`;
  for (const source of [drawn.base, drawn.aligned]) {
    const image = new Image();
    image.alt = "";
    image.src = source;
    button.append(image);
  }
  button.onclick = () => { present(drawn); el("result").scrollIntoView({ block: "nearest" }); };
  item.append(button);
  el("history").prepend(item);
  while (el("history").children.length > LAST) el("history").lastChild.remove();
  el("past").hidden = false;
}

function encoded(file) {
  return new Promise((done, failed) => {
    const reader = new FileReader();
    reader.onload = () => done(reader.result);
    reader.onerror = () => failed(new Error("the file could not be read"));
    reader.readAsDataURL(file);
  });
}

async function score() {
  const source = await encoded(el("file").files[0]);
  const image = source.slice(source.indexOf(",") + 1);
  const found = (await ask("v1/score", { items: [{ image, prompt: el("score-prompt").value }] })).data[0];
  if (found.error) throw new Error(`the picture cannot be scored: ${found.error.message}`);
  show(el("scored-image"), source, "the picture that was scored");
  const body = el("scores").tBodies[0];
  body.replaceChildren();
  for (const [name, value] of Object.entries(found.scores)) {
    const why = found.errors[name];
    if (value === null && !why) continue; // a score that does not apply
    const row = body.insertRow();
    cell(row, name);
    const toxic = name in found.toxic ? (found.toxic[name] ? " toxic" : " not toxic") : "";
    cell(row, why || (found.attributes[name] ? `${found.attributes[name]} (${shown(value)})` : shown(value) + toxic),
      toxic ? (found.toxic[name] ? "bad" : "good") : "");
    cell(row, scorers[name] ? scorers[name].higher_means : "");
  }
  el("score-result").hidden = false;
}

async function working(button, status, text, work) {
  button.disabled = true;
  say(status, text);
  try { await work(); say(status, ""); } catch (error) { say(status, error.message, true); }
  button.disabled = false;
}

function choose(tab) {
  for (const one of document.querySelectorAll("[role=tab]")) {
    const on = one === tab;
    one.setAttribute("aria-selected", String(on));
    one.tabIndex = on ? 0 : -1;
    el(one.getAttribute("aria-controls")).hidden = !on;
  }
}

const tabs = [...document.querySelectorAll("[role=tab]")];
tabs.forEach((tab, place) => {
  tab.onclick = () => choose(tab);
  tab.onkeydown = (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!step) return;
    const other = tabs[(place + step + tabs.length) % tabs.length];
    choose(other);
    other.focus();
  };
});
el("strength").oninput = () => { el("strength-shown").textContent = Number(el("strength").value).toFixed(1); };
el("dice").onclick = () => { el("seed").value = crypto.getRandomValues(new Uint32Array(1))[0]; };
el("key-form").onsubmit = (event) => {
  event.preventDefault();
  sessionStorage.setItem(KEY, el("key").value.trim());
  el("key").value = "";
  start();
};
el("draw-form").onsubmit = (event) => {
  event.preventDefault();
  working(el("go"), "draw-status", "Draws both images\u2026", async () => { const drawn = await draw(); present(drawn); remember(drawn); });
};
el("score-form").onsubmit = (event) => {
  event.preventDefault();
  working(el("score-go"), "score-status", "Scores it\u2026", score);
};
start();
