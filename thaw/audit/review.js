// The page: what it shows, and what its keys and buttons do. corrections.js, before it, knows what has been decided, and
// classes.js the list of classes.

const SPLITS = { train: "training", val: "validation", test: "test" };
let kind = ""; // the one kind that is shown, or all
let chosen = 0; // of what the suspect resembles, the one that "same object" is about

// ---- Going through the suspects ----

const visible = () => suspects.flatMap((one, place) => (!kind || one.kind === kind ? [place] : []));
const isOpen = (place) => !(place in state.decisions);

// The next suspect to decide on, from a place on and around; END if there is none.
function nextOpen(place) {
  const open = visible().filter(isOpen);
  return open.find((one) => one > place) ?? open[0] ?? END;
}

function go(place) {
  move(place);
  chosen = 0;
  show();
}

function turn(by) {
  const places = visible();
  const from = state.at === END ? places.length : places.indexOf(state.at);
  go(places[Math.max(0, from + by)] ?? END);
}

function filter(name) {
  kind = name;
  const places = visible();
  go(places.includes(state.at) && isOpen(state.at) ? state.at : nextOpen(END));
}

// ---- Deciding ----

function decide(action, value = "") {
  const place = state.at;
  if (place === END) return;
  change(() => {
    put([[place, action, value]]);
    state.at = nextOpen(place);
  });
  chosen = 0;
  say(`${suspects[place].path}: ${told(action, value)}.`);
  show();
}

function undo() {
  let step;
  change(() => {
    step = state.history.pop();
    if (!step) return;
    for (const [place, decision] of step.before) {
      if (decision) state.decisions[place] = decision;
      else delete state.decisions[place];
    }
    state.others = step.others;
    state.at = step.at;
    state.unsaved = true;
  });
  if (step && kind && step.at !== END && suspects[step.at].kind !== kind) kind = "";
  chosen = 0;
  say(step ? "Undone." : "There is nothing to undo.");
  show();
}

function save() {
  const file = new Blob([csv()], { type: "text/csv" });
  const link = make("a", { href: URL.createObjectURL(file), download: "corrections.csv" });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
  change(() => (state.unsaved = false));
  say(`Saved as corrections.csv: ${counted(decided().length + state.others.length, "decision")}.`);
  find("apply").open = true;
  show();
}

async function load(file) {
  let found;
  try {
    found = understood(new Uint8Array(await file.arrayBuffer()));
  } catch (error) {
    say(`${file.name} is no corrections.csv: ${error.message}.`);
    return;
  }
  const before = new Set(names());
  change(() => merge(found));
  kind = "";
  const added = names().filter((name) => !before.has(name));
  const said = added.length ? ` New: the class ${added.join(", ")}.` : "";
  say(`Loaded ${counted(found.length, "row")} of ${file.name}.${said}`);
  go(nextOpen(END));
}

// ---- The page ----

// Make an element. Names of files and classes only ever become text, never markup.
function make(tag, properties = {}, ...children) {
  const { aria = {}, ...rest } = properties;
  const node = Object.assign(document.createElement(tag), rest);
  for (const [name, value] of Object.entries(aria)) node.setAttribute(`aria-${name}`, value);
  node.append(...children);
  return node;
}

const named = (text, className = "") => make("bdi", { className }, text);

function picture(path) {
  const [source, isTiny] = pictures[path];
  if (!source) return make("span", { className: "lost", role: "img", ariaLabel: path }, "This picture is missing");
  return make("img", { src: source, alt: path, className: isTiny ? "tiny" : "" });
}

function caption({ path, label, split, note = "" }, suggestion = "") {
  const line = make("span", { className: "what" }, named(label, "class"));
  if (suggestion) line.append(make("span", { className: "seems" }, "rather ", named(suggestion, "class new"), "?"));
  line.append(make("span", { className: "soft" }, SPLITS[split] ?? "not used"));
  const caption = make("span", { className: "caption" }, line);
  if (note) caption.append(make("span", { className: "note" }, note));
  caption.append(make("bdi", { className: "path", title: path }, path));
  return caption;
}

const counted = (number, noun) => `${number} ${noun}${number === 1 ? "" : "s"}`;

