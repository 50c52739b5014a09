"use strict";
const at = (id) => document.getElementById(id);
const dialog = at("entry");
let store = null; // what holds for the whole page
let scope = "";
let shown = null; // the state on the page
let goal = 0; // the record that is shown or on its way
let wanted = null; // the record to fetch next
let stepping = false;
let list = null; // the page of the list of records
const wordless = "No words of it are kept."; // forgotten, or never said
const names = { ADD: "added", UPDATE: "updated", DELETE: "deleted" };

// Everything from the store goes in as text, never as markup.
function make(tag, attributes, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes || {})) node.setAttribute(name, value);
  node.append(...children.filter((child) => child !== null && child !== ""));
  return node;
}

const tag = (text, kind) => make("span", { class: "tag " + (kind || "") }, text);
const time = (text) => (text || "").replace("T", " ").replace(/\.\d+/, "").replace("+00:00", " UTC");
const plural = (count, name) => `${count.toLocaleString("en")} ${name}${count === 1 ? "" : "s"}`;
const dotted = (...parts) => parts.filter(Boolean).join(" · ");

function button(attributes, act, ...children) {
  const node = make("button", { type: "button", ...attributes }, ...children);
  node.addEventListener("click", act);
  return node;
}

// Asking the server.

async function read(request) {
  const reply = await request;
  const content = await reply.json();
  if (!reply.ok) throw new Error(content.error);
  return content;
}

function get(name, parameters) {
  return read(fetch("api/" + name + "?" + new URLSearchParams({ scope, ...parameters })));
}

function post(name, content) {
  const headers = { "Content-Type": "application/json", "X-Memory-R1-Token": store.token };
  return read(fetch("api/" + name, { method: "POST", headers, body: JSON.stringify({ scope, ...content }) }));
}

/** Wrap an action so that what goes wrong is shown on the page. */
function shielded(act) {
  return async (...given) => {
    try {
      const done = await act(...given);
      at("problem").hidden = true;
      return done;
    } catch (error) {
      const lost = error instanceof TypeError && /fetch/i.test(error.message);
      at("problem").textContent = lost ? "inspect has ended: start it again in the terminal" : error.message;
      at("problem").hidden = false;
    }
  };
}

// Stepping: only the newest wish is fetched, so a key held down never lags behind.

const go = shielded(async (number) => {
  wanted = goal = number;
  if (stepping) return;
  stepping = true;
  try {
    while (wanted !== null) {
      const number = wanted;
      wanted = null;
      const state = await get("state", number === "last" ? {} : { at: number });
      if (wanted === null) show(state);
    }
  } catch (error) {
    goal = shown ? shown.at : 0;
    throw error;
  } finally {
    stepping = false;
  }
});

function step(by) {
  if (!shown) return;
  const from = goal === "last" ? shown.total : goal;
  const number = Math.min(shown.total, Math.max(0, from + by));
  at("slider").value = number;
  go(number);
}

function show(state) {
  shown = state;
  goal = state.at;
  const slider = at("slider");
  slider.max = state.total;
  slider.value = state.at;
  const record = state.record;
  const when = record ? time(record.turn ? record.turn.timestamp : record.written_at) : "";
  const place = record ? `Record ${state.at.toLocaleString("en")} of ${state.total.toLocaleString("en")}`
    : `Before the first of ${plural(state.total, "record")}`;
  at("where").textContent = dotted(place, when, counted(state.changes));
  slider.setAttribute("aria-valuetext", dotted(place, when));
  at("first").disabled = at("back").disabled = state.at === 0;
  at("last").disabled = at("forward").disabled = state.at === state.total;
  at("undoing").hidden = !store.writable;
  at("undo").disabled = !state.undo;
  at("next").textContent = state.undo ? `${state.undo.kind} of #${state.undo.item} in record ${state.undo.record}` : "nothing to undo";
  at("turn").replaceChildren(...described(state));
  at("bank-title").textContent = `Memories after this record: ${state.live.toLocaleString("en")}`;
  if (!record) at("bank-title").textContent = "Memories: none yet";
  at("changed").replaceChildren(...state.changes.map(changed));
  at("rest").replaceChildren();
  extend(state);
  keep();
  follow();
}

