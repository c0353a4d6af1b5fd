"use strict";

// What has been decided: how it is kept, and corrections.csv, written and read (as thaw/data/corrections.py reads it).
// review.js, behind it, is the page.

// What the page shows, as review.py wrote it.
const find = (id) => document.getElementById(id);
const { key, suspects, classes, kinds, pictures } = JSON.parse(find("content").textContent);

const WORDS = { keep: "kept", relabel: "relabelled", remove: "removed", same: "the same object" };
const PAIR = ["same", "different"]; // are about two pictures, and no verdict on either
const STRENGTH = { keep: 0, relabel: 1, remove: 2 }; // of several verdicts on one picture, the strongest is saved
const HEADER = ["path", "action", "value"];
const END = -1; // the place behind the last suspect
const PLACE = `${key}-at`; // where the place is kept: apart, so that who only looks writes no decisions

// ---- What has been decided ----

// decisions: by the suspect's place in `suspects`, [action, value, turn]; turns count up.
// others: rows of a loaded file about pictures that are no suspects here; they are saved again.
// history: what to put back to undo each step, the last one at the end.
const NOTHING = { decisions: {}, others: [], history: [], turn: 0, at: 0, unsaved: false };

let storage = null;
try {
  storage = localStorage;
} catch {} // some browsers have none for pages from disk
let state = stored() ?? structuredClone(NOTHING);
state.at = lastPlace();
let isUsed = false; // whether anything was done since the page was loaded

function stored() {
  try {
    const found = JSON.parse(storage?.getItem(key) ?? "null");
    return found && { ...structuredClone(NOTHING), ...found };
  } catch {
    return null;
  }
}

function lastPlace() {
  const at = Number(storage?.getItem(PLACE) ?? state.at);
  return at === END || at in suspects ? at : 0;
}

// Change what is decided, and keep it. Another tab may have decided too, so what is stored comes first.
function change(step) {
  const at = state.at;
  state = stored() ?? state;
  state.at = at;
  step();
  keep(key, JSON.stringify(state));
  move(state.at);
}

function move(place) {
  state.at = place;
  isUsed = true;
  keep(PLACE, place);
}

function keep(name, value) {
  try {
    storage?.setItem(name, value);
  } catch {
    storage = null; // full, or taken away
  }
}

// What was written just before this page was loaded may arrive after it, and what another tab writes does at any time.
addEventListener("storage", (event) => {
  if (event.key !== key && event.key !== PLACE) return;
  state = { ...(stored() ?? state), at: isUsed ? state.at : lastPlace() };
  show();
});

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

// The rows of what is decided about a suspect. To keep two pictures that look alike is to say that they are not the
// same, and nothing of either one's label; what is said of identical files is said of each of them.
function rowsOf({ kind, path, label, resembles }, action, value) {
  if (kind === "copy" && action === "keep") return [[path, "different", resembles[0].path]];
  if (kind !== "conflict") return [[path, action, value]];
  const right = action === "keep" ? label : value;
  return [{ path, label }, ...resembles].map((one) => {
    if (action === "remove") return [one.path, action, ""];
    return one.label === right ? [one.path, "keep", ""] : [one.path, "relabel", right];
  });
}

// A pair is written once, whichever picture is named first.
const ordered = ([path, action, value]) =>
  PAIR.includes(action) && compare(path, value) > 0 ? [value, action, path] : [path, action, value];

// What a row is about: on a picture, and on a pair of them, there is one verdict.
const about = ([path, action, value]) => JSON.stringify(PAIR.includes(action) ? [path, value] : [path]);

