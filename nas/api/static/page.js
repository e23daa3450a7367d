"use strict";

// The page of `nas serve`. Whatever the server says is shown as text, never as markup.

const KEY = "nas-token", POLL_MS = 5000, PAGE = 25, MAX_LINES = 5000;
const COPIES = "mlartifacts/"; // of files that are there already, where a search logged into its own folder
const RESUMABLE = ["interrupted", "lost", "cancelled", "failed"];
const $ = (id) => document.getElementById(id);
let chosen = null, following = null, pages = 1, timer = null;

class Refused extends Error {
  constructor(status, message) { super(message); this.status = status; }
}

async function api(path, options = {}) {
  const headers = { Authorization: `Bearer ${sessionStorage.getItem(KEY)}`, ...options.headers };
  const answer = await fetch(path, { ...options, headers });
  if (answer.ok) return answer;
  const document = await answer.json().catch(() => null);
  if (answer.status === 401) leave();
  throw new Refused(answer.status, document?.error?.message ?? `The server answered ${answer.status}.`);
}

const json = async (path, options) => (await api(path, options)).json();
const post = (path, body) => json(path, {
  method: "POST", body: body && JSON.stringify(body), headers: body && { "Content-Type": "application/json" },
});

function element(name, text = "", className = "") {
  const made = document.createElement(name);
  made.textContent = text;
  if (className) made.className = className;
  return made;
}

function notice(text) {
  $("notice").textContent = text;
  $("notice").hidden = !text;
}

// Runs what a person asked for, and says why where it did not work.
function attempt(work) {
  return async (event) => {
    event?.preventDefault();
    notice("");
    try { await work(event); } catch (error) {
      if (error.name !== "AbortError") notice(error.message);
    }
  };
}

// Tokens.

function leave() {
  sessionStorage.removeItem(KEY);
  clearInterval(timer);
  close();
  for (const id of ["rows", "links", "targets", "models", "method"]) $(id).replaceChildren();
  for (const id of ["inside", "forget"]) $(id).hidden = true;
  $("entry").hidden = false;
}

async function enter() {
  const server = await json("/v1/server"), known = await json("/v1/targets");
  $("token").value = "";
  $("entry").hidden = true;
  for (const id of ["inside", "forget"]) $(id).hidden = false;
  fill($("targets"), [...Object.keys(known.aliases), ...known.targets.map((target) => target.name)]);
  fill($("models"), server.models);
  fill($("method"), server.methods, true);
  $("links").replaceChildren(link("API", "/openapi.json"), ...(server.mlflow ? [link("MLflow", server.mlflow)] : []));
  await list();
  clearInterval(timer);
  timer = setInterval(() => { if (!document.hidden) list().catch(() => {}); }, POLL_MS);
  fromAddress();
}

function fill(parent, words, shown = false) {
  parent.replaceChildren(...words.map((word) => {
    const option = element("option", shown ? word : "");
    option.value = word;
    return option;
  }));
}

function link(text, address) {
  const made = element("a", text);
  made.href = address;
  made.target = "_blank";
  made.rel = "noopener noreferrer";
  return made;
}

// The list.

async function list() {
  const found = [];
  let next = "";
  for (let page = 0; page < pages && next !== null; page += 1) {
    const part = await json(`/v1/searches?limit=${PAGE}${next && `&before=${encodeURIComponent(next)}`}`);
    found.push(...part.searches);
    next = part.next;
  }
  const focused = document.activeElement?.dataset?.search;
  $("rows").replaceChildren(...found.map(row));
  if (focused) document.querySelector(`[data-search="${CSS.escape(focused)}"]`)?.focus();
  $("empty").hidden = found.length > 0;
  $("more").hidden = next === null;
}

function row(search) {
  const made = element("tr", "", search.id === chosen ? "chosen" : "");
  const name = element("button", title(search), "row");
  name.type = "button";
  name.dataset.search = search.id;
  name.append(element("small", search.id));
  name.addEventListener("click", () => { location.hash = search.id; });
  const cells = [name, state(element("span"), search.state), element("span", search.owner),
    element("span", when(search.started ?? search.created), "nowrap")];
  for (const cell of cells) {
    const place = element("td");
    place.append(cell);
    made.append(place);
  }
  return made;
}

const title = (search) =>
  `${search.request.model ?? "python-lm"} on ${search.request.target}, ${search.request.budget}`;

function state(place, name) {
  place.textContent = name;
  place.className = `state ${name}`;
  return place;
}

function when(time) {
  const date = new Date(time), today = date.toDateString() === new Date().toDateString();
  const clock = { hour: "2-digit", minute: "2-digit" };
  return date.toLocaleString([], today ? clock : { month: "short", day: "numeric", ...clock });
}

// One search.