function extend(state) {
  at("rest").append(...state.rest.map((entry) => item(entry)));
  shown.next = state.start + state.rest.length;
  at("more").hidden = !state.left;
  at("more").textContent = `Show more (${state.left.toLocaleString("en")} left)`;
}

const kindOf = (change) => (!change.before ? "added" : change.after ? "updated" : "deleted");

function counted(changes) {
  const kinds = changes.map(kindOf);
  return ["added", "updated", "deleted"].map((kind) => [kinds.filter((other) => other === kind).length, kind])
    .filter(([count]) => count).map(([count, kind]) => `${count} ${kind}`).join(", ");
}

// One record.

function said(turn) {
  if (!turn.text) return make("p", { class: "turn empty" }, wordless);
  return make("p", { class: "turn" }, make("b", {}, turn.speaker + ": "), turn.text);
}

function described(state) {
  const record = state.record;
  if (!record) return [make("h2", {}, "The beginning"), make("p", { class: "empty" }, "Nothing has been said yet.")];
  const nodes = [make("h2", {}, record.turn ? "What was said" : "Outside of any turn")];
  if (record.turn) nodes.push(said(record.turn));
  nodes.push(make("div", { class: "tags" }, ...tags(record.kinds, record.refusals.length, record.failure)));
  const facts = [
    record.turn && dotted(record.turn.id, record.session, time(record.turn.timestamp)),
    record.speakers.length && "speakers: " + record.speakers.join(", "),
    record.read && `${record.read} tokens read, ${record.wrote} written`,
    record.cut && `${record.cut} parts cut from the prompt`,
    record.written_at && "stored " + time(record.written_at),
  ];
  nodes.push(make("p", { class: "note" }, dotted(...facts)));
  if (record.failure) {
    nodes.push(make("h3", {}, "Not understood"), make("p", {}, record.failure.replaceAll("_", " ")));
  }
  if (record.refusals.length) {
    const refused = record.refusals.map(({ reason, raw }) => make("li", {}, reason.replaceAll("_", " "), raw && make("code", {}, raw)));
    nodes.push(make("h3", {}, "Refused"), make("ul", { class: "refusals" }, ...refused));
  }
  if (record.completion) {
    const more = make("details", {}, make("summary", {}, "What the model wrote"), make("pre", { tabindex: "0" }, record.completion));
    more.open = Boolean(record.failure || record.refusals.length);
    nodes.push(more);
  }
  return nodes;
}

function tags(kinds, refused, failed) {
  const nodes = Object.entries(kinds).map(([kind, count]) => {
    const name = names[kind] || kind.toLowerCase().replaceAll("_", " ");
    return tag(names[kind] || count > 1 ? `${count} ${name}` : name, names[kind]);
  });
  if (refused) nodes.push(tag(`${refused} refused`, "failed"));
  if (failed) nodes.push(tag("not understood", "failed"));
  return nodes;
}

// Entries and their versions.

function item(entry, kind, before) {
  const text = before ? [make("del", {}, before.text), " ", make("ins", {}, entry.text)] : [kind === "deleted" ? make("del", {}, entry.text) : entry.text];
  return make("li", {}, button({ class: kind || "", "data-id": entry.id }, () => open(entry.id), ...text,
    kind ? tag(kind, kind) : null, make("small", {}, dotted("#" + entry.id, entry.speaker, time(entry.timestamp)))));
}

function changed(change) {
  const kind = kindOf(change);
  return item(change.after || change.before, kind, kind === "updated" ? change.before : null);
}

const open = shielded(async (id) => {
  const entry = await get("entry", { id });
  at("entry-title").textContent = `Memory #${id}: ${plural(entry.versions.length, "event")}`;
  at("versions").replaceChildren(...entry.versions.map(version));
  dialog.dataset.id = id;
  if (!dialog.open) dialog.showModal();
  at("entry-title").focus();
  keep();
});

