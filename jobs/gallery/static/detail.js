// One picture in full: the file itself, and all that is known of its making.

const dialog = byId("detail");
const full = byId("full");
const TIMES = {
  weights: "weight set",
  merge: "merging",
  denoise: "drawing",
  decode: "decoding",
  detail: "faces again",
  finish: "finishing",
  encode: "encoding",
  upload: "storing",
};
let opened = -1;

function openDetail(index) {
  opened = index;
  const picture = shown[index];
  byId("detail-title").textContent = personOf(picture);
  byId("where").textContent = promptOf(picture);
  byId("place").textContent = `${number(index + 1)} of ${number(shown.length)}`;
  byId("before").disabled = index === 0;
  byId("after").disabled = index === shown.length - 1;
  showStage(picture);
  showActions(picture);
  showFacts(picture);
  if (!dialog.open) dialog.showModal();
  byId("stage").parentElement.scrollTop = 0;
  remember();
}

function addressOf(file) {
  return links.pictures === null || file === undefined ? null : links.pictures + file;
}

function showStage(picture) {
  const preview = thumbnail(picture, "thumb");
  const address = picture.problem ? null : addressOf(picture.file);
  byId("preview").replaceChildren(preview);
  byId("stage").classList.toggle("waiting", address !== null);
  full.hidden = true;
  full.removeAttribute("src");
  byId("reason").hidden = true;
  if (address === null) return;
  full.alt = spoken(picture);
  full.src = address;
}

full.addEventListener("load", () => {
  full.hidden = false;
  byId("stage").classList.remove("waiting");
});
full.addEventListener("error", () => {
  if (!full.hasAttribute("src")) return;
  byId("stage").classList.remove("waiting");
  byId("reason").textContent = "The full picture could not be loaded; it may have been moved or removed.";
  byId("reason").hidden = false;
});

function showActions(picture) {
  const made = [];
  const address = picture.problem ? null : addressOf(picture.file);
  if (address !== null) made.push(outward(address, "Open the file"));
  for (const [name, file] of address === null ? [] : picture.further ?? []) {
    made.push(outward(links.pictures + file, name));
  }
  if (stateOf(picture) === "done" && address === null) {
    if (links.serve !== null) made.push(outward(`${links.serve}/pictures/${picture.id}`, "Full picture"));
    else made.push(element("p", "hint", "Full pictures are shown by `portraits serve`, or fetched by `portraits results`."));
  }
  byId("actions").replaceChildren(...made);
}

function outward(address, told) {
  const made = element("a", "button", told);
  made.href = address;
  made.target = "_blank";
  made.rel = "noopener noreferrer";
  return made;
}

function showFacts(picture) {
  const rows = [
    ["State", stateOf(picture)],
    ["Reason", [picture.code, picture.problem ?? picture.error].filter(Boolean).join(": ")],
    ["ID similarity", similarityInWords(picture)],
    ["Seed", String(picture.seed)],
    ["Prompt", text(picture.text)],
    ["Not wanted", text(picture.negative)],
    ["Size", `${picture.size[0]} × ${picture.size[1]}`],
    ["Drawn by", [`${picture.steps} steps`, text(picture.scheduler), `guidance ${picture.guidance}`].join(", ")],
    ["LoRA", `weight ${picture.weight}`],
    ["Draws", picture.draws > 1 ? `best of ${picture.draws}` : ""],
    ["Time", timesInWords(picture)],
    ["Finished", inWords(picture.finished_at)],
    ["Device", text(picture.device)],
    ["File", picture.bytes ? `${number(Math.ceil(picture.bytes / 1024))} KiB` : ""],
    ["SHA-256", picture.sha256 ?? ""],
    ["Model", text(picture.model).slice(0, 16)],
    ["Weight set", text(picture.weight_set).slice(0, 16)],
    ["Picture", picture.id],
  ];
  const told = rows.filter(([, value]) => value);
  byId("meaning").hidden = picture.similarity === undefined;
  byId("told").replaceChildren(...told.flatMap(([name, value]) => [element("dt", "", name), element("dd", "", value)]));
}

function similarityInWords(picture) {
  const by = text(picture.recogniser);
  if (picture.similarity !== undefined) return `${picture.similarity.toFixed(3)}${by ? ` (${by})` : ""}`;
  return picture.similarity_reason ? `not measured: ${picture.similarity_reason}` : "";
}

function timesInWords(picture) {
  const parts = Object.entries(picture.seconds ?? {});
  if (!parts.length) return "";
  const sum = parts.reduce((total, [, seconds]) => total + seconds, 0);
  const most = parts.filter(([, seconds]) => seconds >= 0.005).map(([name, seconds]) => `${TIMES[name]} ${seconds.toFixed(2)}`);
  return `${sum.toFixed(2)} s${most.length > 1 ? ` (${most.join(", ")})` : ""}`;
}

function stepDetail(step) {
  const to = opened + step;
  if (to >= 0 && to < shown.length) openDetail(to);
}

dialog.addEventListener("close", () => {
  const index = opened;
  opened = -1;
  full.removeAttribute("src");
  remember();
  if (index >= 0 && index < shown.length) focusOn(index);
});
dialog.addEventListener("click", (event) => {
  if (event.target === dialog) dialog.close(); // beside the box
});
dialog.addEventListener("keydown", (event) => {
  const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
  if (!step || event.altKey || event.ctrlKey || event.metaKey) return;
  event.preventDefault();
  stepDetail(step);
});
byId("close").addEventListener("click", () => dialog.close());
byId("before").addEventListener("click", () => stepDetail(-1));
byId("after").addEventListener("click", () => stepDetail(1));
