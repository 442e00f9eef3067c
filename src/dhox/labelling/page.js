// The page of `dhox label`. Names come from files and class lists: they become text, never HTML.

const AHEAD = 5; // images that are fetched before they are shown, the present one among them
const TILES = innerWidth < 600 ? 12 : 24;
const SLOW_MS = 300; // a request that takes longer is shown to be under way
const SMALL = 100; // pixels: a smaller image is shown with its pixels

const $ = (id) => document.getElementById(id);
const token = new URLSearchParams(location.search).get("token") || "";
const headers = { Authorization: `Bearer ${token}` };
const tab = (sessionStorage.tab ||= Array.from(crypto.getRandomValues(new Uint8Array(12)), (one) => one.toString(16)).join(""));

let state = null; // what the server said last
let shown = null; // the image that waits for an answer
let busy = false; // a request that changes something is under way, or its picture is
let slow = 0; // the timer that says so
let lost = []; // what the next note adds: images that vanished, guesses that are used up
let grid = null; // the images of the grid, or null in the other mode
const pictures = new Map(); // number -> promise of an <img>, for the images that come next

function element(tag, text, className) {
  const made = document.createElement(tag);
  if (text !== undefined) made.textContent = text;
  if (className) made.className = className;
  return made;
}

function key(text) {
  return element("kbd", text);
}

function problem(text) {
  $("problem").hidden = !text;
  $("problem").textContent = text || "";
}

// What has just happened; and, once, that images were not there any more.
function note(text) {
  clearTimeout(slow);
  $("note").textContent = [text, ...lost].filter(Boolean).join(". ");
  lost = [];
}

const plural = (count, one, many = `${one}s`) => `${count} ${count === 1 ? one : many}`;

// Asking the server

class Refusal extends Error {
  constructor(status, text) {
    super(text);
    this.status = status;
  }
}

async function ask(path, options = {}) {
  let response;
  try {
    response = await fetch(path, { ...options, headers });
  } catch {
    throw new Refusal(0, "The server does not answer. Has dhox label ended? What was saved is in its log.");
  }
  if (response.ok) return response;
  const said = await response.json().catch(() => ({ error: `The server answers ${response.status}.`, fix: "" }));
  throw new Refusal(response.status, `${said.error} ${said.fix}`.trim());
}

const get = async (path, query = {}) => (await ask(`${path}?${new URLSearchParams(query)}`)).json();
const post = async (path, content) => (await ask(path, { method: "POST", body: JSON.stringify(content) })).json();

// One change at a time: until it is on disk and what follows is shown, no key does anything. A change notes what it did
// last: when the page says so, it takes the next key.
async function change(work) {
  if (busy) return;
  isBusy(true);
  slow = setTimeout(() => note("One moment ..."), SLOW_MS);
  try {
    await work();
    problem("");
  } catch (error) {
    problem(error.message);
    if (error.status === 409) await refresh();
  } finally {
    clearTimeout(slow);
    isBusy(false);
  }
}

function isBusy(now) {
  busy = now;
  document.body.setAttribute("aria-busy", String(now));
}

async function refresh() {
  try {
    await take(await get("next", { tab, ahead: AHEAD }));
    if (grid) await fillGrid();
  } catch (error) {
    problem(error.message);
  }
}

// Pictures

async function picture(number, large) {
  const blob = await (await ask(`image?number=${number}&large=${large ? 1 : 0}`)).blob();
  const image = new Image();
  image.alt = "";
  image.src = URL.createObjectURL(blob);
  await image.decode();
  image.classList.toggle("small", Math.max(image.naturalWidth, image.naturalHeight) < SMALL);
  return image;
}

function fetchAhead(coming) {
  const wanted = new Set(coming.map((one) => one.number));
  for (const [number, waiting] of pictures) {
    if (wanted.has(number)) continue;
    pictures.delete(number);
    waiting.then((image) => URL.revokeObjectURL(image.src), () => {});
  }
  for (const number of wanted) {
    if (pictures.has(number)) continue;
    const waiting = picture(number, true);
    waiting.catch((error) => error.status === 410 && lost.push(error.message)); // else told when it is to be shown
    pictures.set(number, waiting);
  }
}