function version(event) {
  const jump = button({ class: "link" }, () => { dialog.close(); go(event.record); }, `Go to record ${event.record}`);
  const cause = event.turn ? make("p", { class: "cause" }, event.turn.text ? `${event.turn.speaker}: ${event.turn.text}` : wordless) : null;
  return make("li", event.undone ? { class: "undone" } : {},
    make("div", { class: "tags" }, tag(names[event.kind] || event.kind.toLowerCase(), names[event.kind]), event.undone ? tag("undone") : null,
      make("span", { class: "note" }, time(event.turn ? event.turn.timestamp : event.written_at))),
    event.text ? make("p", { class: "text" }, event.text) : make("p", { class: "text empty" }, event.kind === "FORGET" ? "erased for good" : ""),
    cause, jump);
}

// The list of records.

const load = shielded(async (where) => {
  const asked = { show: at("show").value, text: at("text").value, ...where };
  const got = await get("records", asked);
  if (asked.show !== at("show").value || asked.text !== at("text").value) return; // a newer wish is on its way
  list = { ...got, plain: asked.show === "all" && !asked.text.trim() };
  at("records").replaceChildren(...list.rows.map(row));
  const range = list.rows.length ? `${list.rows[0].number.toLocaleString("en")} to ${list.rows.at(-1).number.toLocaleString("en")}` : "";
  at("count").textContent = dotted(list.plain ? plural(list.total, "record") : `${list.found.toLocaleString("en")} of ${plural(list.total, "record")}`, list.pages > 1 && range);
  at("earlier").disabled = list.page === 0;
  at("later").disabled = list.page + 1 === list.pages;
  at("earlier").parentNode.hidden = list.pages < 2;
  mark();
});

function row(record) {
  const text = record.text ? `${record.speaker}: ${record.text}`
    : make("span", { class: "empty" }, record.turn ? wordless : "outside of any turn");
  return make("li", {}, button({ "data-record": record.number }, () => go(record.number),
    make("span", { class: "number" }, record.number.toLocaleString("en")), make("span", { class: "text" }, text),
    make("span", { class: "tags" }, ...tags(record.kinds, record.refused, record.failed))));
}

function mark() {
  let current = null;
  for (const node of at("records").querySelectorAll("button")) {
    const here = Boolean(shown) && Number(node.dataset.record) === shown.at;
    node.setAttribute("aria-current", here);
    if (here) current = node;
  }
  if (!current) return false;
  const box = at("records").getBoundingClientRect();
  const place = current.getBoundingClientRect();
  const end = Math.max(box.top + place.height, Math.min(box.bottom, innerHeight)); // what is on the screen
  if (place.top < box.top || place.bottom > end) at("records").scrollTop += place.top - (box.top + end - place.height) / 2;
  return true;
}

/** Keep the list at the record that is shown, unless it is filtered. */
function follow() {
  if (!list || (!mark() && list.plain) || list.total !== shown.total) load({ around: shown.at });
}

// Search and ask.

function results(...nodes) {
  at("results").replaceChildren(...nodes);
  at("results").hidden = !nodes.length;
}

const search = shielded(async () => {
  const query = at("query").value;
  results();
  at("found").textContent = "";
  if (!query.trim()) return;
  const { entries } = await get("search", { query });
  at("found").textContent = entries.length ? `The ${plural(entries.length, "memory").replace("memorys", "memories")} that fit best, best first` : "Nothing is remembered.";
  results(make("ul", { class: "entries" }, ...entries.map((entry) => item(entry))));
});

const ask = shielded(async () => {
  const question = at("query").value;
  results();
  at("found").textContent = "The Answer Agent is reading …";
  at("answer").disabled = true;
  try {
    const { answer, recalled, completion } = await post("ask", { question });
    const relied = recalled.filter((entry) => entry.distilled).length;
    at("found").textContent = `Recalled ${recalled.length}, relied on ${relied}`;
    const order = [...recalled.filter((entry) => entry.distilled), ...recalled.filter((entry) => !entry.distilled)];
    results(make("p", { class: "said" }, answer || "(no answer)"), make("h3", {}, "Recalled for it"),
      make("ul", { class: "entries" }, ...order.map((entry) => item(entry, entry.distilled ? "distilled" : ""))),
      make("details", {}, make("summary", {}, "What the model wrote"), make("pre", { tabindex: "0" }, completion)));
  } catch (error) {
    at("found").textContent = "";
    throw error;
  } finally {
    at("answer").disabled = false;
  }
});

