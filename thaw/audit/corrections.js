"use strict";

// What has been decided: how it is kept, and corrections.csv, written and read. review.js, behind it, is the page.

// What the page shows, as review.py wrote it.
const find = (id) => document.getElementById(id);
const { key, suspects, classes, kinds, pictures } = JSON.parse(find("content").textContent);

const WORDS = { keep: "kept", relabel: "relabelled", remove: "removed", same: "the same object" };
const PAIR = ["same", "different"]; // are about two pictures, and no verdict on either
const STRENGTH = { keep: 0, relabel: 1, remove: 2 }; // of several verdicts on one picture, the strongest is saved
const HEADER = ["path", "action", "value"];
const END = -1; // the place behind the last suspect

// ---- What has been decided ----

// decisions: by the suspect's place in `suspects`, [action, value, turn]; turns count up.
// others: rows of a loaded file about pictures that are no suspects here; they are saved again.
// history: what to put back to undo each step, the last one at the end.
const NOTHING = { decisions: {}, others: [], history: [], turn: 0, at: 0, unsaved: false };

let storage = null;
try {
  localStorage.setItem("thaw-review", "");
  localStorage.removeItem("thaw-review");
  storage = localStorage;
} catch {} // some browsers have none for pages from disk
let state = stored() ?? structuredClone(NOTHING);

function stored() {
  try {
    const found = JSON.parse(storage?.getItem(key) ?? "null");
    return found && { ...structuredClone(NOTHING), ...found };
  } catch {
    return null;
  }
}

// Change what is decided, and keep it. Another tab may have decided too, so what is stored comes first.
function change(step) {
  const at = state.at;
  state = stored() ?? state;
  state.at = at;
  step();
  persist();
}

function persist() {
  try {
    storage?.setItem(key, JSON.stringify(state));
  } catch {
    storage = null; // full, or taken away
  }
  find("unkept").hidden = storage !== null;
}

// Decide on several suspects in one step: [place, action, value] each.
function put(entries) {
  const before = entries.map(([place]) => [place, state.decisions[place] ?? null]);
  state.history.push({ at: state.at, before, others: state.others });
  for (const [place, action, value] of entries) state.decisions[place] = [action, value, state.turn++];
  state.unsaved = true;
}

const told = (action, value) =>
  ({ keep: "kept", relabel: `relabelled as ${value}`, remove: "removed", same: `the same object as ${value}` })[action];

// ---- corrections.csv ----

// Places that are decided, in the order in which they were.
const decided = () =>
  Object.keys(state.decisions).map(Number).sort((a, b) => state.decisions[a][2] - state.decisions[b][2]);

// To keep two pictures that look alike is to say that they are not the same, and nothing of either one's label.
function row({ kind, path, resembles }, action, value) {
  return kind === "copy" && action === "keep" ? [path, "different", resembles[0].path] : [path, action, value];
}

// A pair is written once, whichever picture is named first.
const ordered = ([path, action, value]) =>
  PAIR.includes(action) && compare(path, value) > 0 ? [value, action, path] : [path, action, value];

// What is saved: rows of path, action, value. A picture that is suspected twice has one verdict.
function rows() {
  const own = decided().map((place) => row(suspects[place], ...state.decisions[place]));
  const found = [...state.others, ...own].map(ordered);
  const verdicts = new Map();
  for (const row of found) {
    const [path, action] = row;
    const isWeaker = STRENGTH[action] < STRENGTH[verdicts.get(path)?.[1]];
    if (!PAIR.includes(action) && !isWeaker) verdicts.set(path, row);
  }
  const pairs = found.filter(([path, action]) => PAIR.includes(action) && verdicts.get(path)?.[1] !== "remove");
  const unique = new Map([...pairs, ...verdicts.values()].map((row) => [JSON.stringify(row), row]));
  return [...unique.values()].sort((a, b) => compare(a[0], b[0]) || compare(a[1], b[1]) || compare(a[2], b[2]));
}

// Compare texts by code points, as Python does; JavaScript's own order is that of UTF-16.
function compare(a, b) {
  const [one, other] = [[...a], [...b]];
  const place = one.findIndex((letter, at) => letter !== other[at]);
  if (place < 0) return one.length - other.length;
  return place < other.length ? one[place].codePointAt(0) - other[place].codePointAt(0) : 1;
}

const quoted = (cell) => (/[",\r\n]/.test(cell) ? `"${cell.replaceAll('"', '""')}"` : cell);
const csv = () => [HEADER, ...rows()].map((row) => `${row.map(quoted).join(",")}\n`).join("");

// Read CSV (RFC 4180), also as spreadsheets leave it: with a byte-order mark, and with other ends of lines.
function parse(text) {
  const whole = `${text.replace(/^\uFEFF/, "")}\n`;
  const cell = /(?:"((?:[^"]|"")*)"|([^",\r\n]*))(,|\r\n|\n|\r)/y;
  const found = [];
  let row = [];
  while (cell.lastIndex < whole.length) {
    const [, inQuotes, plain, end] = cell.exec(whole) ?? [];
    if (end === undefined) return []; // a quote that is not closed, or in the middle
    row.push(inQuotes?.replaceAll('""', '"') ?? plain);
    if (end === ",") continue;
    if (row.some(Boolean)) found.push(row);
    row = [];
  }
  return found;
}

// Whether a line of a file can be a correction; to relabel, and the same object, need to say as what.
const isCorrection = (row) =>
  row.length === HEADER.length && [...Object.keys(WORDS), "different"].includes(row[1]) && (row[2] || !["relabel", ...PAIR].includes(row[1]));

// Take over the rows of a file: they go before what is decided here, and what is about no suspect here is not lost.
function merge(found) {
  const entries = found.flatMap((row) =>
    placesOf(row).map((place) => (row[1] === "different" ? [place, "keep", ""] : [place, ...row.slice(1)])),
  );
  const isSaid = (place) => entries.some((one) => one[0] === place && one[1] !== "keep");
  const { unsaved } = state;
  put(entries.filter(([place, action]) => action !== "keep" || !isSaid(place)));
  const known = new Set(rows().map((row) => JSON.stringify(row)));
  state.others = [...state.others, ...found.filter((row) => !known.has(JSON.stringify(ordered(row))))];
  state.unsaved = unsaved;
}

// The suspects that a row of a file is about: of one picture there may be several.
function placesOf([path, action, value]) {
  const places = suspects.flatMap((one, place) => (one.path === path ? [place] : []));
  const of = (test) => places.filter((place) => test(suspects[place])).slice(0, 1);
  if (PAIR.includes(action)) {
    // It was written as it stands here, or the other way round.
    const ofPair = (one, path, value) => one.path === path && one.resembles.some((other) => other.path === value);
    const isThis = (one) => one.kind === "copy" && (ofPair(one, path, value) || ofPair(one, value, path));
    const exact = suspects.findIndex(isThis);
    if (exact >= 0) return [exact];
    return action === "same" ? of((one) => one.kind === "copy") : [];
  }
  if (action === "relabel") {
    const asked = of((one) => one.kind === "label");
    return asked.length ? asked : places.slice(0, 1);
  }
  return places.filter((place) => action !== "keep" || suspects[place].kind !== "copy");
}
