"use strict";

const $ = (id) => document.getElementById(id);
const DIMENSIONS = ["valence", "arousal", "dominance"];
const PARTS = { les: "emphasised words", gs: "transcript", es: "description" };
const base = location.pathname.replace(/[^/]*$/, "");
const TIMES = { aligned: "by forced alignment", recogniser: "by the recogniser", none: "unknown" };
let clip = null; // {blob, name}

const text = (tag, content, className) => {
  const element = document.createElement(tag);
  element.textContent = content;
  if (className) element.className = className;
  return element;
};
const fixed = (value, digits = 2) => Number(value).toFixed(digits);
const percent = (value) => `${Math.min(100, Math.max(0, value * 100))}%`;

async function showModel() {
  const pill = $("model");
  try {
    const model = await (await fetch(`${base}v1/model`)).json();
    pill.className = model.version ? "ready" : "absent";
    pill.textContent = model.version ? `${model.name} ${model.version} (${model.alias})` : `no ${model.alias} of ${model.name} yet`;
  } catch {
    pill.className = "absent";
    pill.textContent = "service not reachable";
  }
}

function take(blob, name) {
  clip = { blob, name };
  $("name").textContent = `${name} · ${fixed(blob.size / 1024, 0)} KB`;
  $("player").src = URL.createObjectURL(blob);
  $("player").style.display = "block";
  $("score").disabled = false;
  drawWave(blob);
}

async function drawWave(blob) {
  const canvas = $("wave");
  try {
    const audio = await new OfflineAudioContext(1, 1, 16000).decodeAudioData(await blob.arrayBuffer());
    const samples = audio.getChannelData(0);
    const pen = canvas.getContext("2d");
    const columns = canvas.width / 4;
    const step = Math.max(1, Math.floor(samples.length / columns));
    pen.clearRect(0, 0, canvas.width, canvas.height);
    pen.fillStyle = getComputedStyle(document.documentElement).getPropertyValue("--accent");
    for (let column = 0; column < columns; column++) {
      let peak = 0;
      for (let i = column * step; i < Math.min(samples.length, (column + 1) * step); i++) peak = Math.max(peak, Math.abs(samples[i]));
      const height = Math.max(2, peak * canvas.height);
      pen.fillRect(column * 4, (canvas.height - height) / 2, 2.4, height);
    }
    canvas.style.display = "block";
  } catch {
    canvas.style.display = "none"; // a container that the browser cannot read, but the service may
  }
}

/* Browsers record WebM, which the service does not read: take the samples and write a WAV. */
function wav(chunks, hz) {
  const count = chunks.reduce((sum, chunk) => sum + chunk.length, 0);
  const view = new DataView(new ArrayBuffer(44 + 2 * count));
  const ascii = (at, letters) => [...letters].forEach((letter, i) => view.setUint8(at + i, letter.charCodeAt(0)));
  ascii(0, "RIFF"); view.setUint32(4, 36 + 2 * count, true); ascii(8, "WAVEfmt "); view.setUint32(16, 16, true);
  view.setUint16(20, 1, true); view.setUint16(22, 1, true); view.setUint32(24, hz, true); view.setUint32(28, 2 * hz, true);
  view.setUint16(32, 2, true); view.setUint16(34, 16, true); ascii(36, "data"); view.setUint32(40, 2 * count, true);
  let at = 44;
  for (const chunk of chunks) for (const sample of chunk) { view.setInt16(at, Math.max(-1, Math.min(1, sample)) * 32767, true); at += 2; }
  return new Blob([view], { type: "audio/wav" });
}

let recording = null;
async function record() {
  const button = $("record");
  if (recording) {
    const { stream, context, chunks } = recording;
    recording = null;
    stream.getTracks().forEach((track) => track.stop());
    const hz = context.sampleRate;
    await context.close();
    button.textContent = "● Record";
    button.classList.remove("recording");
    take(wav(chunks, hz), "recording.wav");
    return;
  }
  try {
    const stream = await navigator.mediaDevices.getUserMedia({ audio: { echoCancellation: false, autoGainControl: false } });
    const context = new AudioContext();
    const code = "registerProcessor('tap', class extends AudioWorkletProcessor { process(inputs) { if (inputs[0][0]) this.port.postMessage(inputs[0][0].slice()); return true; } })";
    await context.audioWorklet.addModule(URL.createObjectURL(new Blob([code], { type: "text/javascript" })));
    const tap = new AudioWorkletNode(context, "tap");
    const chunks = [];
    tap.port.onmessage = (message) => chunks.push(message.data);
    context.createMediaStreamSource(stream).connect(tap);
    recording = { stream, context, chunks };
    button.textContent = "■ Stop";
    button.classList.add("recording");
  } catch (error) {
    showError({ code: "no_microphone", message: String(error.message || error), remedy: "Allow the microphone, or choose a file" });
  }
}

