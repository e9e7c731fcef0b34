// Charts, as SVG drawn at the width of their container, so that text keeps its size.

const CHART_HEIGHT = 150;
const DASHES = ["", "7 3", "2 3", "9 3 2 3", "4 4", "1 4"];

/** Columns between edges. `chart` is {edges, counts, log}. */
function histogram(chart, { unit = "", noun = "" } = {}) {
  const { edges, counts, log, beyond } = chart;
  const scale = log ? Math.log2 : (value) => value;
  const [low, high] = [scale(edges[0]), scale(edges[edges.length - 1])];
  const total = counts.reduce((sum, count) => sum + count, 0);
  const most = Math.max(...counts, 1);
  const box = el("div", { class: "chart" });
  return keepDrawn(box, (width) => {
    const [left, bottom, top] = [4, CHART_HEIGHT - 20, 6];
    const x = (value) => left + ((scale(value) - low) / (high - low)) * (width - 2 * left);
    const peak = counts.indexOf(Math.max(...counts));
    const about = `${whole(total)} ${noun}; most between ${short(edges[peak])} and ${short(edges[peak + 1])} ${unit}`;
    const picture = svg("svg", { height: CHART_HEIGHT, role: "img", "aria-label": about });
    counts.forEach((count, index) => {
      const [from, to] = [x(edges[index]), x(edges[index + 1])];
      const size = (count / most) * (bottom - top);
      const column = { x: from + 0.5, y: bottom - size, width: Math.max(to - from - 1, 0.6), height: size };
      const upto = beyond && index === counts.length - 1 ? "and more" : `to ${short(edges[index + 1])}`;
      const name = `${short(edges[index])} ${upto} ${unit}: ${whole(count)} (${percent(count / Math.max(total, 1))})`;
      picture.append(
        svg("rect", { ...column, class: "column" }),
        svg("rect", { x: from, y: top, width: to - from, height: bottom - top, class: "target" }, svg("title", {}, name)),
      );
    });
    picture.append(svg("line", { x1: 0, x2: width, y1: bottom, y2: bottom, class: "rule" }));
    const room = Math.max(2, Math.floor(width / 64));
    const ticks = log ? octaves(edges[0], edges[edges.length - 1]) : niceSteps(edges[0], edges[edges.length - 1], room);
    const texts = log ? ticks.map(short) : tickTexts(ticks);
    const labels = ticks.map((tick, index) => [x(tick), texts[index]]);
    // The last bar counts values beyond its edge, too.
    if (beyond) labels.push([x(edges[edges.length - 2]), `≥ ${short(edges[edges.length - 2])}`]);
    if (unit && labels.length) labels[labels.length - 1][1] += ` ${unit}`;
    apart(labels, width).forEach(([at, label]) => picture.append(axisText(at, CHART_HEIGHT - 5, label, width)));
    box.replaceChildren(picture);
  });
}

/** The labels [x, text] that do not overlap; the last one is always kept. */
function apart(labels, width) {
  const kept = [];
  let free = width + 8;
  for (const [at, label] of [...labels].reverse()) {
    const half = label.length * 3.4;
    const middle = Math.min(Math.max(at, half), width - half);
    if (middle + half + 8 > free) continue;
    kept.push([at, label]);
    free = middle - half;
  }
  return kept;
}

function octaves(low, high) {
  const result = [];
  for (let tick = 50; tick <= high; tick *= 2) if (tick >= low) result.push(tick);
  return result;
}

/** Text centred at x, kept inside the picture. */
function axisText(x, y, text, width) {
  const half = text.length * 3.4;
  const anchor = x < half ? "start" : x > width - half ? "end" : "middle";
  const position = anchor === "start" ? 0 : anchor === "end" ? width : x;
  return svg("text", { x: position, y, "text-anchor": anchor }, text);
}

/** Names with bars: rows are [name, share in 0..1, shown text]; a full bar is all clips. */
function bars(rows, caption) {
  const body = rows.map(([name, value, shown]) => el("tr", {},
    el("td", {}, name),
    el("td", {}, el("div", {}, el("i", { style: `width:${value * 100}%` }))),
    el("td", { class: "number" }, shown)));
  return el("table", { class: "bars", "aria-label": caption }, el("tbody", {}, ...body));
}

