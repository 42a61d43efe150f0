// What the page shows: its data, the filters, and the order that follows from them.

const data = JSON.parse(document.getElementById("data").textContent);
const links = JSON.parse(document.getElementById("links").textContent);
const STATES = ["done", "failed", "waiting", "cancelled"];
const collator = new Intl.Collator();
const byId = (id) => document.getElementById(id);
const plain = (text) => text.normalize("NFC").toLocaleLowerCase();

const people = data.people.map(plain);
const filters = { state: "", person: "", prompt: "", sort: "" };

function text(number) {
  return number === undefined ? "" : data.texts[number];
}

// A picture that is recorded as done but cannot be shown is no success to look at: it counts as failed here.
function stateOf(picture) {
  return picture.state === "done" && picture.problem ? "failed" : picture.state;
}

function personOf(picture) {
  return data.people[picture.person];
}

function promptOf(picture) {
  return data.prompts[picture.prompt];
}

function wantedPeople() {
  const asked = plain(filters.person.trim());
  if (!asked) return null;
  const exact = people.indexOf(asked);
  if (exact >= 0) return new Set([exact]);
  return new Set(people.flatMap((name, number) => (name.includes(asked) ? [number] : [])));
}

// The pictures that fit, in the order that is asked for.
function chosen() {
  const who = wantedPeople();
  const found = data.pictures.filter(
    (picture) =>
      (!filters.state || stateOf(picture) === filters.state) &&
      (who === null || who.has(picture.person)) &&
      (filters.prompt === "" || picture.prompt === Number(filters.prompt)),
  );
  return filters.sort ? bySimilarity(found, filters.sort === "best" ? -1 : 1) : found;
}

// Those of unknown ID similarity come last in either direction.
function bySimilarity(pictures, direction) {
  const unknown = (picture) => picture.similarity === undefined;
  return pictures.slice().sort((a, b) => {
    if (unknown(a) || unknown(b)) return unknown(a) - unknown(b) || a.ordinal - b.ordinal;
    return direction * (a.similarity - b.similarity) || a.ordinal - b.ordinal;
  });
}

function counted() {
  const counts = Object.fromEntries(STATES.map((state) => [state, 0]));
  for (const picture of data.pictures) counts[stateOf(picture)] += 1;
  return counts;
}

function similarity(picture) {
  return picture.similarity === undefined ? "" : twoDigits(picture.similarity);
}

// What rounds to nothing has no sign.
function twoDigits(value) {
  return value.toFixed(2).replace("-0.00", "0.00");
}

function number(value) {
  return value.toLocaleString("en-US");
}

function several(count, one, many = `${one}s`) {
  return `${number(count)} ${count === 1 ? one : many}`;
}

function inWords(moment) {
  return moment ? `${moment.slice(0, 10)} ${moment.slice(11, 16)} UTC` : "";
}

// An element with text: the one way in which anything that somebody wrote comes into the page.
function element(name, className, content) {
  const made = document.createElement(name);
  if (className) made.className = className;
  if (content !== undefined) made.textContent = content;
  return made;
}
