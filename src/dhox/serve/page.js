// The page of `dhox serve`. Names come from files and exports: they become text, never HTML.

const KEPT = 60; // results on the page
const AT_ONCE = 2; // images that are being asked for
const SPOKEN_MS = 3000; // a screen reader hears what the camera sees this often at most
const WINDOW_MS = 2000; // over which the frame rate is counted

const $ = (id) => document.getElementById(id);
const token = new URLSearchParams(location.search).get("token") || "";
const headers = { Authorization: `Bearer ${token}` };
let served = { models: [], largest_upload: Infinity };

function element(tag, text, className) {
  const made = document.createElement(tag);
  if (text !== undefined) made.textContent = text;
  if (className) made.className = className;
  return made;
}

function problem(text) {
  $("problem").hidden = !text;
  $("problem").textContent = text || "";
}

const wait = (ms) => new Promise((done) => setTimeout(done, ms));

async function ask(path, options = {}) {
  let response;
  try {
    response = await fetch(path, { ...options, headers });
  } catch {
    throw new Error("The server does not answer. Has dhox serve ended?");
  }
  if (response.status === 503 && response.headers.has("Retry-After")) {
    await wait(1000 * Number(response.headers.get("Retry-After")));
    return ask(path, options);
  }
  const said = await response.json().catch(() => ({ error: `The server answers ${response.status}.`, fix: "" }));
  if (!response.ok) throw new Error(`${said.error} ${said.fix}`.trim());
  return said;
}

async function classify(blob) {
  if (blob.size > served.largest_upload) {
    throw new Error(`It has ${megabytes(blob.size)} MB; at most ${megabytes(served.largest_upload)} MB are taken.`);
  }
  return (await ask("predict", { method: "POST", body: blob })).images[0].answers;
}

const megabytes = (bytes) => (bytes / 1e6).toFixed(bytes < 1e7 ? 1 : 0).replace(/\.0$/, "");
const percent = (share) => `${(100 * share).toFixed(1)} %`;
const ms = (value) => `${value < 10 ? value.toFixed(2) : value.toFixed(value < 100 ? 1 : 0)} ms`;

// What the models say of one image

function answerBlock(answer) {
  const block = element("div", undefined, "answer");
  block.append(element("div", answer.model, "dim model"));
  block.append(element("div", answer.unknown ? "unknown" : answer.predicted, answer.unknown ? "label unknown" : "label"));
  const top = element("ol", undefined, "top");
  for (const one of answer.top) {
    const row = element("li");
    const bar = element("i");
    bar.style.width = `${100 * one.probability}%`;
    row.append(bar, element("span", one.class), element("span", percent(one.probability)));
    top.append(row);
  }
  block.append(top);
  const times = element("div", undefined, "times dim");
  const { decode, model, all } = answer.latency_ms;
  for (const [what, value] of [["decode", decode], ["model", model], ["all", all]]) {
    times.append(element("span", `${what} ${ms(value)}`));
  }
  block.append(times);
  return block;
}

function differ(answers) {
  return new Set(answers.map((answer) => answer.predicted)).size > 1;
}

// Images that are dropped, chosen or pasted

const waiting = [];
let working = 0;
let asked = 0;
const counted = { answered: 0, failed: 0, differing: 0 };

function add(files) {
  if (!files.length) return;
  problem("");
  for (const file of files) waiting.push(file);
  asked += files.length;
  progress();
  while (working < AT_ONCE && waiting.length) work();
}

async function work() {
  working += 1;
  for (let file = waiting.shift(); file; file = waiting.shift()) {
    try {
      const answers = await classify(file);
      counted.answered += 1;
      counted.differing += differ(answers);
      show(file, answers);
    } catch (error) {
      counted.failed += 1;
      show(file, [], error.message);
    }
    progress();
  }
  working -= 1;
}

function progress() {
  const done = counted.answered + counted.failed;
  const parts = [done < asked ? `${done} of ${asked} images` : `${done} ${done === 1 ? "image" : "images"}`];
  if (counted.failed) parts.push(`${counted.failed} without an answer`);
  if (counted.differing) parts.push(`the models differ on ${counted.differing}`);
  $("status").textContent = asked ? `${parts.join(", ")}.` : "No image yet.";
  $("clear").hidden = !asked;
}

function show(file, answers, error) {
  const item = element("li");
  const thumb = element("div", undefined, "thumb");
  const image = element("img");
  image.alt = "";
  image.onload = () => image.classList.toggle("small", Math.max(image.naturalWidth, image.naturalHeight) < 100);
  image.onerror = () => thumb.replaceChildren(element("span", "no preview", "dim"));
  image.src = URL.createObjectURL(file);
  thumb.append(image);
  const name = element("div", undefined, "name");
  name.append(element("h2", file.name || "pasted image"));
  if (answers.length && differ(answers)) name.append(element("span", "the models differ", "badge"));
  const body = element("div", undefined, error ? "error" : "answers");
  if (error) body.textContent = error;
  else body.append(...answers.map(answerBlock));
  item.append(thumb, name, body);
  $("results").prepend(item);
  while ($("results").children.length > KEPT) forget($("results").lastElementChild);
}

function forget(item) {
  const image = item.querySelector("img");
  if (image) URL.revokeObjectURL(image.src);
  item.remove();
}

function clear() {
  waiting.length = 0;
  asked = working;
  Object.assign(counted, { answered: 0, failed: 0, differing: 0 });
  for (const item of [...$("results").children]) forget(item);
  problem("");
  progress();
  $("files").focus();
}

