// What the pages do better with a script: the reader's own way of writing amounts and times, saving
// without a reload, and news as they happen. Without it everything is there, and forms are sent.

const money = new Intl.NumberFormat(undefined, { style: "currency", currency: "USD" });
const time = new Intl.DateTimeFormat(undefined, { timeStyle: "medium" });
const both = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "short" });

const BLOCKS = "Blocks every call.";
const LOST_MS = 2500;
// The server says something every 15 seconds.
const SILENT_MS = 50_000;

document.documentElement.classList.add("js");
writeInReadersWay(document);
keepAgesTrue();
const listenTo = keepListening();
listenTo(document.body.dataset.events);
const form = document.querySelector("#limits");
const rows = form?.querySelector(".limit") ? [...form.querySelectorAll(".window")].map(row) : [];
if (rows.length) saveWithoutReload();

// Amounts and times

function writeInReadersWay(root) {
  for (const each of root.querySelectorAll("data.money")) {
    each.textContent = money.format(Number(each.value) / 100);
  }
  for (const each of root.querySelectorAll("time[datetime]")) {
    const moment = new Date(each.dateTime);
    const isToday = moment.toDateString() === new Date().toDateString();
    if (each.dataset.style === "ago") each.title = both.format(moment);
    else each.textContent = (isToday ? time : both).format(moment);
  }
}

function keepAgesTrue() {
  const step = () => {
    for (const each of document.querySelectorAll('time[data-style="ago"]')) {
      const seconds = Math.max(0, Math.floor((Date.now() - new Date(each.dateTime)) / 1000));
      each.textContent = `${duration(seconds)} ago`;
    }
  };
  setInterval(step, 1000);
}

function duration(seconds) {
  const units = [["d", 86400], ["h", 3600], ["min", 60], ["s", 1]];
  const at = units.findIndex(([, size]) => seconds >= size);
  if (at < 0) return "0 s";
  const [unit, size] = units[at];
  const count = Math.floor(seconds / size);
  const rest = units[at + 1] && count < 10 ? Math.floor((seconds % size) / units[at + 1][1]) : 0;
  return `${count} ${unit}${rest ? ` ${rest} ${units[at + 1][0]}` : ""}`;
}

// News

// Gives what begins to listen at an address, and leaves the one before.
function keepListening() {
  const words = document.querySelector("#connection");
  const say = (text) => {
    words.hidden = !text;
    if (words.textContent !== text) words.textContent = text;
  };
  let address = "";
  let source = null;
  let waiting = 0;
  let losing = 0;
  let failures = 0;

  const leave = () => {
    clearTimeout(waiting);
    clearTimeout(losing);
    losing = 0;
    source?.close();
  };

  const connect = () => {
    clearTimeout(waiting);
    source?.close();
    source = new EventSource(address);
    // A connection may be gone without a word.
    const hear = () => { clearTimeout(waiting); waiting = setTimeout(connect, SILENT_MS); };
    source.onopen = () => {
      failures = 0;
      clearTimeout(losing);
      losing = 0;
      say("");
      hear();
    };
    source.addEventListener("alive", hear);
    source.onmessage = (event) => { hear(); show(JSON.parse(event.data)); };
    source.onerror = () => {
      // The browser tries again by itself after a break, and never after an answer that is no stream.
      // A stream ends now and then, and the next one begins a second later.
      losing ||= setTimeout(say, LOST_MS, "Connection lost. Trying again…");
      clearTimeout(waiting);
      if (source.readyState !== EventSource.CLOSED) return;
      failures += 1;
      waiting = setTimeout(connect, Math.min(30_000, 1000 * 2 ** failures));
      askThePage();
    };
  };

  // If it leads elsewhere, the session has ended. Any other answer tells how the gateway is.
  const askThePage = async () => {
    const answer = await fetch(location.href, { redirect: "manual" }).catch(() => null);
    if (source.readyState === EventSource.OPEN) return;
    if (answer?.status === 404) { leave(); return say("This workspace was removed."); }
    if (answer?.type !== "opaqueredirect") return fillFrom(answer, ["gateway", "gateway-alert"]);
    leave();
    const link = document.createElement("a");
    link.href = location.href;
    link.textContent = "Sign in again";
    words.replaceChildren("Signed out. ", link);
    words.hidden = false;
  };

  // Who does not look needs no news, and a browser has only a few connections for all its tabs.
  document.addEventListener("visibilitychange", () => {
    if (document.hidden) leave(); else connect();
  });
  window.addEventListener("pagehide", leave);
  window.addEventListener("pageshow", (event) => { if (event.persisted) connect(); });
  return (there) => {
    if (there === address) return;
    address = there;
    if (!document.hidden) connect();
  };
}

let rosterNow = document.querySelector("#roster")?.dataset.count;
let rostering = 0;

