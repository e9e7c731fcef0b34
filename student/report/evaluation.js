// Token replacement and probes, from the files ablation.json and probes.json of a run.

function showEvaluation() {
  const section = byId("evaluation");
  if (!section) return;
  const having = (name) => facts.runs.filter((run) => run.evaluations[name]).map((run) => ({ run, result: run.evaluations[name] }));
  const ablated = having("ablation").filter(({ result }) => result.conditions);
  const probed = having("probes").filter(({ result }) => result.targets);
  const sets = sameQuestions(ablated, ({ result }) => result);
  for (const set of sets) section.append(...ablation(set, sets.length > 1));
  if (probed.length) section.append(...probes(probed));
}

/** Scores under every condition, and their differences from the unmodified student. */
function ablation(ablated, isOneOfSeveral) {
  const conditions = [...new Set(ablated.flatMap(({ result }) => Object.keys(result.conditions)))];
  const rows = conditions.map((condition) => [condition, ablated.flatMap(({ run, result }) => {
    const { mean: score } = result.conditions[condition] || {};
    return score ? [{ ...score, name: labelOf(run), tint: tintOf(run) }] : [];
  })]);
  const signed = (value) => `${value < 0 ? "" : "+"}${fixed(value, 3)}`;
  const lines = ablated.flatMap(({ run, result }) => Object.entries(result.conditions).filter(([name]) => name !== "intact").map(([name, item]) => [
    el("b", {}, labelOf(run)), name, item.mean ? fixed(item.mean.score, 3) : "–",
    item.change ? signed(item.change.score) : "–", item.change && item.change.low !== null ? `${signed(item.change.low)} to ${signed(item.change.high)}` : "–",
    item.same_reply === undefined ? "–" : percent(item.same_reply),
  ]));
  const asked = isOneOfSeveral ? `${ablated[0].result.questions} questions; the runs of the other panel were asked others. ` : "";
  const about = "Mean score over tasks with its 95% interval, with the block or the audio replaced. If the answer uses the content of the block, the score drops with another clip's states.";
  const headings = [["Run"], ["Condition"], ["Score", true], ["Change", true], ["95% interval", true], ["Same reply", true]];
  const measured = ablated.filter(({ result }) => result.attention);
  return [
    panel("Token replacement", `${asked}${about}`, intervals(rows), legendOf(ablated.map(({ run }) => ({ name: labelOf(run), tint: tintOf(run), dash: 0 })))),
    el("div", { class: "panel" }, el("details", {}, el("summary", {}, "Differences from the unmodified student, paired by question"), table(headings, lines))),
    ...(measured.length ? [panel("Attention and block states", "Fraction of the attention from the position before the answer to audio, block and text, by layer. Block states that are equal for all clips, or that do not change with the audio, encode nothing about it.", ...measured.map(blockUse))] : []),
  ];
}

/** The distribution of the answer's attention, and the dependence of the block's states on the clip. */
function blockUse({ run, result }) {
  const layers = result.attention.audio.map((_, index) => [String(index), true]);
  const share = (value) => el("span", { class: "heat", style: `background:color-mix(in srgb, var(--wave) ${Math.round(value * 85)}%, transparent)` }, fixed(value, 2));
  const rows = Object.entries(result.attention).map(([group, shares]) => [group, ...shares.map(share)]);
  const states = result.block_states;
  const said = `${labelOf(run)}: cosine of block states between clips ${fixed(states.cosine_between_clips, 2)}, change with other audio ${fixed(states.change_with_other_audio, 2)}`;
  return el("div", {}, el("h4", {}, said), table([["Attention to"], ...layers], rows));
}

/** Rows of values with intervals: [name, [{score, low, high, name, tint}]]. */
function intervals(rows) {
  const every = rows.flatMap(([, result]) => result.flatMap((item) => [item.score, item.low ?? item.score, item.high ?? item.score]));
  const [low, high] = [Math.min(...every, 0), Math.max(...every, 1e-9)];
  const left = 124;
  const heightOf = ([, result]) => Math.max(result.length, 1) * 13 + 12;
  const box = el("div", { class: "chart" });
  return keepDrawn(box, (width) => {
    const bottom = rows.reduce((sum, row) => sum + heightOf(row), 4);
    const x = (value) => left + ((value - low) / (high - low || 1)) * (width - left - 14);
    const about = rows.map(([name, result]) => `${name}: ${result.map((item) => short(item.score)).join(", ")}`).join("; ");
    const picture = svg("svg", { height: bottom + 22, role: "img", "aria-label": about });
    for (const tick of niceSteps(low, high, Math.max(2, Math.floor((width - left) / 90)))) {
      picture.append(svg("line", { x1: x(tick), x2: x(tick), y1: 0, y2: bottom, class: "rule" }), axisText(x(tick), bottom + 16, short(tick), width));
    }
    let top = 4;
    for (const row of rows) {
      const [name, result] = row;
      picture.append(svg("text", { x: 0, y: top + heightOf(row) / 2 + 3, class: "strong" }, name));
      result.forEach((item, index) => {
        const middle = top + 12 + index * 13;
        const colour = `var(--series-${(item.tint % 6) + 1})`;
        const title = svg("title", {}, `${item.name}, ${name}: ${short(item.score)}`);
        picture.append(
          svg("line", { x1: x(item.low ?? item.score), x2: x(item.high ?? item.score), y1: middle, y2: middle, style: `stroke:${colour}`, "stroke-width": 2 }),
          svg("circle", { cx: x(item.score), cy: middle, r: 4.5, fill: colour }, title));
      });
      top += heightOf(row);
    }
    box.replaceChildren(picture);
  });
}

/** Probe scores by layer, for one group of positions at a time. */
function probes(probed) {
  const kinds = [...new Set(probed.flatMap(({ result }) => Object.values(result.targets).flatMap((target) => Object.keys(target.scores))))];
  const body = el("div");
  const show = (kind) => body.replaceChildren(...probed.flatMap(({ run, result }) => heatTable(run, result, kind)));
  const about = "Score of a linear probe on the states of each layer (0: embeddings), with the score of a constant prediction as the baseline";
  const first = kinds.includes("thinking") ? ["thinking", ...kinds.filter((kind) => kind !== "thinking")] : kinds;
  return [panel("Linear probes", about, choices("Positions", first.map((kind) => [kind, kind]), show), body)];
}

function heatTable(run, result, kind) {
  const targets = Object.entries(result.targets).filter(([, target]) => target.scores[kind]);
  if (!targets.length) return [];
  const layers = Math.max(...targets.map(([, target]) => target.scores[kind].length));
  const cell = (value) => {
    if (value === null || value === undefined) return "–";
    const depth = `background:color-mix(in srgb, var(--wave) ${Math.round(Math.min(Math.max(value, 0), 1) * 85)}%, transparent)`;
    return el("span", { class: "heat", style: depth }, fixed(value, 2));
  };
  const heading = (layer) => [run.has_heads && layer === (result.head_layer ?? result.tapped_layer) ? `${layer} (heads)` : String(layer), true];
  const rows = targets.map(([name, target]) => [name, el("span", { class: "quiet" }, target.metric), fixed(target.floor, 2), ...Array.from({ length: layers }, (_, index) => cell(target.scores[kind][index]))]);
  return [el("h4", {}, `${labelOf(run)}: ${kind} positions${result.description ? `; ${result.description}` : ""}`), table([["Target"], ["Measure"], ["Floor", true], ...Array.from({ length: layers }, (_, index) => heading(index))], rows)];
}