async function filesOf(entry) {
  if (entry.isFile) return [await new Promise((done, fail) => entry.file(done, fail))];
  const reader = entry.createReader();
  const found = [];
  for (;;) {
    const some = await new Promise((done, fail) => reader.readEntries(done, fail)); // a hundred at a time
    if (!some.length) return found;
    for (const one of some) if (!one.name.startsWith(".")) found.push(...(await filesOf(one)));
  }
}

async function dropped(transfer) {
  const entries = [...transfer.items].map((item) => item.webkitGetAsEntry?.()).filter(Boolean);
  if (!entries.some((entry) => entry.isDirectory)) return [...transfer.files];
  return (await Promise.all(entries.map(filesOf))).flat();
}

let over = 0; // elements of the page that the pointer is over while it drags
const dragged = (delta) => {
  over = Math.max(0, over + delta);
  $("drop").classList.toggle("over", over > 0);
};
addEventListener("dragenter", (event) => { event.preventDefault(); dragged(1); });
addEventListener("dragleave", () => dragged(-1));
addEventListener("dragover", (event) => event.preventDefault());
addEventListener("drop", async (event) => {
  event.preventDefault();
  dragged(-over);
  try {
    const files = await dropped(event.dataTransfer);
    if (!files.length) problem("What was dropped holds no file. Save the image first, then drop its file.");
    add(files);
  } catch (error) {
    problem(`What was dropped cannot be read (${error.message}).`);
  }
});
addEventListener("paste", (event) => add([...event.clipboardData.files]));
$("files").addEventListener("change", () => { add([...$("files").files]); $("files").value = ""; });
$("clear").addEventListener("click", clear);

// The camera: one frame after the other, each asked for when the last one is answered

const REASONS = {
  NotAllowedError: "The browser may not use the camera: allow it for this page.",
  NotFoundError: "This machine has no camera.",
  NotReadableError: "The camera is used by another program.",
};
let stream = null;

async function cameraOn() {
  problem("");
  if (!navigator.mediaDevices) {
    const port = location.port || "80";
    problem(
      "Browsers give their camera to pages from this machine only. Forward the port: " +
      `ssh -L ${port}:127.0.0.1:${port} ${location.hostname} and open http://127.0.0.1:${port}/${location.search}`,
    );
    return;
  }
  try {
    stream = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment" }, audio: false });
  } catch (error) {
    problem(REASONS[error.name] || `The camera does not start (${error.message}).`);
    return;
  }
  stream.getVideoTracks()[0].addEventListener("ended", () => cameraOff("The camera has gone."));
  $("video").srcObject = stream;
  $("live").hidden = false;
  pressed(true);
  try {
    await watch(stream);
  } catch (error) {
    cameraOff(error.message);
  }
}

function cameraOff(text) {
  if (!stream) return;
  for (const track of stream.getTracks()) track.stop();
  stream = null;
  $("video").srcObject = null;
  $("live").hidden = true;
  $("live-answers").replaceChildren();
  pressed(false);
  $("spoken").textContent = "";
  problem(text);
}

function pressed(on) {
  $("camera").setAttribute("aria-pressed", String(on));
  $("camera").textContent = on ? "Turn camera off" : "Turn camera on";
}

async function watch(mine) {
  const video = $("video");
  const canvas = document.createElement("canvas");
  const ends = [];
  let spoken = 0;
  while (stream === mine) {
    if (!video.videoWidth) {
      await wait(30);
      continue;
    }
    await new Promise((done) => (document.hidden ? setTimeout(done, 200) : requestAnimationFrame(done)));
    canvas.width = video.videoWidth;
    canvas.height = video.videoHeight;
    canvas.getContext("2d").drawImage(video, 0, 0);
    const frame = await new Promise((done) => canvas.toBlob(done, "image/jpeg", 0.92));
    const begin = performance.now();
    const answers = await classify(frame);
    if (stream !== mine) return;
    const end = performance.now();
    ends.push(end);
    while (ends[0] < end - WINDOW_MS) ends.shift();
    const seconds = (end - ends[0]) / 1000;
    const rate = ends.length > 1 ? `${((ends.length - 1) / seconds).toFixed(1)} frames/s, ` : "";
    $("rate").textContent = `${rate}there and back ${ms(end - begin)}, ${video.videoWidth} x ${video.videoHeight}`;
    $("live-answers").replaceChildren(...answers.map(answerBlock));
    if (end - spoken > SPOKEN_MS) {
      $("spoken").textContent = `Camera: ${answers.map((one) => (one.unknown ? "unknown" : one.predicted)).join(", ")}.`;
      spoken = end;
    }
  }
}

$("camera").addEventListener("click", () => (stream ? cameraOff() : cameraOn()));

// The models

function modelItem(model) {
  const item = element("li");
  const parts = [`${model.classes} classes`, `${model.file} by ${model.runner}`];
  if (model.reject_threshold !== null) parts.push(`unknown below ${percent(model.reject_threshold)}`);
  item.append(element("strong", model.name), parts.join(", "));
  item.title = model.path;
  if (model.note) item.append(` (${model.note})`);
  return item;
}

try {
  served = await ask("models");
  $("models").append(...served.models.map(modelItem));
  $("limit").textContent = `Up to ${megabytes(served.largest_upload)} MB each. Images go to this server and nowhere else.`;
} catch (error) {
  problem(error.message);
}