// Picture, name and guesses change together.
async function show(one) {
  try {
    const image = await pictures.get(one.number);
    image.alt = "The image to label";
    display(one, image);
  } catch (error) {
    if (error.status === 410) {
      pictures.delete(one.number);
      await refresh();
    } else display(one, element("p", error.message, "error"));
  }
}

function display(one, picture) {
  shown = one;
  $("picture").replaceChildren(picture);
  $("name").textContent = one.name;
  $("again").hidden = !one.again;
  $("guesses").replaceChildren(...one.guesses.map(guessButton));
}

function guessButton(guess, index) {
  const made = element("button", undefined, "guess");
  made.type = "button";
  const bar = element("i");
  bar.style.width = `${100 * guess.probability}%`;
  made.append(bar, key(String(index + 1)), element("strong", guess.label), element("span", `${Math.round(100 * guess.probability)} %`));
  made.addEventListener("click", () => answer("label", guess.label));
  return made;
}

// What the server says becomes the page

async function take(said) {
  state = said;
  $("data").textContent = said.data;
  document.title = `${said.done} of ${said.total} - dhox label`;
  $("bar").max = Math.max(1, said.total);
  $("bar").value = said.done;
  const parts = [`${said.done} of ${said.total} done`];
  if (said.skipped) parts.push(`${said.skipped} skipped`);
  if (said.gone) parts.push(`${said.gone} not there any more`);
  $("done").textContent = parts.join(", ");
  $("rate").textContent = said.per_minute === null ? "" : `${Math.round(said.per_minute)} images per minute`;
  showClasses();
  fetchAhead(said.coming);
  const over = !said.coming.length && said.done >= said.total;
  $("finished").hidden = !over;
  $("work").hidden = over;
  if (over) finish();
  else if (said.coming.length) await show(said.coming[0]);
}

function finish() {
  shown = null;
  $("name").textContent = "";
  $("picture").replaceChildren();
  const { labelled, none, bad, gone } = state;
  const parts = [plural(labelled, "label"), `${none} none of these`, plural(bad, "bad image")];
  if (gone) parts.push(`${gone} not there any more`);
  $("finished-text").textContent = `${parts.join(", ")}.`;
  $("command").textContent = state.command;
}

const rows = new Map(); // label -> the row of a class

function showClasses() {
  const most = Math.max(1, ...state.classes.map((one) => one.count));
  for (const one of state.classes) {
    if (!rows.has(one.label)) rows.set(one.label, classRow(one.label));
    const { made, count, teacher, bar, digit, item } = rows.get(one.label);
    count.textContent = one.count || "";
    bar.style.width = `${(100 * one.count) / most}%`;
    digit.textContent = one.key ?? "";
    teacher.replaceChildren(...(one.judged ? [element("span", "teacher "), `${one.right} of ${one.judged}`] : []));
    made.title = one.judged ? `The teacher's first guess was right for ${one.right} of ${one.judged}` : "";
    made.classList.toggle("doubtful", one.not_understood);
    if (!item.isConnected) $("classes").append(item);
  }
  const doubtful = state.classes.filter((one) => one.not_understood).map((one) => one.label);
  $("doubtful").hidden = !doubtful.length;
  $("doubtful").textContent = `The teacher hardly ever guesses ${doubtful.join(", ")}: it may not understand the name. dhox audit tries others.`;
  const options = state.classes.filter((one) => one.guessed > 0);
  const chosen = $("which").value;
  $("which").replaceChildren(...options.map((one) => {
    const made = element("option", `${one.label} (${one.guessed})`);
    made.value = one.label;
    return made;
  }));
  const usual = options.reduce((most, one) => (one.guessed > (most?.guessed ?? 0) ? one : most), null)?.label;
  $("which").value = options.some((one) => one.label === chosen) ? chosen : usual;
  $("mode").hidden = !state.guesses;
  filter();
}

function classRow(label) {
  const item = element("li");
  const made = element("button");
  made.type = "button";
  const [bar, digit, teacher, count] = [element("i"), key(""), element("span", "", "teacher"), element("span", "", "count")];
  made.append(bar, digit, element("span", label, "label"), teacher, count);
  made.addEventListener("click", () => (grid ? choose(label) : answer("label", label)));
  item.append(made);
  return { item, made, bar, digit, teacher, count };
}

// Finding a class