function show({ "limits-now": limits, "roster-now": roster, ...parts }) {
  if (roster && rosterNow !== undefined && roster !== rosterNow) showRosterSoon();
  rosterNow = roster ?? rosterNow;
  for (const [name, text] of Object.entries(parts)) fill(document.getElementById(name), text);
  if (!limits) return;
  for (const [period, text] of Object.entries(JSON.parse(limits).limits)) {
    rows.find((each) => each.name === period)?.limitIs(text);
  }
}

function fill(place, text) {
  if (!place) return;
  const focused = place.contains(document.activeElement) ? document.activeElement.getAttribute("href") : null;
  const filled = document.createElement(["TR", "TBODY"].includes(place.tagName) ? place.tagName : "div");
  filled.innerHTML = text;
  writeInReadersWay(filled);
  // A reader is told of an alert again only if it says something else.
  if (place.getAttribute("role") === "alert" && filled.textContent === place.textContent) return;
  place.replaceChildren(...filled.childNodes);
  if (focused) place.querySelector(`[href="${CSS.escape(focused)}"]`)?.focus();
}

// Workspaces came or went. Everybody who looks hears of it at once, and should not ask at once.
function showRosterSoon() {
  clearTimeout(rostering);
  rostering = setTimeout(showRoster, 500 + Math.random() * 2500);
}

// The rows as they are now, and their news.
async function showRoster() {
  const asked = rostering;
  const answer = await fetch(location.href).catch(() => null);
  if (asked !== rostering) return;
  if (!answer?.ok) return showRosterSoon();
  const page = await fillFrom(answer, ["count", "roster"]);
  if (page.body.dataset.events) listenTo(page.body.dataset.events);
}

// Parts of a page that was asked for, in the place of those that are shown; gives the whole page.
async function fillFrom(answer, names) {
  if (!answer) return null;
  const page = new DOMParser().parseFromString(await answer.text(), "text/html");
  for (const name of names) {
    const found = page.getElementById(name);
    if (found) fill(document.getElementById(name), found.innerHTML);
  }
  return page;
}

// Limits

function row(element) {
  const name = element.dataset.period;
  const input = element.querySelector(`#limit-${CSS.escape(name)}`);
  const before = element.querySelector(`[name="was-${CSS.escape(name)}"]`);
  const meaning = element.querySelector(".meaning");
  const error = element.querySelector(".error");

  const self = {
    name,
    input,
    // What the server has, as far as we know; `before` is what it had when somebody began to type.
    now: before.value,
    get isDirty() { return input.value.trim() !== before.value; },
    get isOvertaken() { return self.isDirty && self.now !== before.value; },
    get cents() { return readDollars(input.value); },
    // A field that somebody works on is left alone.
    limitIs(text) {
      if (text === self.now) return;
      self.now = text;
      if (!self.isDirty || input.value.trim() === text) self.reset();
    },
    reset() {
      before.value = self.now;
      input.value = self.now;
      self.refresh();
    },
    // What was typed meanwhile stays.
    isSaved(text, typed) {
      self.now = text;
      if (input.value === typed) self.reset();
      else before.value = text;
    },
    means(text) { meaning.textContent = text; },
    fail(text) {
      error.textContent = text;
      input.setAttribute("aria-invalid", "true");
    },
    failOvertaken() {
      const limit = self.now === "" ? "no limit" : money.format(Number(self.now));
      self.fail(`Changed meanwhile to ${limit}. Save again to replace it.`);
      before.value = self.now;
    },
    refresh() {
      error.textContent = "";
      input.removeAttribute("aria-invalid");
      self.means(self.cents === null ? "No limit" : self.cents === 0 ? BLOCKS : "");
      self.mark();
    },
    mark() {
      element.classList.toggle("dirty", self.isDirty);
      form.classList.toggle("dirty", rows.some((each) => each.isDirty));
    },
  };
  input.addEventListener("input", () => { said(""); self.refresh(); tryLimits(); });
  input.addEventListener("keydown", (event) => {
    if (event.key === "Escape" && self.isDirty) { event.preventDefault(); self.reset(); tryLimits(); }
    if (event.key === "Enter") { event.preventDefault(); if (!event.repeat) save([self]); }
  });
  return self;
}

// Cents; null for a blank field, undefined for what is no amount. The form says the same without us.
function readDollars(text) {
  if (!text.trim()) return null;
  const match = /^\$?\s*(\d{1,3}(?:,\d{3})+|\d+)(?:[.,](\d{1,2}))?$/.exec(text.trim());
  return match ? Number(match[1].replaceAll(",", "")) * 100 + Number((match[2] ?? "").padEnd(2, "0")) : undefined;
}

function plainDollars(cents) {
  if (cents === null || cents === undefined) return "";
  return cents % 100 ? (cents / 100).toFixed(2) : String(cents / 100);
}

function said(text) {
  document.querySelector("#saved").textContent = text;
}

function sayOfReason(text) {
  document.querySelector("#error-reason").textContent = text;
}

