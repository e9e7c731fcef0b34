// Sections computed from the files of the runs: arms, curves, before and after, cost.

const groups = [...new Set(facts.runs.map((run) => run.group))];
const tintOf = (run) => groups.indexOf(run.group);
const dashOf = (run) => facts.runs.filter((item) => item.group === run.group).indexOf(run);
const lastOf = (run) => Object.keys(run.validation).at(-1);
/** Runs that are compared: finished ones, if there are any. */
const finished = facts.runs.filter((run) => run.is_finished);
const compared = finished.length ? finished : facts.runs.filter(lastOf);
/** A run's name, with its state if it is not finished, for results that are shown whatever its state. */
const labelOf = (run) => (run.is_finished ? run.name : `${run.name} (not finished: ${run.state})`);
const withState = (runs) => runs.map((run) => `${run.name} (${run.state})`).join(", ");
const mean = (values) => values.reduce((sum, value) => sum + value, 0) / values.length;
const known = (values) => values.filter((value) => value !== null && value !== undefined);

/** Streams in the order of the runs that have them. */
const streamNames = [...new Set(facts.runs.flatMap((run) =>
  Object.values(run.validation).flatMap((numbers) => Object.keys(numbers))))]
  .filter((key) => key.endsWith("/metric")).map((key) => key.slice(0, -"/metric".length));

/** Mean and, over several, standard deviation, as people write it. */
function summary(values) {
  if (!values.length) return "–";
  if (values.length < 2) return short(values[0]);
  const spread = Math.sqrt(values.reduce((sum, value) => sum + (value - mean(values)) ** 2, 0) / (values.length - 1));
  return `${short(mean(values))} ± ${spread.toPrecision(2)}`;
}

function showTitle() {
  const { runs } = facts;
  const backbones = [...new Set(runs.map((run) => run.backbone))];
  const sizes = known([...new Set(runs.map((run) => run.parameters))]);
  const seconds = runs.flatMap((run) => known(run.costs.map((cost) => cost.seconds)));
  const ends = groups.map((group) => [group, known(compared.filter((run) => run.group === group)
    .map((run) => run.validation[lastOf(run)].answer_loss))]).filter(([, values]) => values.length);
  const best = ends.sort((item, other) => mean(item[1]) - mean(other[1]))[0];
  const isClear = ends.length > 1 && mean(ends[1][1]) - mean(best[1]) > 0.01 * mean(best[1]);
  const lowest = best && `${ends.length < 2 ? "on held-out examples, " : isClear ? "lowest: " : "within 1% of others: "}${best[0]}${best[1].length > 1 ? `, mean of ${best[1].length} seeds` : ""}`;
  const held = [...new Set(runs.map((run) => run.held_out))];
  head(runs.length > 1 ? "Training runs" : "Training run", runs.length > 1 ? runs.map((run) => run.name).join(", ") : runs[0].folder, runs.length > 1 || runs[0].is_finished ? "" : `not finished: ${runs[0].state}`, [
    ["Runs", whole(runs.length), `${groups.join(", ")}`],
    ["Backbone", backbones.length > 1 ? whole(backbones.length) : sizes.length === 1 ? amount(sizes[0]) : "–", backbones.join(", ")],
    ["Trained", learntBy(runs), "parameters, maximum over stages"],
    ["Held out", whole(runs[0].num_held_out), held.length > 1 ? "runs have different examples" : "examples"],
    ["Answer loss", best ? short(mean(best[1])) : "–", lowest ?? "not validated yet"],
    ["Training", seconds.length ? span(seconds.reduce((sum, item) => sum + item, 0)) : "–", "all runs together"],
  ]);
}

const amount = (count) => (count >= 1e9 ? `${short(count / 1e9)} B` : count >= 1e6 ? `${short(count / 1e6)} M` : whole(count));
const total = (cost) => Object.values(cost.parameters).reduce((sum, item) => sum + item, 0);
const learntBy = (runs) => amount(Math.max(0, ...runs.flatMap((run) => run.costs.map(total))));

function showArms() {
  const section = byId("arms");
  if (!section) return;
  const left = facts.runs.filter((run) => !compared.includes(run));
  if (left.length) section.append(el("p", { class: "chip warn" }, `Not finished, and not compared: ${withState(left)}.`));
  if (compared.length && !finished.length) section.append(el("p", { class: "chip warn" }, `No run is finished: ${withState(compared)}.`));
  const of = (group, key) => compared.filter((run) => run.group === group)
    .map((run) => [run.name, run.validation[lastOf(run)][key]]).filter(([, value]) => value !== null && value !== undefined);
  const sets = new Set(facts.runs.map((run) => run.held_out));
  if (sets.size > 1) section.append(el("p", { class: "chip warn" }, "These runs were validated on different examples, so their metrics are not comparable."));
  const answers = groups.map((name, tint) => {
    const result = of(name, "answer_loss");
    return { name, tint, values: result.map((item) => item[1]), notes: result.map((item) => item[0]) };
  }).filter((group) => group.values.length);
  const rows = [["answer_loss", "answer", "loss, lower is better"], ...streamNames.map((name) => [`${name}/metric`, name, facts.metrics[name] || "metric, higher is better"])]
    .map(([key, name, what]) => [name, el("span", { class: "quiet" }, what), ...groups.map((group) => summary(of(group, key).map((item) => item[1])))]);
  const seeds = groups.map((group) => plural(of(group, "answer_loss").length, "seed"));
  if (answers.length) section.append(panel("Held-out answer loss", "After the last stage. Each dot is a run; the bar is the mean.", dots(answers, { unit: "nats" })));
  section.append(panel("After the last stage", `mean ± standard deviation over seeds (${groups.map((group, index) => `${group}: ${seeds[index]}`).join(", ")}), on held-out clips`,
    table([["Of"], ["Measure"], ...groups.map((group) => [group, true])], rows)));
}