function fromAddress() {
  const id = decodeURIComponent(location.hash.slice(1));
  if (id === "main" || !sessionStorage.getItem(KEY)) return;
  if (id) attempt(() => open(id))(); else close();
}

function close() {
  following?.abort();
  following = chosen = null;
  $("one").hidden = true;
  forgetFigures();
}

async function open(id) {
  close();
  const search = await json(`/v1/searches/${encodeURIComponent(id)}`);
  chosen = id;
  for (const part of ["log", "artifacts", "compare", "asked"]) $(part).replaceChildren();
  for (const part of ["result", "files"]) $(part).hidden = true;
  for (const part of ["phase", "phase-left"]) $(part).textContent = "";
  $("phase-share").removeAttribute("value");
  $("one").hidden = false;
  show(search);
  $("one-title").focus({ preventScroll: true });
  $("one").scrollIntoView({ block: "start" });
  for (const other of document.querySelectorAll("#rows tr")) {
    other.className = other.querySelector("button").dataset.search === id ? "chosen" : "";
  }
  const ended = await follow(id);
  if (ended) await outcome(id, ended.state === "succeeded");
}

function show(search) {
  $("one-title").textContent = title(search);
  state($("one-state"), search.state);
  $("cancel").hidden = !["queued", "running"].includes(search.state);
  $("progress").hidden = search.state !== "running";
  $("resume").hidden = !RESUMABLE.includes(search.state);
  $("one-message").textContent = search.message ?? "";
  $("one-message").hidden = !search.message;
  const asked = { search: search.id, by: search.owner, ...search.request };
  $("asked").replaceChildren(...Object.entries(asked).map(([name, value]) => {
    const pair = element("div");
    pair.append(element("dt", name.replaceAll("_", " ")), element("dd", String(value)));
    return pair;
  }));
}

// Server-sent events over fetch: EventSource cannot send a token. A lost connection is taken up where it was.
// Gives the search as it ended, or null when another one is looked at. What is asked for after that is asked for once.
async function follow(id) {
  const control = following = new AbortController();
  let last = null, wait = 1000;
  while (!control.signal.aborted) {
    try {
      const headers = last ? { "Last-Event-ID": last } : {};
      const answer = await api(`/v1/searches/${encodeURIComponent(id)}/events`, { headers, signal: control.signal });
      for await (const event of eventsOf(answer.body)) {
        last = event.id ?? last;
        wait = 1000;
        if (told(event)) return event.data;
      }
    } catch (error) {
      if (control.signal.aborted) return null;
      if (error instanceof Refused && error.status !== 429 && error.status < 500) throw error;
    }
    await new Promise((done) => setTimeout(done, wait));
    wait = Math.min(wait * 2, 30000);
  }
  return null;
}

async function* eventsOf(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const blocks = (text + value).replaceAll("\r\n", "\n").split("\n\n");
    text = blocks.pop();
    for (const block of blocks) {
      const event = {};
      for (const line of block.split("\n")) {
        const colon = line.indexOf(":");
        if (colon > 0) event[line.slice(0, colon)] = line.slice(colon + 1).trimStart();
      }
      if (event.event) yield { ...event, data: JSON.parse(event.data) };
    }
  }
}

// A line of the log that says how far a phase is, as nas/cli/console.py writes them.
const PHASE = /^(.+): (?:(begins)|done in ([0-9.]+ s)|still running, ([0-9]+ s) so far|([0-9]+) %(?:, (about [^,]+ left))?(?:, (.*))?)$/;

function progress(line) {
  const found = PHASE.exec(line);
  if (!found) return;
  const [, title, , done, gone, share, left, note] = found;
  const bar = $("phase-share");
  $("phase").textContent = title;
  if (share === undefined && done === undefined) bar.removeAttribute("value");
  else bar.value = done === undefined ? Number(share) : 100;
  const said = done === undefined ? [share && `${share} %`, left, gone && `${gone} so far`, note] : [`done in ${done}`];
  $("phase-left").textContent = said.filter(Boolean).join(" · ");
}

// Shows an event; says whether it was the last one.
function told(event) {
  if (event.event === "log") {
    write(event.data.line);
    progress(event.data.line);
  }
  if (event.event === "state" || event.event === "end") {
    show(event.data);
    list().catch(() => {});
  }
  return event.event === "end";
}

function write(line) {
  const log = $("log"), atEnd = log.scrollHeight - log.scrollTop - log.clientHeight < 40;
  log.append(`${line}\n`);
  while (log.childNodes.length > MAX_LINES) log.firstChild.remove();
  if (atEnd) log.scrollTop = log.scrollHeight;
}