function showError(error, id) {
  const card = $("error");
  card.style.display = "block";
  card.children[0].textContent = error.kind ? `${error.code} · ${error.kind}` : error.code;
  card.children[1].textContent = error.message;
  card.children[2].textContent = [error.remedy, id ? `request ${id}` : null].filter(Boolean).join(" · ");
}

function query() {
  const query = new URLSearchParams({ semantics: $("semantics").value });
  if ($("transcript").value.trim()) query.set("transcript", $("transcript").value.trim());
  if ($("speaker").value.trim()) query.set("speaker_id", $("speaker").value.trim());
  return query;
}

async function score(event) {
  event.preventDefault();
  const button = $("score");
  button.disabled = true;
  button.textContent = "Scoring …";
  $("error").style.display = "none";
  try {
    const url = `${base}v1/score?${query()}`;
    const response = await fetch(url, { method: "POST", headers: { "Content-Type": "application/octet-stream" }, body: clip.blob });
    const reply = await response.json();
    if (response.ok) show(reply, url);
    else showError(reply.error, reply.request_id);
  } catch (error) {
    showError({ code: "unreachable", message: String(error.message || error), remedy: "Is the service still running?" });
  }
  button.disabled = false;
  button.textContent = "Score";
  showModel();
}

function show(reply, url) {
  $("empty").style.display = "none";
  $("result").style.display = "block";
  const present = DIMENSIONS.filter((name) => reply[name]); // none of a version of classes alone
  $("dimensions-card").style.display = present.length ? "block" : "none";
  $("dimensions").replaceChildren(...present.map((name) => bar(name, reply[name], reply.scale, name[0])));
  const ends = reply.scale || { min: 0, max: 1 }; // a version without a corpus scale answers in [0, 1]
  $("ends").replaceChildren(text("span", fixed(ends.min, 0)), text("span", fixed(ends.max, 0)));
  const likely = Object.entries(reply.emotion || {}).sort((one, other) => other[1] - one[1]);
  $("classes-card").style.display = likely.length ? "block" : "none";
  $("classes").replaceChildren(...likely.map(([name, value]) => bar(name, { value }, null, "c")));
  const interval = reply.valence?.interval;
  $("interval").textContent = interval
    ? `For ${fixed(interval.level * 100, 0)} of 100 clips like those of the model's development set, the listeners' mean rating lies within the band.`
    : "This version has no intervals.";
  words(reply);
  course(reply);
  reasons(reply.explanation);
  const quoted = `${location.origin}${url}`.replaceAll("'", "'\\''");
  $("curl").textContent = `curl -X POST '${quoted}' \\\n  -H 'Content-Type: application/octet-stream' \\\n  --data-binary @'${clip.name.replaceAll("'", "'\\''")}'`;
  $("timing").textContent = Object.entries(reply.timing_ms).map(([part, ms]) => `${part} ${fixed(ms, 1)} ms`).join(" · ");
  $("json").textContent = JSON.stringify(reply, null, 2);
}

function bar(name, value, scale, tone) {
  const row = text("div", "", `dimension ${tone}`);
  const track = text("div", "", "track");
  if (value.interval) {
    const range = text("div", "", "range");
    range.style.left = percent(value.interval.lower);
    range.style.right = percent(1 - value.interval.upper);
    track.append(range);
  }
  const mark = text("div", "", "mark");
  mark.style.left = percent(value.value);
  track.append(mark);
  const figure = text("div", "", "figure");
  figure.append(text("b", fixed(value.value_corpus ?? value.value)));
  const interval = value.interval;
  if (interval) figure.append(text("small", `${fixed(interval.lower_corpus ?? interval.lower)} – ${fixed(interval.upper_corpus ?? interval.upper)}`));
  row.title = `${name} ${fixed(value.value, 3)} in [0, 1]`;
  if (scale) row.title += `, ${fixed(value.value_corpus)} on ${scale.min}..${scale.max}`;
  row.append(text("b", name), track, figure);
  return row;
}