function say(text) {
  find("said").textContent = text;
  clearTimeout(say.timer);
  say.timer = setTimeout(() => (find("said").textContent = ""), 5000);
}

function show() {
  const places = visible();
  const count = decided().length;
  find("at").textContent = state.at === END ? "the end" : `${places.indexOf(state.at) + 1} of ${places.length}`;
  find("unkept").hidden = storage !== null;
  find("decided-count").textContent = `${count} decided`;
  find("bar").value = count;
  find("rows").textContent = count + state.others.length;
  find("save").classList.toggle("unsaved", state.unsaved);
  find("save").title = state.unsaved ? "There are decisions that are not saved" : "";
  for (const button of document.querySelectorAll("#kinds button")) {
    const of = suspects.filter((one, place) => (!button.value || one.kind === button.value) && isOpen(place)).length;
    button.setAttribute("aria-pressed", button.value === kind);
    button.querySelector("span").textContent = of;
  }
  find("suspect").hidden = state.at === END;
  find("end").hidden = state.at !== END;
  if (state.at === END) showEnd();
  else showSuspect(suspects[state.at]);
  find("undo").disabled = !state.history.length;
  find("back").disabled = state.at === places[0];
  find("forward").disabled = state.at === END;
  showDecided();
}

function showSuspect(suspect) {
  const { question, keep, name } = kinds[suspect.kind];
  const isCopy = suspect.kind === "copy" && suspect.resembles.length > 0;
  const isConflict = suspect.kind === "conflict";
  const isPair = isCopy || (isConflict && suspect.resembles.length === 1);
  find("kind").textContent = name;
  find("question").textContent = question;
  find("why").textContent = suspect.why;
  find("picture").replaceChildren(picture(suspect.path), caption(suspect, isConflict ? "" : suspect.suggestion));
  find("pair").className = isPair ? "copy" : "";
  find("others").hidden = !suspect.resembles.length;
  find("resembles").textContent = isPair ? "and this one" : isConflict ? "and these" : "It resembles";
  find("neighbours").replaceChildren(
    ...suspect.resembles.map((one, place) => {
      const content = [picture(one.path), caption(one)];
      if (!isCopy || suspect.resembles.length === 1) return make("div", { className: "neighbour" }, ...content);
      const number = place < 9 ? [make("kbd", {}, String(place + 1))] : [];
      return make(
        "button",
        { className: "neighbour", aria: { pressed: place === chosen }, onclick: () => choose(place) },
        ...content,
        ...number,
      );
    }),
  );
  find("keep-means").textContent = isConflict ? `${suspect.label} is right` : keep;
  find("relabel-means").textContent = suspect.suggestion ? `${suspect.suggestion}?` : "choose a class";
  find("same").hidden = !isCopy;
  if (isCopy) find("same-means").textContent = "they stay in one split";
  const [action, value] = state.decisions[state.at] ?? [];
  for (const name of Object.keys(WORDS)) find(name).setAttribute("aria-pressed", name === action);
  const elsewhere = suspects.flatMap((one, place) =>
    one.path === suspect.path && place !== state.at && !isOpen(place) ? [told(...state.decisions[place])] : [],
  );
  const notes = action ? [`You have decided: ${told(action, value)}.`] : [];
  if (elsewhere.length) notes.push(`This picture has been suspected before, and was ${elsewhere.join(", ")}.`);
  find("chosen").replaceChildren(named(notes.join(" ")));
}

function choose(place) {
  const hadFocus = find("neighbours").contains(document.activeElement);
  chosen = place;
  show();
  if (hadFocus) find("neighbours").children[place].focus({ preventScroll: true });
}

function showEnd() {
  find("apply").open = true;
  const open = visible().filter(isOpen).length;
  const all = suspects.filter((_, place) => isOpen(place)).length;
  const title = all ? "All of this kind are decided" : "All decided";
  find("end-title").textContent = open ? `${counted(open, "suspect")} left` : title;
  const actions = decided().map((place) => state.decisions[place][0]);
  const counts = Object.keys(WORDS).map((action) => [action, actions.filter((one) => one === action).length]);
  const parts = counts.filter(([, count]) => count).map(([action, count]) => `${count} ${WORDS[action]}`);
  find("end-counts").textContent = parts.length ? `${parts.join(", ")}.` : "";
  find("go-on").hidden = !all;
  find("go-on").textContent = open ? "Go to the first of them" : `Go on with the other ${all}`;
}

