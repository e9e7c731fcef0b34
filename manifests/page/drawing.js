// Drawing functions for each kind of track. In all of them, time t is at x = t / seconds * width.

const VOICED = 127;
const LANE = 15;
const MOST_LANES = 4;
const PITCHES = [25, 35, 50, 70, 100, 150, 200, 300, 400, 600, 800, 1200, 1600];
const NOTE_NAMES = ["C", "C♯", "D", "D♯", "E", "F", "F♯", "G", "G♯", "A", "A♯", "B"];
const noteName = (key) => `${NOTE_NAMES[key % 12]}${Math.floor(key / 12) - 1}`;

/** A canvas of a size in CSS pixels, sharp on any screen, ready to draw on. */
function sized(canvas, width, height) {
  const dense = window.devicePixelRatio || 1;
  canvas.width = Math.round(width * dense);
  canvas.height = Math.round(height * dense);
  canvas.style.height = `${height}px`;
  const context = canvas.getContext("2d");
  context.setTransform(canvas.width / width, 0, 0, canvas.height / height, 0, 0);
  context.clearRect(0, 0, width, height);
  return context;
}

function drawWaveform(canvas, width, height, { columns, values }) {
  const context = sized(canvas, width, height);
  const levels = new Int8Array(values.buffer);
  const most = levels.reduce((peak, level) => Math.max(peak, Math.abs(level)), 1);
  context.fillStyle = paint("wave");
  for (let index = 0; index < columns; index += 1) {
    const [low, high] = [levels[2 * index] / most, levels[2 * index + 1] / most];
    const top = (height / 2) * (1 - high * 0.96);
    const size = Math.max((height / 2) * (high - low) * 0.96, 1);
    context.fillRect((index / columns) * width, top, Math.max(width / columns, 0.8), size);
  }
}

/** A picture of bytes: `rows` per column; named rows read from the top, others from the bottom. */
function drawHeat(canvas, width, height, data, seconds) {
  const { columns, rows, values, start, hop, scale, names } = data;
  const context = sized(canvas, width, height);
  const table = ramp(scale === "diverging" ? ["below", "well", "above"] : ["well", "heat-1", "heat-2", "heat-3"]);
  const pixels = new ImageData(columns, rows);
  for (let column = 0; column < columns; column += 1) {
    for (let row = 0; row < rows; row += 1) {
      const level = values[column * rows + row] * 3;
      const index = ((names ? row : rows - 1 - row) * columns + column) * 4;
      pixels.data[index] = table[level];
      pixels.data[index + 1] = table[level + 1];
      pixels.data[index + 2] = table[level + 2];
      pixels.data[index + 3] = 255;
    }
  }
  const sheet = el("canvas", { width: columns, height: rows });
  sheet.getContext("2d").putImageData(pixels, 0, 0);
  context.imageSmoothingEnabled = false;
  context.drawImage(sheet, ((start - hop / 2) / seconds) * width, 0, ((columns * hop) / seconds) * width, height);
}

/** Words as time spans, with their texts in as many lanes as needed. */
function drawWords(canvas, width, { words }, seconds) {
  const measure = canvas.getContext("2d");
  const font = `12px ${getComputedStyle(document.body).fontFamily}`;
  measure.font = font;
  const ends = [];
  const placed = words.map(({ text, start_s: start }) => {
    const size = measure.measureText(text).width;
    const left = Math.max(0, Math.min((start / seconds) * width, width - size));
    let lane = ends.findIndex((end) => end <= left);
    if (lane < 0 && ends.length < MOST_LANES) lane = ends.length;
    if (lane >= 0) ends[lane] = left + size + 6;
    return { left, lane };
  });
  const base = Math.max(ends.length, 1) * LANE + 5;
  const context = sized(canvas, width, base + 7);
  context.font = font;
  words.forEach(({ text, start_s: start, end_s: end }, index) => {
    const { left, lane } = placed[index];
    const [from, to] = [(start / seconds) * width, (end / seconds) * width];
    context.fillStyle = paint("accent", index % 2 ? 0.55 : 1);
    context.fillRect(from, base, Math.max(to - from - 1, 1), 5);
    if (lane < 0) return;
    context.fillStyle = paint("line");
    if (lane > 0) context.fillRect(from, base - lane * LANE, 1, lane * LANE);
    context.fillStyle = paint("ink");
    context.fillText(text, left, base - lane * LANE - 4);
  });
  if (!words.length) nothing(context, LANE, "no words");
}

function nothing(context, height, text) {
  context.font = `12px ${getComputedStyle(document.body).fontFamily}`;
  context.fillStyle = paint("quiet");
  context.fillText(text, 8, height / 2 + 6);
}