/** Lines over seconds since 1970, or over steps counted from 0.
 *
 * `series` are {name, at, values}; `tint` and `dash` choose their look, `dots` are further {at, values}
 * on their own. With `steps` a line keeps its value until the next; `marks` are [x, text].
 */
function lines(series, { unit, steps = false, log = false, across = "time", floor = 0, marks = [], legend = true }) {
  const seen = series.filter((item) => item.at.length || item.dots);
  const ats = seen.flatMap((item) => [...item.at, ...(item.dots ? item.dots.at : [])]);
  const first = across === "time" ? Math.min(...ats) : 0;
  const last = Math.max(...ats, first + 1);
  const every = seen.flatMap((item) => [...item.values, ...(item.dots ? item.dots.values : [])]).filter((value) => !log || value > 0);
  const lowest = log || floor === null ? Math.min(...every) : floor;
  const highest = Math.max(...every, log || floor === null ? lowest * 1.01 : lowest * 2, lowest + 1e-9);
  const scale = log ? Math.log10 : (value) => value;
  const box = el("div", { class: "chart" });
  const height = 210;
  keepDrawn(box, (width) => {
    const decadic = log ? decades(lowest, highest) : [];
    const levels = decadic.length > 2 ? decadic : niceSteps(lowest, highest, 4);
    const levelTexts = decadic.length > 2 ? levels.map(short) : tickTexts(levels);
    const widest = Math.max(0, ...levelTexts.map((text) => text.length));
    const [left, right, top, bottom] = [Math.max(44, 7 * widest + 8), 8, marks.length ? 20 : 10, height - 22];
    const x = (step) => left + ((step - first) / (last - first)) * (width - left - right);
    const ground = scale(lowest);
    const y = (value) => bottom - ((scale(value) - ground) / (scale(highest) - ground)) * (bottom - top);
    const names = seen.map((item) => item.name).join(", ");
    const picture = svg("svg", { height, role: "img", "aria-label": `${unit} over ${across}: ${names}` });
    levels.forEach((tick, index) => {
      const level = y(tick);
      picture.append(
        svg("line", { x1: left, x2: width - right, y1: level, y2: level, class: "rule" }),
        svg("text", { x: left - 6, y: level + 4, "text-anchor": "end" }, levelTexts[index]));
    });
    for (const [step, text] of marks) {
      const isLast = x(step) > width - 60;
      picture.append(
        svg("line", { x1: x(step), x2: x(step), y1: 4, y2: bottom, class: "rule", "stroke-dasharray": "3 3" }),
        svg("text", { x: x(step) + (isLast ? -4 : 4), y: 13, "text-anchor": isLast ? "end" : "start" }, text));
    }
    const unitOf = across === "time" ? timeUnit(last - first) : [1, across];
    const ticks = niceSteps(0, (last - first) / unitOf[0], Math.max(3, Math.floor(width / 90)));
    const texts = tickTexts(ticks);
    ticks.forEach((tick, index) => {
      const label = index === ticks.length - 1 ? `${texts[index]} ${unitOf[1]}` : texts[index];
      picture.append(axisText(x(first + tick * unitOf[0]), height - 5, label, width));
    });
    seen.forEach((item, place) => {
      const { tint = place, dash = nextDash(place) } = item;
      const points = item.at.map((when, index) => [x(when), item.values[index]]).filter((point) => !log || point[1] > 0);
      let path = steps ? `M${x(item.at[0])} ${bottom}` : "";
      points.forEach(([right, value], index) => {
        const up = y(value).toFixed(1);
        path += steps && index ? `H${right.toFixed(1)}V${up}` : `${path ? "L" : "M"}${right.toFixed(1)} ${up}`;
      });
      const dots = item.dots ? item.dots.at.map((when, index) => [x(when), item.dots.values[index]]) : steps ? [] : points;
      // A line needs two points. With fewer, it joins the dots and is thin, because it skips the steps between them.
      const isShort = !steps && points.length < 2 && dots.length > 1;
      if (isShort) path = dots.map(([right, value], index) => `${index ? "L" : "M"}${right.toFixed(1)} ${y(value).toFixed(1)}`).join("");
      const look = { ...stroke(tint, dash), ...(isShort ? { "stroke-width": 1 } : {}) };
      if (path) picture.append(svg("path", { d: path, ...look }, svg("title", {}, item.name)));
      for (const [right, value] of dots) {
        const circle = { cx: right, cy: y(value), r: item.dots ? 3.5 : 2, fill: `var(--series-${(tint % 6) + 1})` };
        picture.append(svg("circle", circle, svg("title", {}, `${item.name}: ${short(value)}`)));
      }
    });
    box.replaceChildren(picture);
  });
  return el("div", {}, box, legend ? legendOf(seen) : "");
}