function filter() {
  const text = $("find").value.trim().toLowerCase();
  let first = null;
  for (const [label, { item, made }] of rows) {
    item.hidden = !label.toLowerCase().includes(text);
    made.classList.remove("found");
    if (!item.hidden && (!first || (label.toLowerCase().startsWith(text) && !first[0].toLowerCase().startsWith(text)))) first = [label, made];
  }
  if (text && first) first[1].classList.add("found");
  $("no-class").hidden = Boolean(first);
  $("no-class").textContent = text ? `No class is called so. Enter makes it one.` : "No class yet: make one with +";
  return text ? first?.[0] : undefined;
}

$("find").addEventListener("input", filter);
$("find").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && $("find").value.trim()) {
    event.preventDefault(); // a dialog that opens now would take this Enter for its own
    const label = filter();
    const typed = $("find").value.trim();
    $("find").value = "";
    $("find").blur();
    filter();
    if (label) answer("label", label);
    else openDialog(typed);
  } else if (event.key === "Escape") {
    $("find").value = "";
    filter();
    $("find").blur();
  }
});

// Answers

function answer(kind, label) {
  if (grid || !shown) return;
  const one = shown;
  return change(async () => {
    const images = [{ number: one.number, revision: one.revision }];
    const said = await post("answer", { tab, images, answer: kind, label: label ?? null, ahead: AHEAD });
    document.activeElement?.blur();
    await take(said);
    note(`Saved: ${label ?? { skip: "skipped, it comes again at the end", none: "none of these", bad: "a bad image" }[kind]}`);
  });
}

function undo() {
  return change(async () => {
    const said = await post("undo", { tab, ahead: AHEAD });
    document.activeElement?.blur();
    await take(said);
    if (grid) await fillGrid();
    note(said.taken_back === 1 ? "Taken back: this image is open again" : `Taken back: ${said.taken_back} images are open again`);
  });
}

// A new class

function openDialog(name = "") {
  $("adding-name").value = name;
  $("adding-problem").hidden = true;
  $("adding-ok").textContent = grid || !shown ? "Add it" : "Add it, and this image is one";
  $("adding").showModal();
  $("adding-name").select();
}

$("adding").querySelector("form").addEventListener("submit", async (event) => {
  event.preventDefault();
  try {
    const said = await post("class", { name: $("adding-name").value });
    $("adding").close();
    state = { ...said, coming: state.coming };
    showClasses();
    if (grid || !shown) note(`New class: ${said.added}`);
    else await answer("label", said.added);
  } catch (error) {
    $("adding-problem").hidden = false;
    $("adding-problem").textContent = error.message;
  }
});
$("adding-cancel").addEventListener("click", () => $("adding").close());

// The grid: all that the first guess calls X

async function setGrid(on) {
  if (on && !$("which").options.length) {
    note("No open image has a guess.");
    return;
  }
  $("mode").setAttribute("aria-pressed", String(on));
  $("single").hidden = on;
  $("grid").hidden = !on;
  if (on) await fillGrid();
  else {
    grid = null;
    await refresh();
  }
}

function choose(label) {
  if (![...$("which").options].some((option) => option.value === label)) {
    note(`No open image is guessed to be ${label}.`);
    return;
  }
  $("which").value = label;
  change(fillGrid);
}

async function fillGrid() {
  if (!$("which").options.length) {
    grid = null;
    await setGrid(false);
    lost.push("No open image has a guess any more");
    return;
  }
  const found = await get("grid", { tab, label: $("which").value, count: TILES });
  grid = { label: found.label, images: found.images };
  $("of").textContent = found.images.length < found.all ? `${found.images.length} of ${found.all}` : plural(found.all, "image");
  $("tiles").querySelectorAll("img").forEach((image) => URL.revokeObjectURL(image.src));
  $("tiles").replaceChildren(...found.images.map(tile));
  countTiles();
  $("tiles").querySelector(".tile")?.focus({ preventScroll: true });
}

function tile(one) {
  const made = element("button", undefined, "tile");
  made.type = "button";
  made.setAttribute("aria-pressed", "false");
  made.setAttribute("aria-label", one.name);
  made.addEventListener("click", () => {
    made.setAttribute("aria-pressed", String(made.getAttribute("aria-pressed") !== "true"));
    countTiles();
  });
  picture(one.number, false).then(
    (image) => made.append(image),
    (error) => {
      made.append(element("span", "cannot be shown", "error"));
      made.setAttribute("aria-pressed", "true");
      note(error.message);
      countTiles();
    },
  );
  return made;
}