const undo = shielded(async () => {
  at("undo").disabled = true;
  try {
    await post("undo", { records: shown.total });
  } finally {
    await go("last");
    at("undo").focus();
  }
});

// The address keeps the scope, the record and the open entry.

let keeping = 0;

/** Write the address once things are still: browsers refuse to change it too often. */
function keep() {
  clearTimeout(keeping);
  keeping = setTimeout(() => {
    if (!shown) return;
    const kept = new URLSearchParams({ scope, at: shown.at });
    if (dialog.open) kept.set("entry", dialog.dataset.id);
    history.replaceState(null, "", "#" + kept);
  }, 150);
}

const choose = async (name, record) => {
  scope = name;
  shown = list = null;
  results();
  at("found").textContent = "";
  at("scope").value = scope;
  await go(record);
  if (!shown) await go("last"); // the address may name a record that is gone
};

const start = shielded(async () => {
  store = await get("overview");
  const kept = new URLSearchParams(location.hash.slice(1));
  document.title = `${store.title} · memory-r1`;
  at("title").textContent = store.title;
  at("facts").textContent = dotted(store.system, plural(store.scopes.length, "scope"), store.writable ? "undo allowed" : "read-only");
  at("scope").replaceChildren(...store.scopes.map((name) => make("option", { value: name }, name)));
  at("answer").hidden = !store.answers;
  if (store.answers) at("query").placeholder = "Search the memories as they are now, or ask a question";
  if (!store.scopes.length) throw new Error("The store is empty: nothing has been said yet.");
  const named = store.scopes.includes(kept.get("scope")) ? kept.get("scope") : store.scopes[0];
  const record = named === kept.get("scope") && /^\d+$/.test(kept.get("at") || "") ? Number(kept.get("at")) : "last";
  const entry = kept.get("entry");
  await choose(named, record);
  if (entry) await open(entry);
});

let typing = 0;
at("text").addEventListener("input", () => {
  clearTimeout(typing);
  typing = setTimeout(() => shown && load({ around: shown.at }), 150);
});
at("show").addEventListener("change", () => shown && load({ around: shown.at }));
at("earlier").addEventListener("click", () => load({ page: list.page - 1 }));
at("later").addEventListener("click", () => load({ page: list.page + 1 }));
at("more").addEventListener("click", shielded(async () => {
  const state = shown;
  const more = await get("state", { at: state.at, start: state.next });
  if (shown === state) extend(more);
}));
at("scope").addEventListener("change", () => choose(at("scope").value, "last"));
at("slider").addEventListener("input", () => go(Number(at("slider").value)));
at("first").addEventListener("click", () => step(-Infinity));
at("back").addEventListener("click", () => step(-1));
at("forward").addEventListener("click", () => step(1));
at("last").addEventListener("click", () => step(Infinity));
at("undo").addEventListener("click", undo);
at("answer").addEventListener("click", ask);
at("ask").addEventListener("submit", (event) => { event.preventDefault(); search(); });
at("query").addEventListener("input", () => {
  if (at("query").value) return;
  results();
  at("found").textContent = "";
});
at("close").addEventListener("click", () => dialog.close());
dialog.addEventListener("close", keep);
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || dialog.open || event.target.closest?.("input, select, pre")) return;
  const steps = { ArrowLeft: -1, ArrowRight: 1, Home: -Infinity, End: Infinity };
  if (event.key in steps) step(steps[event.key]);
  else if (event.key === "/") at("query").focus();
  else return;
  event.preventDefault();
});
addEventListener("hashchange", start);
start();