function timeUnit(seconds) {
  return seconds < 120 ? [1, "s"] : seconds < 7200 ? [60, "min"] : seconds < 172800 ? [3600, "h"] : [86400, "d"];
}

function legendOf(series) {
  return el("div", { class: "legend" }, ...series.map(({ name, tint, dash }, index) => el("span", {},
    svg("svg", { viewBox: "0 0 26 8", "aria-hidden": "true" }, svg("path", { d: "M0 4H26", ...stroke(tint ?? index, dash ?? nextDash(index)) })), name)));
}

/** A row of dots per group with its mean as a bar: groups are {name, values, notes, tint}. */
function dots(groups, { unit }) {
  const every = groups.flatMap((item) => item.values);
  const room = (Math.max(...every) - Math.min(...every)) * 0.12 || Math.abs(every[0]) * 0.05 || 1;
  const [low, high] = [Math.min(...every) - room, Math.max(...every) + room];
  const [row, left] = [34, Math.min(150, 16 + 7 * Math.max(...groups.map((item) => item.name.length)))];
  const box = el("div", { class: "chart" });
  return keepDrawn(box, (width) => {
    const bottom = groups.length * row + 4;
    const x = (value) => left + ((value - low) / (high - low)) * (width - left - 12);
    const about = groups.map((item) => `${item.name} ${item.values.map(short).join(", ")}`).join("; ");
    const picture = svg("svg", { height: bottom + 22, role: "img", "aria-label": `${unit}: ${about}` });
    const ticks = niceSteps(low, high, Math.max(2, Math.floor((width - left) / 90)));
    const texts = tickTexts(ticks);
    ticks.forEach((tick, index) => {
      picture.append(
        svg("line", { x1: x(tick), x2: x(tick), y1: 0, y2: bottom, class: "rule" }),
        axisText(x(tick), bottom + 16, index === ticks.length - 1 ? `${texts[index]} ${unit}` : texts[index], width));
    });
    groups.forEach(({ name, values, notes, tint }, index) => {
      const middle = index * row + row / 2 + 2;
      const mean = values.reduce((sum, value) => sum + value, 0) / values.length;
      const fill = `var(--series-${(tint % 6) + 1})`;
      picture.append(svg("text", { x: 0, y: middle + 4, class: "strong" }, name));
      if (values.length > 1) picture.append(svg("rect", { x: x(mean) - 1.5, y: middle - 11, width: 3, height: 22, fill }));
      values.forEach((value, place) => {
        const circle = { cx: x(value), cy: middle, r: 5, fill, "fill-opacity": 0.65 };
        picture.append(svg("circle", circle, svg("title", {}, `${notes[place]}: ${short(value)}`)));
      });
    });
    box.replaceChildren(picture);
  });
}

/** With more series than colours, a colour that returns has another dash. */
const nextDash = (place) => place + Math.floor(place / DASHES.length);

function stroke(tint, dash) {
  return {
    fill: "none", "stroke-width": 2, "stroke-linejoin": "round",
    style: `stroke:var(--series-${(tint % 6) + 1})`, "stroke-dasharray": DASHES[dash % DASHES.length],
  };
}

function decades(low, high) {
  const result = [];
  for (let power = Math.floor(Math.log10(low)); power <= Math.log10(high); power += 1) {
    for (const factor of [1, 2, 5]) {
      const tick = factor * 10 ** power;
      if (tick >= low * 0.999 && tick <= high * 1.001) result.push(tick);
    }
  }
  return result.length > 7 ? result.filter((tick) => Math.log10(tick) % 1 === 0) : result;
}