function words(reply) {
  const { transcript, semantics } = reply;
  $("words-card").style.display = transcript || semantics.absent.length || semantics.description ? "block" : "none";
  const parts = !transcript ? [] : transcript.words.length
    ? transcript.words.flatMap((word) => [text(word.emphasised ? "mark" : "span", word.word), " "])
    : [transcript.text];
  $("words").replaceChildren(...parts);
  const shown = Object.entries(semantics.description || {}).filter(([, value]) => value !== null && value !== "");
  $("description").replaceChildren(...shown.map(([key, value]) => {
    const chip = text("span", "", "chip");
    chip.append(text("i", `${key.replaceAll("_", " ")} `), typeof value === "number" ? fixed(value) : String(value));
    return chip;
  }));
  const reasons = Map.groupBy ? [...Map.groupBy(semantics.absent, (absent) => absent.reason)] : semantics.absent.map((absent) => [absent.reason, [absent]]);
  const notes = reasons.map(([reason, absents]) => `Not used: ${absents.map((absent) => PARTS[absent.part]).join(", ")} (${reason}).`);
  if (transcript) notes.unshift(`Words ${transcript.source}${transcript.times ? `, times ${TIMES[transcript.times] || transcript.times}` : ""}.`);
  const { state, clips } = reply.speaker;
  notes.unshift(state === "enrolled" ? `Speaker enrolled with ${clips} clip${clips === 1 ? "" : "s"}.` : "Speaker unknown.");
  $("absent").textContent = notes.join(" ");
}

function course(reply) {
  const windows = reply.time_course || [];
  $("course-card").style.display = windows.length > 1 ? "block" : "none";
  if (windows.length < 2) return;
  const [left, right, top, bottom] = [30, 652, 8, 156];
  const middle = (window) => (window.start_ms + window.end_ms) / 2;
  const [first, last] = [middle(windows[0]), middle(windows[windows.length - 1])];
  const x = (ms) => left + ((ms - first) / (last - first)) * (right - left);
  const y = (value) => bottom - value * (bottom - top);
  const parts = [];
  for (const value of [0, 0.5, 1]) {
    parts.push(`<line x1="${left}" x2="${right}" y1="${y(value)}" y2="${y(value)}" stroke="var(--line)"/>`);
    parts.push(`<text x="${left - 7}" y="${y(value) + 4}" text-anchor="end">${value}</text>`);
  }
  const stride = Math.ceil(windows.length / 9);
  windows.forEach((window, i) => {
    if (i % stride === 0) parts.push(`<text x="${x(middle(window))}" y="${bottom + 18}" text-anchor="middle">${fixed(middle(window) / 1000, 1)} s</text>`);
  });
  for (const name of DIMENSIONS) {
    const points = windows.map((window) => `${x(middle(window))},${y(window[name])}`).join(" ");
    parts.push(`<g class="${name[0]}"><polyline points="${points}" fill="none" stroke="var(--tone)" stroke-width="2.2" stroke-linejoin="round" stroke-linecap="round"/>`);
    for (const window of windows) parts.push(`<circle cx="${x(middle(window))}" cy="${y(window[name])}" r="3" fill="var(--tone)"><title>${name} ${fixed(window[name])} at ${window.start_ms}–${window.end_ms} ms</title></circle>`);
    parts.push("</g>");
  }
  $("course").innerHTML = parts.join(""); // only numbers and fixed names
}

function reasons({ gates, experts }) {
  $("why").style.display = gates || experts ? "grid" : "none";
  const rows = gates && Object.entries(gates).map(([name, share]) => [PARTS[name] || name, [share]]);
  $("gates").replaceChildren(gates ? shares([], rows) : text("p", "The served model has no gates.", "note"));
  const numbers = experts ? experts.valence.map((_, i) => `${i + 1}`) : [];
  $("experts").replaceChildren(experts ? shares(numbers, Object.entries(experts)) : text("p", "The served model has no experts.", "note"));
}

function shares(columns, rows) {
  const table = document.createElement("table");
  if (columns.length) {
    const head = document.createElement("tr");
    head.append(text("th", ""), ...columns.map((column) => text("th", column, "number")));
    table.append(head);
  }
  for (const [name, values] of rows) {
    const row = document.createElement("tr");
    row.append(text("th", name));
    for (const value of values) {
      const cell = document.createElement("td");
      const figure = text("span", fixed(value), "cell");
      figure.style.setProperty("--share", value);
      cell.append(figure);
      row.append(cell);
    }
    table.append(row);
  }
  return table;
}

$("form").addEventListener("submit", score);
$("record").addEventListener("click", record);
$("file").addEventListener("change", (event) => event.target.files[0] && take(event.target.files[0], event.target.files[0].name));
$("copy").addEventListener("click", async () => {
  await navigator.clipboard.writeText($("curl").textContent);
  $("copy").textContent = "Copied";
});
for (const kind of ["dragover", "dragleave", "drop"]) {
  $("drop").addEventListener(kind, (event) => {
    event.preventDefault();
    $("drop").classList.toggle("over", kind === "dragover");
    if (kind === "drop" && event.dataTransfer.files[0]) take(event.dataTransfer.files[0], event.dataTransfer.files[0].name);
  });
}
showModel();
setInterval(showModel, 10000);