function showCurves() {
  const section = byId("curves");
  const starts = facts.runs.map((run) => new Map(run.boundaries).get("joint") ?? 0);
  const latest = Math.max(...starts);
  const parts = [...new Set(facts.runs.flatMap((run) => Object.keys(run.curves)))];
  const look = facts.runs.map((run) => ({ name: run.name, tint: tintOf(run), dash: dashOf(run) }));
  const seriesOf = (part) => facts.runs.flatMap((run, index) => {
    const curve = run.curves[part];
    if (!curve) return [];
    const moved = (steps) => steps.map((step) => step + latest - starts[index]);
    return [{ ...look[index], at: moved(curve.steps), values: curve.values, dots: { at: moved(curve.checked_steps), values: curve.checked } }];
  });
  const marks = latest ? [[0, "align"], [latest, "joint"]] : [];
  section.append(el("p", { class: "quiet small" }, "Loss by optimiser step. Lines show training batches, dots show held-out clips. Where fewer than two batches were logged, a thin line joins the dots."), facts.runs.length > 1 ? legendOf(look) : "");
  const grid = el("div", { class: "pair" });
  const order = ["answer", ...parts.filter((part) => part !== "answer")].filter((part) => parts.includes(part));
  for (const part of order) {
    const options = { unit: "loss", across: "steps", floor: null, marks, legend: false };
    grid.append(panel(part, facts.metrics[part] ? `loss of the head; its metric, ${facts.metrics[part]}, is in the table below` : null, lines(seriesOf(part), options)));
  }
  section.append(parts.length ? grid : el("p", {}, "No losses have been logged yet."));
}

function showStreams() {
  const section = byId("streams");
  const validated = facts.runs.filter((run) => Object.keys(run.validation).length);
  if (!validated.length) { section.append(el("p", {}, "This run has not been validated yet.")); return; }
  const body = el("div");
  const first = validated.find((run) => Object.keys(run.validation.before || {}).some((key) => key.endsWith("/metric"))) || validated[0];
  const ordered = [first, ...validated.filter((run) => run !== first)];
  const show = (name) => body.replaceChildren(beforeAndAfter(validated.find((run) => run.name === name)));
  const box = el("div", { class: "panel" });
  section.append(el("p", { class: "quiet small" }, "Metrics on held-out clips. The mean predictor outputs the mean of the training clips for every frame. A head that is not better than the mean predictor has learned nothing about the audio."), box);
  if (ordered.length > 1) box.append(choices("Run", ordered.map((run) => [run.name, run.name]), show), body);
  else { box.append(body); show(first.name); }
}

function beforeAndAfter(run) {
  const moments = Object.keys(run.validation);
  const last = run.validation[moments.at(-1)];
  const answer = ["answer", el("span", { class: "quiet" }, "loss, lower is better"), "", ...moments.map((moment) => short(run.validation[moment].answer_loss)), ""];
  const rows = streamNames.filter((name) => `${name}/metric` in last).map((name) => {
    const metric = (moment) => run.validation[moment][`${name}/metric`];
    const baseline = run.validation[moments[0]][`${name}/mean_predictor`];
    const shown = (value) => (value === null || value === undefined ? "–" : fixed(value, 3));
    return [name, el("span", { class: "quiet" }, facts.metrics[name] || "metric"), shown(baseline), ...moments.map((moment) => shown(metric(moment))), gauge(metric(moments.at(-1)), baseline)];
  });
  const headings = [["Stream"], ["Measure"], ["Mean predictor", true], ...moments.map((moment) => [moment === "before" ? "Before" : `After ${moment}`, true]), [`After ${moments.at(-1)} (line: mean predictor)`]];
  return table(headings, [answer, ...rows]);
}

/** A value in [0, 1] as a bar, with a line where the baseline is. */
function gauge(value, baseline) {
  const share = (number) => `${Math.min(Math.max(number || 0, 0), 1) * 100}%`;
  const about = `${short(value || 0)}, the mean predictor ${short(baseline || 0)}`;
  return el("div", { class: "gauge", role: "img", "aria-label": about, title: about }, el("i", { style: `width:${share(value)}` }), el("b", { style: `left:${share(baseline)}` }));
}

function showCost() {
  const rows = facts.runs.flatMap((run) => run.costs.map((cost, index) => [
    index ? "" : el("b", {}, run.name), cost.stage, cost.learns, cost.parameters.rows ? whole(cost.parameters.rows) : "–",
    cost.parameters.backbone ? whole(cost.parameters.backbone) : "–", cost.parameters.heads ? whole(cost.parameters.heads) : "–",
    whole(cost.steps), cost.examples ? whole(cost.examples) : "–", cost.seconds === null ? "not finished" : span(cost.seconds),
    cost.seconds && cost.examples ? short(cost.examples / cost.seconds) : "–",
  ]));
  const headings = [["Run"], ["Stage"], ["Trains"], ["Block embeddings", true], ["Backbone", true], ["Heads", true], ["Steps", true], ["Examples", true], ["Time", true], ["Examples/s", true]];
  byId("cost").append(el("p", { class: "quiet small" }, "Parameters that each stage trains; the heads are dropped at export. Times are measured by the trainer; for a resumed stage, since it was resumed."),
    el("div", { class: "panel" }, rows.length ? table(headings, rows) : el("p", {}, "No stage has finished yet.")));
}
