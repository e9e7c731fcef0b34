// Charts of the whole cache, as SVG at the width that they get: text stays as large as it is.

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
    counts.forEach((count, at) => {
      const [from, to] = [x(edges[at]), x(edges[at + 1])];
      const size = (count / most) * (bottom - top);
      const column = { x: from + 0.5, y: bottom - size, width: Math.max(to - from - 1, 0.6), height: size };
      const upto = beyond && at === counts.length - 1 ? "and more" : `to ${short(edges[at + 1])}`;
      const name = `${short(edges[at])} ${upto} ${unit}: ${whole(count)} (${percent(count / Math.max(total, 1))})`;
      picture.append(
        svg("rect", { ...column, class: "column" }),
        svg("rect", { x: from, y: top, width: to - from, height: bottom - top, class: "target" }, svg("title", {}, name)),
      );
    });
    picture.append(svg("line", { x1: 0, x2: width, y1: bottom, y2: bottom, class: "rule" }));
    const room = Math.max(2, Math.floor(width / 64));
    const ticks = log ? octaves(edges[0], edges[edges.length - 1]) : niceSteps(edges[0], edges[edges.length - 1], room);
    ticks.forEach((tick, at) => {
      const label = at === ticks.length - 1 && unit ? `${short(tick)} ${unit}` : short(tick);
      picture.append(axisText(x(tick), CHART_HEIGHT - 5, label, width));
    });
    box.replaceChildren(picture);
  });
}

function octaves(low, high) {
  const found = [];
  for (let tick = 50; tick <= high; tick *= 2) if (tick >= low) found.push(tick);
  return found;
}

/** Text centred at x, kept inside the picture. */
function axisText(x, y, text, width) {
  const half = text.length * 3.4;
  const anchor = x < half ? "start" : x > width - half ? "end" : "middle";
  const at = anchor === "start" ? 0 : anchor === "end" ? width : x;
  return svg("text", { x: at, y, "text-anchor": anchor }, text);
}

/** Names with bars: rows are [name, share in 0..1, shown text]; a full bar is all clips. */
function bars(rows, caption) {
  const body = rows.map(([name, value, shown]) => el("tr", {},
    el("td", {}, name),
    el("td", {}, el("div", {}, el("i", { style: `width:${value * 100}%` }))),
    el("td", { class: "number" }, shown)));
  return el("table", { class: "bars", "aria-label": caption }, el("tbody", {}, ...body));
}

/** Lines over time. `series` are {name, at: [s], values: []}, with steps where `steps` is set. */
function lines(series, { unit, steps = false, log = false }) {
  const first = Math.min(...series.map((one) => one.at[0]));
  const last = Math.max(...series.map((one) => one.at[one.at.length - 1]), first + 1);
  const every = series.flatMap((one) => one.values.filter((value) => value > 0));
  const lowest = log ? Math.min(...every) : 0;
  const highest = Math.max(...every, lowest * 2, 1e-9);
  const scale = log ? Math.log10 : (value) => value;
  const box = el("div", { class: "chart" });
  const height = 210;
  keepDrawn(box, (width) => {
    const [left, right, top, bottom] = [44, 8, 10, height - 22];
    const x = (at) => left + ((at - first) / (last - first)) * (width - left - right);
    const floor = scale(lowest);
    const y = (value) => bottom - ((scale(value) - floor) / (scale(highest) - floor)) * (bottom - top);
    const names = series.map((one) => one.name).join(", ");
    const picture = svg("svg", { height, role: "img", "aria-label": `${unit} over time: ${names}` });
    const decadic = log ? decades(lowest, highest) : [];
    for (const tick of decadic.length > 2 ? decadic : niceSteps(lowest, highest, 4)) {
      const at = y(tick);
      picture.append(
        svg("line", { x1: left, x2: width - right, y1: at, y2: at, class: "rule" }),
        svg("text", { x: left - 6, y: at + 4, "text-anchor": "end" }, short(tick)));
    }
    const unitOf = last - first < 120 ? [1, "s"] : last - first < 7200 ? [60, "min"] : last - first < 172800 ? [3600, "h"] : [86400, "d"];
    const ticks = niceSteps(0, (last - first) / unitOf[0], Math.max(3, Math.floor(width / 90)));
    ticks.forEach((tick, at) => {
      const label = at === ticks.length - 1 ? `${short(tick)} ${unitOf[1]}` : short(tick);
      picture.append(axisText(x(first + tick * unitOf[0]), height - 5, label, width));
    });
    series.forEach((one, at) => {
      const points = one.at.map((when, place) => [x(when), one.values[place]]).filter((point) => !log || point[1] > 0);
      let path = steps ? `M${x(one.at[0])} ${bottom}` : "";
      points.forEach(([across, value], place) => {
        const up = y(value).toFixed(1);
        path += steps && place ? `H${across.toFixed(1)}V${up}` : `${path ? "L" : "M"}${across.toFixed(1)} ${up}`;
        if (!steps) picture.append(svg("circle", { cx: across, cy: up, r: 2, fill: `var(--series-${(at % 6) + 1})` }));
      });
      picture.append(svg("path", { d: path, ...stroke(at) }, svg("title", {}, one.name)));
    });
    box.replaceChildren(picture);
  });
  const legend = el("div", { class: "legend" }, ...series.map((one, at) => el("span", {},
    svg("svg", { viewBox: "0 0 26 8", "aria-hidden": "true" }, svg("path", { d: "M0 4H26", ...stroke(at) })), one.name)));
  return el("div", {}, box, legend);
}

function stroke(at) {
  return {
    fill: "none", "stroke-width": 2, "stroke-linejoin": "round",
    style: `stroke:var(--series-${(at % 6) + 1})`, "stroke-dasharray": DASHES[at % DASHES.length],
  };
}

function decades(low, high) {
  const found = [];
  for (let power = Math.floor(Math.log10(low)); power <= Math.log10(high); power += 1) {
    for (const factor of [1, 2, 5]) {
      const tick = factor * 10 ** power;
      if (tick >= low * 0.999 && tick <= high * 1.001) found.push(tick);
    }
  }
  return found.length > 7 ? found.filter((tick) => Math.log10(tick) % 1 === 0) : found;
}