const takenAway = () => [...$("tiles").children].map((made) => made.getAttribute("aria-pressed") === "true");

function countTiles() {
  const away = takenAway().filter(Boolean).length;
  const rest = grid.images.length - away;
  $("confirm").disabled = !grid.images.length;
  const text = rest ? `${rest === 1 ? "This one is" : away ? `The other ${rest} are` : `All ${rest} are`} ${grid.label}` : `None is ${grid.label}`;
  $("confirm").replaceChildren(key("Enter"), text);
}

function confirmGrid() {
  if (!grid?.images.length) return;
  const away = takenAway();
  const { label, images } = grid;
  const seen = images.map(({ number, revision }) => ({ number, revision }));
  const kept = seen.filter((_, index) => !away[index]);
  const not = seen.filter((_, index) => away[index]);
  return change(async () => {
    const content = kept.length ? { images: kept, answer: "label", taken_away: not } : { images: not, answer: "not" };
    const said = await post("answer", { tab, ahead: AHEAD, label, ...content });
    await take(said);
    if (grid && shown) await fillGrid();
    note(`Saved: ${plural(kept.length, "image")} ${label}, ${not.length} taken away`);
  });
}

function moveTile(key) {
  const all = [...$("tiles").children];
  const columns = getComputedStyle($("tiles")).gridTemplateColumns.split(" ").length;
  const step = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -columns, ArrowDown: columns }[key];
  const at = all.indexOf(document.activeElement);
  all[at < 0 ? 0 : Math.min(all.length - 1, Math.max(0, at + step))]?.focus();
}

// The end

async function end() {
  try {
    await ask("end", { method: "POST" });
    problem("");
    $("work").hidden = true;
    $("finished").hidden = true;
    document.querySelector(".modes").hidden = true;
    shown = grid = null;
    note("Ended: every answer is saved. The terminal says what comes next. This page can be closed.");
  } catch (error) {
    problem(error.message);
  }
}

// Keys

const letters = {
  s: () => answer("skip"), n: () => answer("none"), b: () => answer("bad"), u: undo, Backspace: undo,
  "+": () => openDialog(), "/": () => $("find").focus(), g: () => change(() => setGrid(!grid)),
  " ": () => shown?.guesses.length && answer("label", shown.guesses[0].label),
};

function digit(number) {
  const guess = shown?.guesses[number - 1];
  const label = guess?.label ?? state.classes.find((one) => one.key === number)?.label;
  if (label) answer("label", label);
}

addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.repeat || !state || $("adding").open) return;
  const focused = document.activeElement;
  if (focused.matches("input, select") && !focused.closest("dialog")) return; // one that has closed may keep the focus
  if (grid && event.key.startsWith("Arrow")) {
    event.preventDefault();
    moveTile(event.key);
  } else if (grid && event.key === "Enter" && (focused === document.body || focused.matches(".tile"))) {
    event.preventDefault();
    confirmGrid();
  } else if (event.key === " " && focused.matches("button:focus-visible")) {
    return; // the button that the keyboard has reached
  } else if (!grid && /^[1-9]$/.test(event.key)) {
    digit(Number(event.key));
  } else if (letters[event.key] && (shown || "u Backspace".includes(event.key))) {
    event.preventDefault();
    letters[event.key]();
  }
});

for (const kind of ["skip", "none", "bad"]) $(kind).addEventListener("click", () => answer(kind));
for (const id of ["undo", "grid-undo", "finished-undo"]) $(id).addEventListener("click", undo);
for (const id of ["end", "finished-end"]) $(id).addEventListener("click", end);
$("new").addEventListener("click", () => openDialog());
$("mode").addEventListener("click", () => change(() => setGrid(!grid)));
$("which").addEventListener("change", () => change(fillGrid));
$("confirm").addEventListener("click", confirmGrid);
addEventListener("pagehide", () => {
  fetch("leave", { method: "POST", headers, body: JSON.stringify({ tab }), keepalive: true }).catch(() => {});
});

await refresh();
if (lost.length) note("");
