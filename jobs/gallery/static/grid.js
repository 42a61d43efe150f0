// The pictures as lines of tiles. Only what is in view, and a little around it, is in the document.

const GAP = 10;
const CAPTION = 24;
const view = byId("view");
const canvas = byId("canvas");
const heads = byId("heads");
const tiles = new Map(); // place in `shown` -> element
const labels = new Map(); // place in `layout.groups` -> element
const sheets = new Map(); // number -> link element

let shown = []; // pictures in order
let places = []; // of each: x, y, line
let layout = { lines: [], groups: [], width: 0, height: 0, tile: [0, 0], line: 0 };
let current = 0; // the picture that the keyboard is on

// How wide a tile is, if so many stand side by side: never so large that less than two lines are in view.
function tileWidth(room, columns) {
  const [least, most] = isNarrow() ? [76, 176] : [104, 216];
  const tallest = Math.max(150, view.clientHeight * 0.44 - CAPTION) * data.aspect;
  return Math.floor(Math.min(Math.max(room / columns - GAP, least), most, tallest));
}

function isNarrow() {
  return view.clientWidth < 640;
}

function arrange() {
  const flat = filters.sort !== "";
  layout = flat ? inLines() : byPeople();
  for (const made of [...tiles.values(), ...labels.values()]) made.remove();
  tiles.clear();
  labels.clear();
  heads.hidden = flat || shown.length === 0;
  canvas.style.height = `${layout.height}px`;
  canvas.style.width = heads.style.width = `${layout.width}px`;
  view.style.setProperty("--tile-width", `${layout.tile[0]}px`);
  view.style.setProperty("--tile-height", `${layout.tile[1]}px`);
  view.classList.toggle("flat", flat);
  drawHeads();
}

function inLines() {
  const edge = isNarrow() ? GAP : 2 * GAP;
  const room = view.clientWidth - 2 * edge + GAP;
  const columns = Math.max(2, Math.round(room / ((isNarrow() ? 122 : 176) * Math.sqrt(data.aspect) + GAP)));
  const width = Math.floor(room / columns) - GAP;
  const tile = [width, Math.round(width / data.aspect)];
  const line = tile[1] + CAPTION + 16 + GAP;
  const lines = [];
  places = shown.map((_, index) => {
    const row = Math.floor(index / columns);
    if (row === lines.length) lines.push({ y: GAP + row * line, items: [] });
    lines[row].items.push(index);
    return { x: edge + (index % columns) * (width + GAP), y: lines[row].y, line: row };
  });
  return { lines, groups: [], columns: [], width: view.clientWidth - 1, height: lines.length * line + 2 * GAP, tile, line };
}

// One group of lines for each person. A prompt of several seeds shows them side by side.
function byPeople() {
  const cells = new Map(); // person -> prompt -> places in `shown`
  const most = new Map(); // prompt -> how many pictures of one person it has
  shown.forEach((picture, index) => {
    if (!cells.has(picture.person)) cells.set(picture.person, new Map());
    const mine = cells.get(picture.person);
    if (!mine.has(picture.prompt)) mine.set(picture.prompt, []);
    most.set(picture.prompt, Math.max(most.get(picture.prompt) ?? 0, mine.get(picture.prompt).push(index)));
  });
  const label = isNarrow() ? { width: GAP, height: 32 } : { width: 176, height: 0 };
  const found = { lines: [], groups: [], height: 0, ...columnsOf(most, label.width) };
  places = new Array(shown.length);
  const order = [...cells.keys()].sort((a, b) => a - b);
  for (const person of order) addGroup(found, person, cells.get(person), label.height);
  found.height += GAP;
  return found;
}

// Where each prompt stands, and how large a tile is: few prompts leave room for more seeds side by side.
function columnsOf(most, left) {
  const prompts = [...most.keys()].sort((a, b) => a - b);
  const room = Math.floor(view.clientWidth / (isNarrow() ? 120 : 190) / prompts.length);
  const abreast = prompts.map((prompt) => Math.min(most.get(prompt), Math.max(2, room)));
  const apart = Math.max(...abreast) > 1 ? GAP : 0; // columns of several stand further apart
  const across = abreast.reduce((sum, count) => sum + count, 0);
  const width = tileWidth(view.clientWidth - left - GAP - prompts.length * apart, across);
  const tile = [width, Math.round(width / data.aspect)];
  let x = left;
  const columns = prompts.map((prompt, n) => {
    const column = { prompt, x, abreast: abreast[n], width: abreast[n] * (width + GAP) - GAP };
    x += column.width + GAP + apart;
    return column;
  });
  return { columns, tile, line: tile[1] + CAPTION + GAP, width: Math.max(view.clientWidth - 1, x - apart) };
}

