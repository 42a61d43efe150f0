// The page put together: its head, its tools, and what keys and the address mean.

function start() {
  const head = data.head;
  const many = links.previous !== null || links.next !== null;
  byId("facts").textContent = [
    `${several(head.counts.renders, "picture")} of ${several(head.people, "person", "people")}`,
    `job ${head.state}`,
    `profile ${head.profile}`,
    `as of ${inWords(head.made_at)}`,
  ].join(" · ");
  byId("notice").textContent = data.notice ?? "";
  byId("notice").hidden = !data.notice;
  if (links.back !== null) showBack();
  if (many) showPages();
  if (links.expires_at) {
    byId("note").textContent = `The links of this page expire on ${inWords(links.expires_at)}.`;
    warnWhenExpired();
  }
  fillTools();
  recall();
  update();
  openAsked();
}

function showBack() {
  const made = element("a", "", "← Back to the job");
  made.href = links.back;
  byId("back").append(made);
  byId("back").hidden = false;
}

function showPages() {
  const nav = byId("pages");
  const last = data.first + data.pictures.length - 1;
  if (links.previous) nav.append(pageLink(links.previous, "← Previous", "prev"));
  const where = `Pictures ${number(data.first)}–${number(last)} of ${number(data.head.counts.renders)}`;
  nav.append(element("span", "", where));
  if (links.next) nav.append(pageLink(links.next, "Next →", "next"));
  nav.hidden = false;
}

function pageLink(address, told, rel) {
  const made = element("a", "button", told);
  made.href = address;
  made.rel = rel;
  return made;
}

function fillTools() {
  const counts = counted();
  const states = [["", "All", data.pictures.length], ...STATES.map((state) => [state, state, counts[state]])];
  byId("states").replaceChildren(
    ...states
      .filter(([state, , count]) => !state || count)
      .map(([state, told, count]) => {
        const made = element("button", `chip ${state}`, `${told} `);
        made.type = "button";
        made.dataset.state = state;
        made.append(element("span", "number", number(count)));
        return made;
      }),
  );
  const names = data.people.slice().sort(collator.compare).slice(0, 500);
  byId("people").replaceChildren(...names.map((name) => Object.assign(document.createElement("option"), { value: name })));
  byId("prompt").append(new Option("Any prompt", ""), ...data.prompts.map((name, n) => new Option(name, String(n))));
}

// Show what the filters say, from the top.
function update() {
  for (const chip of byId("states").children) {
    chip.setAttribute("aria-pressed", String(chip.dataset.state === filters.state));
  }
  byId("person").value = filters.person;
  byId("prompt").value = filters.prompt;
  byId("sort").value = filters.sort;
  shown = chosen();
  current = 0;
  arrange();
  view.scrollTo(0, 0);
  draw();
  byId("nothing").hidden = shown.length > 0;
  const all = data.pictures.length;
  const of = shown.length === all ? "" : `${number(shown.length)} of `;
  byId("count").textContent = `${of}${several(all, "picture")}${links.previous || links.next ? " on this page" : ""}`;
  remember();
}

function setFilter(name, value) {
  filters[name] = value;
  update();
}

// The address keeps filters and the open picture, so that it can be sent to somebody. `opened` is asked for by its id.
function remember() {
  const told = new URLSearchParams(Object.entries(filters).filter(([, value]) => value !== ""));
  if (filters.prompt !== "") told.set("prompt", data.prompts[Number(filters.prompt)]);
  if (opened >= 0) told.set("picture", shown[opened].id);
  history.replaceState(null, "", `#${told}`);
}

let asked = "";

function recall() {
  const told = new URLSearchParams(location.hash.slice(1));
  const prompt = data.prompts.indexOf(told.get("prompt"));
  filters.state = STATES.includes(told.get("state")) ? told.get("state") : "";
  filters.person = told.get("person") ?? "";
  filters.prompt = prompt < 0 ? "" : String(prompt);
  filters.sort = ["best", "worst"].includes(told.get("sort")) ? told.get("sort") : "";
  asked = told.get("picture") ?? "";
}

function openAsked() {
  const index = shown.findIndex((picture) => picture.id === asked);
  if (asked && index >= 0) openDetail(index);
}

function missing() {
  byId("alert").textContent =
    links.expires_at && Date.now() > Date.parse(links.expires_at)
      ? expiredInWords()
      : "Some thumbnails could not be loaded: their files are missing, or may not be read from here.";
  byId("alert").hidden = false;
}

function expiredInWords() {
  return `The links of this page expired on ${inWords(links.expires_at)}. For new ones: ${links.renew}`;
}

function warnWhenExpired() {
  const left = Date.parse(links.expires_at) - Date.now();
  const tell = () => {
    byId("alert").textContent = expiredInWords();
    byId("alert").hidden = false;
  };
  if (left <= 0) tell();
  else if (left < 2 ** 31) setTimeout(tell, left);
}

let waits = false;
view.addEventListener(
  "scroll",
  () => {
    if (waits) return;
    waits = true;
    requestAnimationFrame(() => {
      waits = false;
      draw();
    });
  },
  { passive: true },
);
// The width decides how many stand in a line; the height only how much is in view.
let width = 0;
new ResizeObserver(() => {
  if (view.clientWidth === width) return draw();
  width = view.clientWidth;
  const at = shown[layout.lines[Math.max(0, beyond(layout.lines, view.scrollTop) - 1)]?.items[0]];
  arrange();
  if (at && view.scrollTop > 0) view.scrollTop = places[shown.indexOf(at)].y - GAP;
  draw();
}).observe(view);

canvas.addEventListener("click", (event) => {
  const tile = event.target.closest(".tile");
  if (!tile) return;
  focusOn(Number(tile.dataset.index));
  openDetail(current);
});
canvas.addEventListener("keydown", (event) => {
  if (event.altKey || event.metaKey || !event.target.closest(".tile")) return;
  let to = -1;
  if (["ArrowLeft", "ArrowRight", "ArrowUp", "ArrowDown", "PageUp", "PageDown"].includes(event.key) && !event.ctrlKey) {
    to = neighbour(current, event.key);
  } else if (event.key === "Home") to = event.ctrlKey ? layout.lines[0].items[0] : layout.lines[places[current].line].items[0];
  else if (event.key === "End") to = (event.ctrlKey ? layout.lines.at(-1) : layout.lines[places[current].line]).items.at(-1);
  if (to < 0) return;
  event.preventDefault();
  focusOn(to);
});
document.addEventListener("keydown", (event) => {
  if (event.key !== "/" || dialog.open || event.target.matches("input, select")) return;
  event.preventDefault();
  byId("person").focus();
});
byId("tools").addEventListener("submit", (event) => event.preventDefault());
byId("states").addEventListener("click", (event) => {
  const chip = event.target.closest(".chip");
  if (chip) setFilter("state", chip.dataset.state);
});
byId("person").addEventListener("input", (event) => setFilter("person", event.target.value));
byId("prompt").addEventListener("change", (event) => setFilter("prompt", event.target.value));
byId("sort").addEventListener("change", (event) => setFilter("sort", event.target.value));
byId("reset").addEventListener("click", () => {
  Object.assign(filters, { state: "", person: "", prompt: "" });
  update();
  byId("person").focus();
});
start();
