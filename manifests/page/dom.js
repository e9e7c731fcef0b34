// Helper functions that the other parts share. Text is always inserted as text, never as markup.

const facts = JSON.parse(document.getElementById("facts").textContent);
const byId = (id) => document.getElementById(id);

/** An element: props are attributes, or `onclick`-like listeners; children are nodes or text. */
function el(tag, props = {}, ...children) {
  const made = document.createElement(tag);
  return filled(made, props, children);
}

/** The same in SVG. */
function svg(tag, props = {}, ...children) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
  return filled(made, props, children);
}

function filled(made, props, children) {
  for (const [name, value] of Object.entries(props)) {
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (value === true) made.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) made.setAttribute(name, value);
  }
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

const whole = (value) => Math.round(value).toLocaleString("en");

/** A number with about three significant digits. */
function short(value) {
  const size = Math.abs(value);
  if (size >= 1000) return whole(value);
  return Number(value.toPrecision(3)).toLocaleString("en", { maximumSignificantDigits: 3 });
}

/** A number with some decimals, rounded as Python rounds it in tables: ties go to the even digit. */
function fixed(value, digits) {
  const halves = value * 2 ** (digits + 1);
  const isTie = Number.isInteger(halves) && halves % 2 !== 0;
  if (!isTie) return value.toFixed(digits);
  const below = Math.floor(value * 10 ** digits);
  return ((below + Math.abs(below % 2)) / 10 ** digits).toFixed(digits);
}

function percent(share) {
  if (share === 0 || share === 1) return `${share * 100}%`;
  return share > 0.999 ? "> 99.9%" : `${fixed(share * 100, share < 0.1 ? 1 : 0)}%`;
}

function bytes(count) {
  const units = ["B", "kB", "MB", "GB", "TB"];
  let index = 0;
  while (count >= 1000 && index < units.length - 1) { count /= 1000; index += 1; }
  return `${short(count)} ${units[index]}`;
}

/** A duration in a suitable unit. */
function span(seconds) {
  if (seconds < 60) return `${short(seconds)} s`;
  if (seconds < 3600) return `${short(seconds / 60)} min`;
  return `${short(seconds / 3600)} h`;
}

const plural = (count, noun) => `${whole(count)} ${noun}${count === 1 ? "" : "s"}`;

/** Base64 as bytes. */
function unpack(text) {
  const raw = atob(text);
  const result = new Uint8Array(raw.length);
  for (let index = 0; index < raw.length; index += 1) result[index] = raw.charCodeAt(index);
  return result;
}

/** Steps of 1, 2 or 5 times a power of ten that cut a range into about `count` parts. */
function niceSteps(low, high, count) {
  const rough = (high - low) / Math.max(1, count) || 1;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((factor) => factor * power).find((item) => item >= rough * 0.999);
  const steps = [];
  for (let index = Math.ceil(low / step - 1e-9); index * step <= high + step * 1e-9; index += 1) {
    steps.push(Number((index * step).toPrecision(12)));
  }
  return steps;
}

/** Texts of evenly spaced ticks, with as many decimals as tell them apart. */
function tickTexts(ticks) {
  if (ticks.length < 2) return ticks.map(short);
  const digits = Math.max(0, Math.ceil(-Math.log10(ticks[1] - ticks[0]) - 1e-6));
  return ticks.map((tick) => tick.toLocaleString("en", { minimumFractionDigits: digits, maximumFractionDigits: digits }));
}

// Colours for canvases: the value of a CSS variable in the current theme, as [r, g, b].
const probe = el("canvas", { width: 1, height: 1 }).getContext("2d", { willReadFrequently: true });
const swatch = el("i", { hidden: true });
document.body.append(swatch);
const colours = new Map();

function colour(name) {
  if (!colours.has(name)) {
    swatch.style.color = `var(--${name})`;
    probe.fillStyle = getComputedStyle(swatch).color;
    probe.fillRect(0, 0, 1, 1);
    colours.set(name, [...probe.getImageData(0, 0, 1, 1).data.slice(0, 3)]);
  }
  return colours.get(name);
}

function paint(name, alpha = 1) {
  return `rgb(${colour(name).join(" ")} / ${alpha})`;
}

/** 256 colours through some variables, evenly spaced. */
function ramp(names) {
  const key = names.join();
  if (!colours.has(key)) {
    const stops = names.map(colour);
    const table = new Uint8ClampedArray(256 * 3);
    for (let level = 0; level < 256; level += 1) {
      const place = (level / 255) * (stops.length - 1);
      const left = Math.min(Math.floor(place), stops.length - 2);
      for (let part = 0; part < 3; part += 1) {
        const [from, to] = [stops[left][part], stops[left + 1][part]];
        table[level * 3 + part] = from + (to - from) * (place - left);
      }
    }
    colours.set(key, table);
  }
  return colours.get(key);
}

// Everything that depends on the width or the theme registers here and is drawn again when they change.
const drawn = new Map();
const widths = new ResizeObserver((entries) => {
  for (const { target } of entries) redraw(target);
});

function redraw(box) {
  const width = box.clientWidth;
  if (width) drawn.get(box)(width);
}

/** Calls `draw(width)` now and whenever the box has another width or the theme changes. */
function keepDrawn(box, draw) {
  drawn.set(box, draw);
  widths.observe(box);
  return box;
}

function redrawAll() {
  colours.clear();
  for (const box of drawn.keys()) redraw(box);
}