async function outcome(id, done) {
  const base = `/v1/searches/${encodeURIComponent(id)}`;
  const artifacts = (await json(`${base}/artifacts`)).artifacts.filter(({ name }) => !name.startsWith(COPIES));
  if (id !== chosen) return;
  $("files").hidden = artifacts.length === 0;
  $("artifacts").replaceChildren(...artifacts.map((artifact) => fileEntry(base, artifact)));
  const result = done ? await finding(`${base}/result`) : null;
  if (id !== chosen || !result?.winner) return;
  showResult(result);
  forgetFigures();
  for (const name of ["pareto.png", "redundancy.png"]) {
    if (artifacts.some((artifact) => artifact.name === name)) await figure(base, name);
  }
}

// A result that is damaged can be had again by going on with the search.
async function finding(address) {
  try { return await json(address); } catch (error) {
    if (error.status === 409) $("resume").hidden = false;
    throw error;
  }
}

function showResult(result) {
  const { parent, winner, baselines = [] } = result, metric = parent?.quality?.metric ?? "quality";
  $("result").hidden = false;
  $("verdict").textContent = `${winner.verdict ?? ""}. Budget ${round(result.budget_ms)} ms on ${result.target?.name}, ${result.workload}.`;
  const head = element("tr");
  for (const name of ["", metric, `p${result.percentile}, ms`, "keeps"]) head.append(element("th", name));
  const body = [["parent", parent], ["winner", winner], ...together(baselines)];
  $("compare").replaceChildren(head, ...body.map(([name, entry]) => compared(name, entry)));
}

// Baselines that are the same architecture are one row with all their names.
function together(entries) {
  const groups = new Map();
  for (const entry of entries) {
    const key = JSON.stringify(entry.architecture);
    groups.set(key, [...(groups.get(key) ?? []), entry]);
  }
  return [...groups.values()].map((equal) => [equal.map((entry) => entry.method).join(", "), equal[0]]);
}

function compared(name, entry) {
  const made = element("tr"), label = element("th", name);
  label.scope = "row";
  const ms = entry?.measured_ms ?? entry?.predicted_ms, how = entry?.measured_ms == null ? "predicted" : "measured";
  const time = element("td", round(ms), "number nowrap");
  time.append(element("span", how, "sub"));
  made.append(label, element("td", round(entry?.quality?.value), "number"), time, element("td", entry?.words ?? ""));
  return made;
}

const round = (value) => (typeof value === "number" ? String(Number(value.toPrecision(4))) : "");

function fileEntry(base, artifact) {
  const made = element("li"), name = element("button", artifact.name, "row");
  name.type = "button";
  name.addEventListener("click", attempt(() => save(base, artifact.name)));
  made.append(name, ` ${size(artifact.bytes)}`);
  return made;
}

const size = (bytes) => (bytes < 1e4 ? `${bytes} B` : bytes < 1e7 ? `${Math.round(bytes / 1e3)} kB` : `${Math.round(bytes / 1e6)} MB`);
const fetched = async (base, name) =>
  (await api(`${base}/artifacts/${name.split("/").map(encodeURIComponent).join("/")}`)).blob();

async function save(base, name) {
  const address = URL.createObjectURL(await fetched(base, name)), made = element("a");
  made.href = address;
  made.download = name.split("/").pop();
  made.click();
  setTimeout(() => URL.revokeObjectURL(address), 60000);
}

async function figure(base, name) {
  const image = element("img");
  image.src = URL.createObjectURL(new Blob([await fetched(base, name)], { type: "image/png" }));
  image.alt = name === "pareto.png" ? "Loss against latency of the candidates" : "Redundancy of the parent's parts";
  $("figures").append(image);
}

function forgetFigures() {
  for (const image of document.querySelectorAll("#figures img")) URL.revokeObjectURL(image.src);
  $("figures").replaceChildren();
}

// What a person does.

$("entry-form").addEventListener("submit", attempt(async () => {
  sessionStorage.setItem(KEY, $("token").value.trim());
  await enter();
}));
$("forget").addEventListener("click", leave);
$("more").addEventListener("click", attempt(() => { pages += 1; return list(); }));
$("cancel").addEventListener("click", attempt(async () => show(await post(`/v1/searches/${chosen}/cancel`))));
$("resume").addEventListener("click", attempt(async () => {
  await post(`/v1/searches/${chosen}/resume`);
  await open(chosen);
}));
$("submit-form").addEventListener("submit", attempt(async (event) => {
  const asked = {};
  for (const input of event.target.elements) {
    if (!input.name || (input.type !== "checkbox" && input.value.trim() === "")) continue;
    if (input.type === "checkbox") { if (input.checked) asked[input.name] = true; }
    else asked[input.name] = input.type === "number" ? Number(input.value) : input.value.trim();
  }
  const button = event.target.querySelector("button[type=submit]");
  button.disabled = true;
  try {
    const search = await post("/v1/searches", asked);
    await list();
    location.hash = search.id;
  } finally { button.disabled = false; }
}));
addEventListener("hashchange", fromAddress);
if (sessionStorage.getItem(KEY)) attempt(enter)();