/** The range of a pitch track in Hz: at least an octave, around the voiced frames. */
function pitchRange({ f0, voicing }) {
  const voiced = f0.filter((value, index) => voicing[index] > VOICED && value > 0);
  const shown = voiced.length ? voiced : [100, 400];
  let [low, high] = [Math.min(...shown) / 1.15, Math.max(...shown) * 1.15];
  if (high < 2 * low) [low, high] = [Math.sqrt(low * high / 2), Math.sqrt(low * high * 2)];
  return [low, high];
}

/** f0 on a scale of octaves: a line where voiced, faint dots elsewhere, voicing as a strip below. */
function drawPitch(canvas, width, height, data, seconds) {
  const { start, hop, f0, voicing } = data;
  const context = sized(canvas, width, height);
  const [low, high] = pitchRange(data);
  const strip = 7;
  const x = (index) => ((start + index * hop) / seconds) * width;
  const y = (value) => (height - strip - 4) * (1 - Math.log2(value / low) / Math.log2(high / low)) + 1;
  context.fillStyle = paint("line");
  for (const tick of pitchTicks(low, high)) context.fillRect(0, y(tick), width, 1);
  const across = (hop / seconds) * width;
  context.lineWidth = 2;
  context.lineCap = context.lineJoin = "round";
  context.strokeStyle = paint("accent");
  context.beginPath();
  let pen = false;
  f0.forEach((value, index) => {
    const inside = value >= low && value <= high;
    const voiced = voicing[index] > VOICED && inside;
    if (voiced && pen) context.lineTo(x(index), y(value));
    else if (voiced) { context.moveTo(x(index), y(value)); context.lineTo(x(index) + 0.1, y(value)); }
    pen = voiced;
    context.fillStyle = paint("accent", (voicing[index] / 255) * 0.85);
    context.fillRect(x(index) - across / 2, height - strip, across + 0.3, strip);
    if (!voiced && inside) {
      context.fillStyle = paint("quiet", 0.1 + voicing[index] / 400);
      context.fillRect(x(index) - 0.75, y(value) - 0.75, 1.5, 1.5);
    }
  });
  context.stroke();
}

/** Round numbers of Hz in a range; halves of octaves where it is narrow. */
function pitchTicks(low, high) {
  const ticks = high / low > 6 ? PITCHES.filter((_, index) => index % 2 === 0) : PITCHES;
  return ticks.filter((tick) => tick > low * 1.04 && tick < high / 1.04);
}

function keyRange({ notes }) {
  const keys = notes.length ? notes.map((note) => note.midi) : [60];
  let [low, high] = [Math.min(...keys) - 2, Math.max(...keys) + 2];
  while (high - low < 14) { low -= 1; high += 1; }
  return [low, high];
}

function drawNotes(canvas, width, height, data, seconds) {
  if (!data.notes.length) return nothing(sized(canvas, width, LANE + 12), LANE, "no notes");
  const context = sized(canvas, width, height);
  const [low, high] = keyRange(data);
  const row = height / (high - low + 1);
  for (let key = low; key <= high; key += 1) {
    const top = (high - key) * row;
    context.fillStyle = paint("line", 0.5);
    if ([1, 3, 6, 8, 10].includes(key % 12)) context.fillRect(0, top, width, row);
    context.fillStyle = paint("line");
    if (key % 12 === 0) context.fillRect(0, top + row - 0.5, width, 1);
  }
  for (const { start_s: start, end_s: end, midi: key, strength } of data.notes) {
    const [from, size] = [(start / seconds) * width, Math.max(((end - start) / seconds) * width, 1.5)];
    context.fillStyle = paint("accent", 0.35 + 0.65 * Math.min(1, strength));
    context.fillRect(from, (high - key) * row + 0.5, size, Math.max(row - 1, 2));
  }
}

/** Curves in lanes below each other, each scaled to its range over the whole cache. */
function drawCurves(canvas, width, height, { start, hop, curves }, seconds) {
  const context = sized(canvas, width, height);
  const lane = height / curves.length;
  const x = (index) => ((start + index * hop) / seconds) * width;
  curves.forEach(({ values }, place) => {
    const floor = (place + 1) * lane - 2;
    const y = (level) => floor - (level / 255) * (lane - 5);
    context.fillStyle = paint("line");
    if (place) context.fillRect(0, place * lane, width, 1);
    const path = new Path2D();
    const last = values.length - 1;
    path.moveTo(x(-0.5), y(values[0]));
    values.forEach((level, index) => path.lineTo(x(index), y(level)));
    path.lineTo(x(last + 0.5), y(values[last]));
    const area = new Path2D(path);
    area.lineTo(x(last + 0.5), floor);
    area.lineTo(x(-0.5), floor);
    context.fillStyle = paint("wave", 0.16);
    context.fill(area);
    context.strokeStyle = paint("wave");
    context.lineWidth = 1.4;
    context.stroke(path);
  });
}