function addGroup(found, person, mine, above) {
  const top = found.height;
  const filled = found.columns.filter((column) => mine.has(column.prompt));
  const rows = Math.max(...filled.map((column) => Math.ceil(mine.get(column.prompt).length / column.abreast)));
  const first = found.lines.length;
  for (let row = 0; row < rows; row += 1) {
    found.lines.push({ y: top + above + GAP + row * found.line, items: [] });
  }
  for (const column of filled) {
    mine.get(column.prompt).forEach((index, n) => {
      const line = first + Math.floor(n / column.abreast);
      const x = column.x + (n % column.abreast) * (found.tile[0] + GAP);
      places[index] = { x, y: found.lines[line].y, line };
      found.lines[line].items.push(index);
    });
  }
  found.height = top + above + rows * found.line + GAP;
  found.groups.push({ person, y: top, height: found.height - top, items: [...mine.values()].flat() });
}

function drawHeads() {
  heads.replaceChildren(
    element("div", "corner"),
    ...(layout.columns ?? []).map((column) => {
      const made = element("div", "head", data.prompts[column.prompt]);
      made.title = data.prompts[column.prompt];
      made.style.left = `${column.x}px`;
      made.style.width = `${column.width}px`;
      return made;
    }),
  );
}

// The first place in an ascending list whose `y` is beyond.
function beyond(list, y) {
  let low = 0;
  let high = list.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (list[middle].y <= y) low = middle + 1;
    else high = middle;
  }
  return low;
}

function draw() {
  const around = view.clientHeight / 2;
  const [top, bottom] = [view.scrollTop - around, view.scrollTop + view.clientHeight + around];
  const [left, right] = [view.scrollLeft - 2 * layout.tile[0], view.scrollLeft + view.clientWidth + layout.tile[0]];
  const wanted = new Set();
  for (let n = Math.max(0, beyond(layout.lines, top) - 1); n < layout.lines.length && layout.lines[n].y < bottom; n += 1) {
    for (const index of layout.lines[n].items) if (places[index].x > left && places[index].x < right) wanted.add(index);
  }
  keep(tiles, wanted, makeTile);
  const groups = new Set();
  for (let n = Math.max(0, beyond(layout.groups, top) - 1); n < layout.groups.length && layout.groups[n].y < bottom; n += 1) {
    groups.add(n);
  }
  keep(labels, groups, makeLabel);
}

// Make what is missing, remove what is not wanted; what has the keyboard's focus stays.
function keep(made, wanted, make) {
  for (const [key, one] of made) {
    if (!wanted.has(key) && !one.contains(document.activeElement)) {
      one.remove();
      made.delete(key);
    }
  }
  const fresh = document.createDocumentFragment();
  for (const key of wanted) {
    if (made.has(key)) continue;
    const one = make(key);
    made.set(key, one);
    fresh.append(one);
  }
  canvas.append(fresh);
}

function makeTile(index) {
  const picture = shown[index];
  const tile = element("button", "tile");
  tile.type = "button";
  tile.dataset.index = index;
  tile.tabIndex = index === current ? 0 : -1;
  tile.style.transform = `translate(${places[index].x}px, ${places[index].y}px)`;
  tile.setAttribute("aria-label", spoken(picture));
  tile.append(thumbnail(picture, "thumb"), caption(picture));
  return tile;
}

function spoken(picture) {
  const state = stateOf(picture);
  const told = [personOf(picture), promptOf(picture), `seed ${picture.seed}`];
  if (state !== "done") told.push(state, picture.code ?? "");
  if (similarity(picture)) told.push(`ID similarity ${similarity(picture)}`);
  return told.filter(Boolean).join(", ");
}

