// What the pages do better with a script: the reader's own way of writing amounts and times, saving
// without a reload, and news as they happen. Without it everything is there, and forms are sent.

const money = new Intl.NumberFormat(undefined, { style: "currency", currency: "USD" });
const time = new Intl.DateTimeFormat(undefined, { timeStyle: "medium" });
const both = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "short" });

document.documentElement.classList.add("js");
writeInReadersWay(document);
keepAgesTrue();
if (document.body.dataset.events) keepListening(document.body.dataset.events);
const form = document.querySelector("#limits");
const rows = form?.querySelector(".limit") ? [...form.querySelectorAll(".window")].map(row) : [];
if (rows.length) saveWithoutReload();
const changes = document.querySelector("#changes");
if (changes) showChanges();

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

function keepListening(address) {
  const words = document.querySelector("#connection");
  const say = (text) => {
    words.hidden = !text;
    if (words.textContent !== text) words.textContent = text;
  };
  let source = null;
  let waiting = 0;
  let failures = 0;

  const connect = () => {
    clearTimeout(waiting);
    source?.close();
    source = new EventSource(address);
    source.onopen = () => { failures = 0; say(""); };
    source.onmessage = (event) => show(JSON.parse(event.data));
    source.onerror = () => {
      // The browser tries again by itself after a break, and never after an answer that is no stream.
      say("Connection lost. Trying again…");
      if (source.readyState !== EventSource.CLOSED) return;
      failures += 1;
      waiting = setTimeout(connect, Math.min(30_000, 1000 * 2 ** failures));
      askWhoWeAre();
    };
  };

  // A page that leads elsewhere is one whose session has ended.
  const askWhoWeAre = async () => {
    const answer = await fetch(location.href, { redirect: "manual" }).catch(() => null);
    if (answer?.type !== "opaqueredirect") return;
    clearTimeout(waiting);
    const link = document.createElement("a");
    link.href = location.href;
    link.textContent = "Sign in again";
    words.replaceChildren("Signed out. ", link);
  };

  // Who does not look needs no news, and a browser has only a few connections for all its tabs.
  document.addEventListener("visibilitychange", () => {
    if (!document.hidden) return connect();
    clearTimeout(waiting);
    source?.close();
  });
  window.addEventListener("pagehide", () => source?.close());
  if (!document.hidden) connect();
}

function show(parts) {
  for (const [name, text] of Object.entries(parts)) {
    if (name.startsWith("was-")) {
      rows.find((each) => each.name === name.slice(4))?.limitIs(text);
      continue;
    }
    const place = document.getElementById(name);
    if (!place) continue;
    const focused = place.contains(document.activeElement) ? document.activeElement.getAttribute("href") : null;
    const filled = document.createElement(place.tagName === "TR" ? "tr" : place.tagName === "TBODY" ? "tbody" : "div");
    filled.innerHTML = text;
    writeInReadersWay(filled);
    // A reader is told of an alert again only if it says something else.
    if (place.getAttribute("role") === "alert" && filled.textContent === place.textContent) continue;
    place.replaceChildren(...filled.childNodes);
    if (focused) place.querySelector(`[href="${CSS.escape(focused)}"]`)?.focus();
  }
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
    get before() { return before.value; },
    get isDirty() { return input.value.trim() !== before.value; },
    get cents() { return readDollars(input.value); },
    // What the server has now. A field that somebody works on is left alone.
    limitIs(text) {
      const isDirty = self.isDirty;
      self.now = text;
      if (!isDirty) { before.value = text; input.value = text; }
      self.refresh();
    },
    get isOvertaken() { return self.isDirty && self.now !== before.value && self.now !== input.value.trim(); },
    tellOvertaken() {
      self.fail(`Changed meanwhile to ${self.now === "" ? "no limit" : money.format(Number(self.now))}. Save again to replace it.`);
      before.value = self.now;
    },
    saved(text) { before.value = text; input.value = text; self.now = text; self.refresh(); },
    reset() { before.value = self.now; input.value = self.now; self.refresh(); },
    fail(text) {
      error.textContent = text;
      input.setAttribute("aria-invalid", "true");
    },
    refresh() {
      error.textContent = "";
      input.removeAttribute("aria-invalid");
      const cents = self.cents;
      meaning.textContent = cents === null ? "No limit" : cents === 0 ? "Blocks every call" : "";
      element.classList.toggle("dirty", self.isDirty);
      form.classList.toggle("dirty", rows.filter((each) => each.isDirty).length > 1);
    },
  };
  self.now = before.value;
  input.addEventListener("input", () => { self.refresh(); preview(self); });
  input.addEventListener("keydown", (event) => {
    if (event.key === "Escape" && self.isDirty) { event.preventDefault(); self.reset(); }
    if (event.key === "Enter") { event.preventDefault(); save([self]); }
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

function saveWithoutReload() {
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    const only = event.submitter?.value;
    save(rows.filter((each) => (only ? each.name === only : true)));
  });
  for (const each of rows) each.refresh();
}