function saveWithoutReload() {
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    const only = event.submitter?.value;
    save(rows.filter((each) => !only || each.name === only));
  });
  for (const each of rows) each.mark();
}

let isSaving = false;

async function save(wanted) {
  const changed = wanted.filter((each) => each.isDirty);
  if (isSaving || !changed.length) return;
  isSaving = true;
  clearTimeout(trying);
  said("");
  sayOfReason("");
  for (const each of changed) each.refresh();
  try {
    if (!areRefused(changed)) await saveChanged(changed);
  } finally {
    isSaving = false;
  }
}

async function saveChanged(changed) {
  const found = await fetch(form.dataset.api).catch(() => null);
  if (!found?.ok) return tellProblem(changed, found);
  await learnLimits(changed, found);
  if (areRefused(changed)) return;
  const typed = new Map(changed.map((each) => [each, each.input.value]));
  // Nobody may have changed them since they were looked at, a moment ago. A proxy that codes
  // answers makes their tags weak, which match nothing.
  const seen = found.headers.get("ETag").replace(/^W\//, "");
  const answer = await change(changed, form.dataset.api, seen).catch(() => null);
  if (!answer?.ok) return tellProblem(changed, answer);
  const { budget_limits: limits } = await answer.json();
  for (const [each, text] of typed) each.isSaved(plainDollars(limits[each.name]), text);
  form.elements.reason.value = "";
  document.querySelector(".notice")?.remove();
  said("Saved.");
  // What was used to save is hidden now, and would take the focus with it.
  const focused = document.activeElement;
  const isLost = focused === document.body || form.contains(focused);
  if (isLost && !rows.some((each) => each.input === focused)) changed[0].input.focus();
}

// Whether one of them cannot be saved as it is; the first of these gets the focus.
function areRefused(changed) {
  const unreadable = changed.filter((each) => each.cents === undefined);
  const overtaken = changed.filter((each) => each.isOvertaken);
  for (const each of unreadable) each.fail("Write an amount in dollars, such as 12 or 12.50.");
  for (const each of overtaken) each.failOvertaken();
  const refused = [...unreadable, ...overtaken];
  refused[0]?.input.focus();
  return refused.length > 0;
}

async function learnLimits(changed, answer) {
  const { budget_limits: limits } = await answer.json();
  for (const each of changed) each.now = plainDollars(limits[each.name]);
}

function change(changed, address, tag) {
  const limits = Object.fromEntries(changed.map((each) => [each.name, each.cents]));
  const headers = { "Content-Type": "application/json", ...(tag && { "If-Match": tag }) };
  const body = JSON.stringify({ budget_limits: limits, reason: form.elements.reason.value });
  return fetch(address, { method: "PATCH", headers, body });
}

// Beside the fields that the server names, or else beside all that were to be saved.
async function tellProblem(changed, answer) {
  const problem = answer ? await answer.json().catch(() => null) : null;
  const detail = problem?.detail ?? "The gateway did not answer. Nothing was saved.";
  if (detail.startsWith("reason ")) return sayOfReason(detail);
  const named = changed.filter((each) => detail.includes(`budget_limits.${each.name} `));
  for (const each of named.length ? named : changed) each.fail(detail);
}

// What limits would have done, before they are saved

let trying = 0;
let isTrying = false;

function tryLimits() {
  clearTimeout(trying);
  trying = setTimeout(tryOnce, 300);
}

// One after the other: the ledger is read for each.
async function tryOnce() {
  if (isTrying) return tryLimits();
  const tried = rows.filter((each) => each.isDirty && each.cents !== undefined);
  if (!tried.length) return;
  isTrying = true;
  const asked = tried.map((each) => each.input.value).join();
  const answer = await change(tried, `${form.dataset.api}?dry_run=true`).catch(() => null);
  const found = answer?.ok ? (await answer.json()).dry_run : null;
  isTrying = false;
  if (asked !== tried.map((each) => each.input.value).join()) return;
  for (const each of tried) each.means(found ? wouldMean(each, found) : "");
}

function wouldMean({ name, cents }, { periods, notices }) {
  if (cents === null) return "No limit";
  const notice = notices.find((each) => each.period === name) ?? notices.find((each) => each.bound_by === name);
  return [cents === 0 ? BLOCKS : "", wouldHaveRefused(periods[name]), notice?.detail].filter(Boolean).join(" ");
}

function wouldHaveRefused(replay) {
  if (!replay) return "";
  if (replay.refused_stretches === null) return "The ledger is too large to tell what this limit would have refused.";
  const stretches = replay.refused_stretches === 1 ? "1 stretch" : `${replay.refused_stretches} stretches`;
  const refusals = replay.refused_stretches ? `${stretches} of refusals, ${duration(replay.refused_seconds)} in all` : "no refusal";
  return `With this limit, the last 30 days would have seen ${refusals}.`;
}