// A small picture, or why there is none.
function thumbnail(picture, className) {
  if (picture.thumbnail !== undefined) {
    need(Math.floor(picture.thumbnail / data.sheet_size));
    return element("span", `${className} picture t${picture.thumbnail}`);
  }
  const state = stateOf(picture);
  const made = element("span", `${className} blank ${state}`);
  made.append(element("b", "", picture.code ?? (picture.problem ? "missing" : state)));
  const why = picture.problem ?? picture.error;
  if (why) made.append(element("span", "why", why));
  return made;
}

function caption(picture) {
  const made = element("span", "caption");
  if (filters.sort) made.append(element("span", "who", `${personOf(picture)} · ${promptOf(picture)}`));
  const line = element("span", "line");
  const room = layout.tile[0];
  if (room >= 128 || !similarity(picture)) line.append(element("span", "seed", `${room < 128 ? "" : "seed "}${picture.seed}`));
  if (similarity(picture)) line.append(shortSimilarity("similarity", similarity(picture)));
  made.append(line);
  return made;
}

// An ID similarity where there is little room; the whole name is in its title.
function shortSimilarity(className, value, title = "ID similarity") {
  const made = element("span", className);
  const name = element("abbr", "", "ID");
  name.title = title;
  made.append(name, ` ${value}`);
  return made;
}

function makeLabel(n) {
  const group = layout.groups[n];
  const made = element("div", "group");
  made.style.top = `${group.y}px`; // no transform: what stands still in it is placed without it
  made.style.height = `${group.height}px`;
  const rail = element("div", "rail");
  const label = element("div", "person");
  const name = element("span", "name", data.people[group.person]);
  name.title = data.people[group.person];
  label.append(name, element("span", "sum", several(group.items.length, "picture")));
  const failed = group.items.filter((index) => stateOf(shown[index]) === "failed").length;
  if (failed) label.append(element("span", "sum bad", `${number(failed)} failed`));
  const known = group.items.map((index) => shown[index].similarity).filter((value) => value !== undefined);
  if (known.length) {
    const mean = known.reduce((sum, value) => sum + value, 0) / known.length;
    label.append(shortSimilarity("sum", twoDigits(mean), "Mean ID similarity"));
  }
  rail.append(label);
  made.append(rail);
  return made;
}

// A sheet of thumbnails is asked for when the first of them comes into view.
function need(n) {
  if (sheets.has(n) || n >= links.sheets.length) return;
  const link = element("link");
  link.rel = "stylesheet";
  link.href = links.sheets[n];
  link.addEventListener("error", () => missing());
  sheets.set(n, link);
  document.head.append(link);
}

// Bring a picture into view, beside the heads and names that stand still.
function reveal(index) {
  const place = places[index];
  if (!place) return;
  const above = heads.hidden ? 0 : heads.offsetHeight;
  const beside = isNarrow() || filters.sort ? 0 : 176;
  const [width, height] = [layout.tile[0] + GAP, layout.line];
  if (place.y < view.scrollTop) view.scrollTop = place.y - GAP;
  else if (place.y + height + above > view.scrollTop + view.clientHeight) {
    view.scrollTop = place.y + height + above - view.clientHeight;
  }
  if (place.x - beside < view.scrollLeft) view.scrollLeft = place.x - beside - GAP;
  else if (place.x + width > view.scrollLeft + view.clientWidth) view.scrollLeft = place.x + width - view.clientWidth;
}

function focusOn(index) {
  tiles.get(current)?.setAttribute("tabindex", "-1");
  current = index;
  reveal(index);
  draw();
  const tile = tiles.get(index);
  if (!tile) return;
  tile.tabIndex = 0;
  tile.focus({ preventScroll: true });
}

// Where an arrow leads: along the line, or to what is nearest in the line below or above.
function neighbour(index, key) {
  const { line, x } = places[index];
  const along = layout.lines[line].items;
  const step = { ArrowLeft: -1, ArrowRight: 1 }[key];
  if (step) return along[along.indexOf(index) + step] ?? layout.lines[line + step]?.items.at(step > 0 ? 0 : -1) ?? index;
  const page = Math.max(1, Math.floor(view.clientHeight / layout.line) - 1);
  const down = { ArrowUp: -1, ArrowDown: 1, PageUp: -page, PageDown: page }[key];
  const to = Math.min(Math.max(line + down, 0), layout.lines.length - 1);
  const items = layout.lines[to].items;
  return items.reduce((best, one) => (Math.abs(places[one].x - x) < Math.abs(places[best].x - x) ? one : best), items[0]);
}