// What is saved: rows of path, action, value. A picture that is suspected twice has one verdict.
function rows() {
  const own = decided().flatMap((place) => rowsOf(suspects[place], ...state.decisions[place]));
  const verdicts = new Map();
  for (const row of [...state.others, ...own].map(ordered)) {
    const isWeaker = STRENGTH[row[1]] < STRENGTH[verdicts.get(about(row))?.[1]];
    if (!isWeaker) verdicts.set(about(row), row);
  }
  const isRemoved = (path) => verdicts.get(JSON.stringify([path]))?.[1] === "remove";
  const found = [...verdicts.values()].filter(([path, action]) => !PAIR.includes(action) || !isRemoved(path));
  return found.sort((a, b) => compare(a[0], b[0]) || compare(a[1], b[1]) || compare(a[2], b[2]));
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

// Spaces around a text, as Python's strip takes them away.
const SPACES = /^(?:(?!\uFEFF)[\s\x1C-\x1F\x85])+|(?:(?!\uFEFF)[\s\x1C-\x1F\x85])+$/g;
const bare = (text) => text.replace(SPACES, "");

function decoded(bytes) {
  const wide = { "255,254": "utf-16le", "254,255": "utf-16be" }[bytes.slice(0, 2)]; // spreadsheets' Unicode text
  try {
    return new TextDecoder(wide ?? "utf-8", { fatal: true }).decode(bytes);
  } catch {
    throw new Error("expected a table in UTF-8 or UTF-16, found neither");
  }
}

// The cells of CSV (RFC 4180), also as spreadsheets leave it: what separates them is what the header is cut by most,
// lines end in any way, and blank ones are none.
function cells(text) {
  const [first] = /[^\r\n]*[^ \t\r\n,;|][^\r\n]*/.exec(text) ?? [""];
  const count = (mark) => first.split(mark).length;
  const mark = `\\${[",", ";", "\t", "|"].reduce((best, one) => (count(one) > count(best) ? one : best))}`;
  const cell = new RegExp(`(?:"((?:[^"]|"")*)"|([^"${mark}\\r\\n][^${mark}\\r\\n]*)?)(${mark}|\\r\\n|\\n|\\r)`, "y");
  const whole = `${text}\n`;
  const found = [];
  let row = [];
  while (cell.lastIndex < whole.length) {
    const [, inQuotes, plain = "", end] = cell.exec(whole) ?? [];
    if (end === undefined) throw new Error("expected CSV, found a quote that is not closed, or text behind one");
    row.push(inQuotes?.replaceAll('""', '"') ?? plain);
    if (/[^\r\n]/.test(end)) continue;
    if (row.some(bare)) found.push(row);
    row = [];
  }
  return found;
}

// The rows of a file: what corrections.py reads is read here, and what it refuses is refused.
function understood(bytes) {
  const [header = [], ...lines] = cells(decoded(bytes));
  const columns = header.map(bare);
  if (columns.length !== HEADER.length || HEADER.some((name) => !columns.includes(name))) {
    throw new Error(`expected the columns ${HEADER.join(",")}, found ${columns.join(",") || "none"}`);
  }
  const verdicts = new Map();
  for (const line of lines) {
    const [path, said, value] = HEADER.map((name) => line[columns.indexOf(name)] ?? "");
    const action = bare(said);
    const given = [path, action, PAIR.includes(action) ? value : bare(value)];
    if (line.length > HEADER.length || !isCorrection(given)) {
      throw new Error(`expected a path, an action and what belongs to it, found the line ${line.join(",")}`);
    }
    const row = ordered(given);
    const other = verdicts.get(about(row)) ?? row;
    if (String(other) !== String(row)) {
      const both = [other, row].map((one) => bare(one.slice(1).join(" ")));
      throw new Error(`expected one verdict on ${path}, found ${both.join(" and ")}`);
    }
    verdicts.set(about(row), row);
  }
  return [...verdicts.values()];
}

// To relabel, and the same object or not, need to say as what; the others say nothing else.
function isCorrection([path, action, value]) {
  if (!bare(path) || /[\x00-\x1F\x7F]/.test(value)) return false;
  if (PAIR.includes(action)) return bare(value) !== "" && path !== value;
  return Object.hasOwn(STRENGTH, action) && (action === "relabel") === (value !== "");
}

// Take over the rows of a file: they go before what is decided here, and what is about no suspect here is not lost.
function merge(given) {
  const there = new Set(suspects.flatMap(({ path, resembles }) => [path, ...resembles.map((one) => one.path)]));
  const meant = (path) => (!there.has(path) && there.has(bare(path)) ? bare(path) : path);
  const found = given.map(([path, action, value]) =>
    ordered([meant(path), action, PAIR.includes(action) ? meant(value) : value]),
  );
  const removed = new Set(found.flatMap(([path, action]) => (action === "remove" ? [path] : [])));
  const entries = found.flatMap((row) =>
    placesOf(row, removed).map((place) => [place, ...decisionOf(suspects[place], row)]),
  );
  const isSaid = (place) => entries.some((one) => one[0] === place && one[1] !== "keep");
  const { unsaved } = state;
  put(entries.filter(([place, action]) => action !== "keep" || !isSaid(place)));
  const known = new Set(rows().map((row) => JSON.stringify(row)));
  state.others = [...state.others, ...found.filter((row) => !known.has(JSON.stringify(row)))];
  state.unsaved = unsaved;
}

// What a row of a file decides about a suspect; of identical files, it may be about another one.
function decisionOf({ kind, label, resembles }, [path, action, value]) {
  if (action === "different") return ["keep", ""];
  if (kind !== "conflict" || action === "remove") return [action, value];
  const right = action === "keep" ? (resembles.find((one) => one.path === path)?.label ?? label) : value;
  return right === label ? ["keep", ""] : ["relabel", right];
}

// The suspects that a row of a file is about: of one picture there may be several.
function placesOf([path, action, value], removed) {
  const conflict = suspects.findIndex(({ kind, path: first, resembles }) => {
    const files = kind === "conflict" ? [first, ...resembles.map((one) => one.path)] : [];
    return files.includes(path) && (action !== "remove" || files.every((one) => removed.has(one)));
  });
  if (conflict >= 0 && !PAIR.includes(action)) return [conflict];
  const places = suspects.flatMap((one, place) => (one.path === path && one.kind !== "conflict" ? [place] : []));
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