function showDecided() {
  const places = decided().reverse();
  find("none").hidden = places.length > 0;
  find("decided").replaceChildren(
    ...places.map((place) => {
      const [action, value] = state.decisions[place];
      const { path } = suspects[place];
      const text = make("span", { className: "text" }, named(told(action, value), action), named(path, "path"));
      const aria = place === state.at ? { current: "true" } : {};
      const button = make("button", { onclick: () => revisit(place), aria }, picture(path), text);
      return make("li", {}, button);
    }),
  );
}

function revisit(place) {
  if (kind && suspects[place].kind !== kind) kind = "";
  go(place);
  find("question").focus({ preventScroll: true });
  find("suspect").scrollIntoView({ block: "nearest" });
}

// ---- Keys and buttons ----

function same() {
  const suspect = suspects[state.at];
  if (suspect?.kind === "copy" && suspect.resembles.length) decide("same", suspect.resembles[chosen].path);
}

const ACTIONS = {
  k: () => decide("keep"),
  r: openClasses,
  x: () => decide("remove"),
  s: same,
  u: undo,
  f: () => {
    const names = [...document.querySelectorAll("#kinds button")].map((button) => button.value);
    filter(names[(names.indexOf(kind) + 1) % names.length]);
  },
  arrowleft: () => turn(-1),
  arrowright: () => turn(1),
  "?": () => find("help").showModal(),
};

document.addEventListener("keydown", (event) => {
  if (document.querySelector("dialog[open]")) return;
  // Where letters are not Latin, what counts is where the key is.
  const pressed = /^[ -~]+$/.test(event.key) ? event.key.toLowerCase() : event.code.replace(/^Key/, "").toLowerCase();
  const isUndo = (event.ctrlKey || event.metaKey) && !event.shiftKey && pressed === "z";
  if (!isUndo && (event.ctrlKey || event.metaKey || event.altKey)) return;
  if (event.repeat && !pressed.startsWith("arrow")) return; // a key that is held decides once
  const neighbours = find("neighbours").querySelectorAll("button");
  if (isUndo) undo();
  else if (/^[1-9]$/.test(pressed) && pressed <= neighbours.length && state.at !== END) choose(Number(pressed) - 1);
  else if (Object.hasOwn(ACTIONS, pressed)) ACTIONS[pressed]();
  else return;
  event.preventDefault();
});

const CLICKS = {
  keep: ACTIONS.k,
  relabel: openClasses,
  remove: ACTIONS.x,
  same,
  undo,
  back: ACTIONS.arrowleft,
  forward: ACTIONS.arrowright,
  "show-help": ACTIONS["?"],
  "new-class": makeClass,
  save,
  "save-too": save,
  load: () => find("file").click(),
  "go-on": () => {
    if (!visible().some(isOpen)) kind = "";
    go(nextOpen(END));
  },
  copy: async () => {
    getSelection().selectAllChildren(find("command"));
    // Without permission the command is selected, to be copied by hand.
    await navigator.clipboard?.writeText(find("command").textContent).catch(() => document.execCommand("copy"));
    say("Copied.");
  },
};
for (const [id, act] of Object.entries(CLICKS)) find(id).addEventListener("click", act);
for (const button of document.querySelectorAll("#kinds button")) {
  button.addEventListener("click", () => filter(button.value));
}
for (const dialog of document.querySelectorAll("dialog")) {
  // A click beside it closes it.
  dialog.addEventListener("click", ({ target, clientX, clientY }) => {
    const { left, right, top, bottom } = dialog.getBoundingClientRect();
    const isInside = left <= clientX && clientX <= right && top <= clientY && clientY <= bottom;
    if (target === dialog && !isInside) dialog.close();
  });
}
find("file").addEventListener("change", async ({ target }) => {
  if (target.files.length) await load(target.files[0]);
  target.value = ""; // so that the same file can be loaded again
});
addEventListener("beforeunload", (event) => {
  if (!storage && state.unsaved) event.preventDefault();
});

show();
