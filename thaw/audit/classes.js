// The list of classes, of which one is chosen for a picture; review.js, behind it, opens it.

const fold = (text) => text.normalize("NFKD").replace(/\p{M}/gu, "").toLowerCase();
const hasDigits = classes.some((name) => /\d/.test(name)); // then digits search, and choose nothing
let offered = [];
let marked = 0;

function openClasses() {
  if (state.at === END) return;
  find("search").value = "";
  offer();
  find("classes").showModal();
  // On a phone its keyboard would hide the classes.
  if (matchMedia("(hover: hover)").matches) find("search").focus();
}

// All classes: those of the data, and those that have been made here or in a file.
function names() {
  const made = rows().flatMap(([, action, value]) => (action === "relabel" ? [value] : []));
  const shown = suspects.flatMap(({ label, resembles }) => [label, ...resembles.map((one) => one.label)]);
  return [...new Set([...classes, ...shown, ...made])];
}

// The classes that fit what is searched for: first the suggestion, then those of the neighbours, then all others.
function offer() {
  const { label, suggestion, resembles } = suspects[state.at];
  const order = [...new Set([suggestion, ...resembles.map((one) => one.label), ...names()])];
  const wanted = fold(bare(find("search").value));
  offered = order.filter((name) => name && name !== label && fold(name).includes(wanted));
  const typed = bare(find("search").value);
  const isNew = isCorrection(["-", "relabel", typed]) && !names().some((name) => fold(name) === wanted);
  find("new-class").hidden = !isNew;
  find("new-class").textContent = `Make “${typed}” a new class…`;
  // Who types the whole name of a class means that one.
  const exact = offered.findIndex((name) => fold(name) === wanted);
  mark(Math.max(0, exact));
}

// A name that is no class yet may be a slip, so it is asked for twice.
function makeClass() {
  const name = bare(find("search").value);
  const near = names().reduce((best, one) => (far(one, name) < far(best, name) ? one : best));
  const meant = far(near, name) <= Math.ceil(name.length / 3) ? ` Did you mean “${near}”?` : "";
  if (!confirm(`“${name}” is no class yet.${meant} Make it a new class?`)) return;
  find("classes").close();
  decide("relabel", name);
}

// How many letters have to be changed, added or left out to make one name of another (Levenshtein).
function far(name, another) {
  const [one, other] = [fold(name), fold(another)];
  let last = [...Array(other.length + 1).keys()];
  for (let row = 1; row <= one.length; row++) {
    const next = [row];
    for (let at = 1; at <= other.length; at++) {
      next[at] = Math.min(next[at - 1] + 1, last[at] + 1, last[at - 1] + (one[row - 1] !== other[at - 1]));
    }
    last = next;
  }
  return last.at(-1);
}

function mark(place) {
  marked = Math.min(Math.max(0, place), offered.length - 1);
  const { suggestion } = suspects[state.at];
  find("options").replaceChildren(
    ...offered.map((name, place) => {
      const number = place < 9 && !hasDigits ? [make("kbd", {}, String(place + 1))] : [];
      const hint = name === suggestion ? [make("span", { className: "soft" }, "suggested")] : [];
      const option = make("li", { id: `option-${place}`, role: "option", onclick: () => relabel(place) });
      option.append(...number, named(name), ...hint);
      option.setAttribute("aria-selected", place === marked);
      return option;
    }),
  );
  find("no-class").hidden = offered.length > 0;
  find("search").setAttribute("aria-activedescendant", offered.length ? `option-${marked}` : "");
  find("options").children[marked]?.scrollIntoView({ block: "nearest" });
}

function relabel(place) {
  if (!(place in offered)) return;
  find("classes").close();
  decide("relabel", offered[place]);
}

find("search").addEventListener("input", offer);
find("search").addEventListener("keydown", (event) => {
  const isDigit = /^[1-9]$/.test(event.key) && !hasDigits && !event.target.value && !event.ctrlKey && !event.metaKey;
  if (event.key === "Enter" && !event.isComposing && !offered.length) find("new-class").focus();
  else if (event.key === "Enter" && !event.isComposing) relabel(marked);
  else if (isDigit) relabel(Number(event.key) - 1);
  else if (event.key === "ArrowDown") mark(marked + 1);
  else if (event.key === "ArrowUp") mark(marked - 1);
  else return;
  event.preventDefault();
});