async function save(wanted) {
  const changed = wanted.filter((each) => each.isDirty);
  const said = document.querySelector("#saved");
  said.textContent = "";
  for (const each of changed) each.refresh();
  const unreadable = changed.filter((each) => each.cents === undefined);
  const overtaken = changed.filter((each) => each.isOvertaken);
  for (const each of overtaken) each.tellOvertaken();
  for (const each of unreadable) each.fail("Write an amount in dollars, such as 12 or 12.50.");
  if (!changed.length || overtaken.length || unreadable.length) {
    (unreadable[0] ?? overtaken[0])?.input.focus();
    return;
  }
  const seen = await fetch(form.dataset.api).catch(() => null);
  const limits = seen?.ok ? (await seen.json()).budget_limits : {};
  const meanwhile = seen?.ok ? changed.filter((each) => plainDollars(limits[each.name]) !== each.before) : [];
  for (const each of meanwhile) { each.now = plainDollars(limits[each.name]); each.tellOvertaken(); }
  if (meanwhile.length) { meanwhile[0].input.focus(); return; }
  // Nobody may have changed them since they were looked at, a moment ago.
  const answer = await change(changed, form.dataset.api, seen?.headers.get("ETag")).catch(() => null);
  if (answer?.ok) {
    const budget = await answer.json();
    for (const each of changed) each.saved(plainDollars(budget.budget_limits[each.name]));
    said.textContent = "Saved.";
    document.querySelector(".notice")?.remove();
    showChanges();
    return;
  }
  const problem = answer ? await answer.json().catch(() => null) : null;
  for (const each of changed) each.fail(problem?.detail ?? "The gateway did not answer. Nothing was saved.");
}

function change(changed, address, tag) {
  const limits = Object.fromEntries(changed.map((each) => [each.name, each.cents]));
  const headers = { "Content-Type": "application/json" };
  if (tag) headers["If-Match"] = tag;
  return fetch(address, { method: "PATCH", headers, body: JSON.stringify({ budget_limits: limits }) });
}

// What a limit would have done, before it is saved.
let trying = 0;
function preview(each) {
  clearTimeout(trying);
  if (!each.isDirty || !Number.isInteger(each.cents)) return;
  trying = setTimeout(async () => {
    const cents = each.cents;
    const answer = await change([each], `${form.dataset.api}?dry_run=true`).catch(() => null);
    const tried = answer?.ok ? (await answer.json()).dry_run : null;
    if (!tried || !each.isDirty || each.cents !== cents) return;
    const said = [cents === 0 ? "Blocks every call." : "", inWords(tried.periods[each.name]), ...tried.notices.map((notice) => notice.detail)];
    each.input.closest(".limit").querySelector(".meaning").textContent = said.filter(Boolean).join(" ");
  }, 300);
}

function inWords(replay) {
  if (!replay) return "";
  if (replay.refused_stretches === null) return "This ledger is too large to tell what it would have refused.";
  if (replay.refused_stretches === 0) return "In the last 30 days it would have refused nothing.";
  const times = replay.refused_stretches === 1 ? "once" : `${replay.refused_stretches} times`;
  return `In the last 30 days it would have refused calls ${times}, for ${duration(replay.refused_seconds)} in all.`;
}

async function showChanges() {
  const answer = await fetch(`${changes.dataset.source}?limit=20`).catch(() => null);
  const found = answer?.ok ? (await answer.json()).changes : [];
  changes.hidden = !found.length;
  changes.querySelector("ol").replaceChildren(...found.map((each) => {
    const item = document.createElement("li");
    const when = document.createElement("time");
    when.dateTime = each.changed_at;
    const words = whatChanged(each.limits_before, each.limits_after);
    item.append(when, ` ${each.changed_by}: ${words}${each.reason ? ` (${each.reason})` : ""}`);
    return item;
  }));
  writeInReadersWay(changes);
}

function whatChanged(before, after) {
  const names = [...new Set([...Object.keys(before), ...Object.keys(after)])];
  const limit = (cents) => (cents === undefined ? "no limit" : `$${plainDollars(cents)}`);
  return names.filter((name) => before[name] !== after[name])
    .map((name) => `${name} ${limit(before[name])} → ${limit(after[name])}`).join(", ");
}
