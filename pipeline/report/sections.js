// The upper part of the page: sections about the whole cache and about the sample.

const defaults = facts.teachers.filter((item) => item.is_default);
const MOST_SUSPICIONS = 12;
const inCorpus = (item) => (facts.corpora.length > 1 ? ` · ${item.corpus}` : "");

function showTitle() {
  const when = new Date(facts.as_of * 1000).toISOString().slice(0, 16).replace("T", " ");
  const sum = (key) => defaults.reduce((total, item) => total + item[key], 0);
  const [clips, hours] = ["clips", "hours"].map((key) => facts.corpora.reduce((total, item) => total + item[key], 0));
  // A version has an entry for each corpus that it was run on.
  const streamNames = new Set(defaults.flatMap((item) => item.streams.map((stream) => `${item.name}.${stream.name}`)));
  const hoursOf = new Map();
  for (const item of defaults) hoursOf.set(item.name, (hoursOf.get(item.name) ?? 0) + item.hours);
  const numTeachers = hoursOf.size;
  // Also the corpora on which a teacher has not started, as `coat-cache coverage` counts them.
  const wanted = clips * numTeachers;
  const heard = Math.max(...hoursOf.values());
  const others = facts.teachers.reduce((total, item) => total + item.bytes, 0) - sum("bytes");
  const figures = [
    ["Clips", whole(clips), facts.corpora.length > 1 ? `${facts.corpora.length} corpora` : `corpus “${facts.corpora[0].name}”`],
    ["Audio", hours ? span(hours * 3600) : "unknown", facts.durations.known < clips ? `${whole(clips - facts.durations.known)} of unknown length` : "all lengths known"],
    ["Teachers", whole(numTeachers), `${whole(streamNames.size)} streams`],
    ["With targets", percent(sum("rows") / wanted), `${whole(sum("rows"))} of ${whole(wanted)} (clip × teacher)`],
    ["Without", whole(wanted - sum("rows")), `${whole(sum("failed"))} failed, ${whole(wanted - sum("rows") - sum("failed"))} not run yet`],
    ["Size", bytes(sum("bytes")), [heard ? `${bytes(sum("bytes") / heard)} per hour of audio` : "", others ? `${bytes(others)} of other versions` : ""].filter(Boolean).join(", ")],
  ];
  head("Teacher cache", facts.where, `last commit ${when} UTC`, figures);
}

function showCorpus() {
  const { durations, labels } = facts;
  const grid = el("div", { class: "masonry" });
  if (durations.known) {
    const [, low, middle, high, longest] = durations.quantiles;
    const about = `Median ${short(middle)} s; 90% are ${short(low)} to ${short(high)} s; longest ${short(longest)} s`;
    grid.append(panel("Durations", about, histogram(durations, { unit: "s", noun: "clips" })));
  }
  const part = labels.with_text / Math.max(labels.clips, 1);
  const text = [["with text", part, percent(part)]];
  grid.append(panel("Text", `${plural(labels.words, "word")} in ${plural(labels.with_text, "clip")}`, bars(text, "Clips with text")));
  for (const [key, label] of Object.entries(labels.labels)) {
    const rows = Object.entries(label.common).map(([name, count]) => [cut(name), count / labels.clips, whole(count)]);
    if (rows.length && (label.distinct < label.clips || label.clips === 1)) {
      const rest = label.distinct - rows.length;
      grid.append(panel(key, `${plural(label.clips, "clip")}, ${plural(label.distinct, "value")}${rest > 0 ? `; the ${rows.length} most frequent` : ""}`, bars(rows, key)));
    }
  }
  const all = facts.corpora.reduce((total, item) => total + item.clips, 0);
  const note = facts.sampled < all ? `Durations cover all clips; text and labels cover ${whole(facts.sampled)} sampled clips.` : null;
  byId("corpus").append(note ? el("p", { class: "quiet small" }, note) : "", grid);
}

const cut = (text) => (text.length <= 42 ? text : `${text.slice(0, 41)}…`);

function showTeachers() {
  const section = byId("teachers");
  const rows = facts.teachers.map((item) => [
    el("span", {}, el("b", {}, item.name), el("br"), el("span", { class: "mono quiet" }, item.key.split("@")[1]), item.is_default ? "" : " (not the default)", inCorpus(item)),
    coverage(item), whole(item.rows), whole(item.failed), whole(item.missing), bytes(item.bytes),
    item.hours ? bytes(item.bytes / item.hours) : "–", span(item.worker_seconds),
    item.worker_seconds ? `${short((item.hours * 3600) / item.worker_seconds)} ×` : "–", el("span", { class: "quiet small" }, item.license),
  ]);
  const headings = [["Teacher"], ["Coverage"], ["With targets", true], ["Failed", true], ["Missing", true], ["Size", true], ["Per hour", true], ["Worker time", true], ["Real time", true], ["Licence of the expert"]];
  section.append(el("div", { class: "panel" }, table(headings, rows), el("details", {}, el("summary", {}, "Streams"), streams())));
  if (facts.not_run.length) section.append(el("p", { class: "quiet small" }, `Not run yet: ${facts.not_run.join(", ")}.`));
  section.append(failures());
  if (facts.audio_warnings.length) section.append(audioWarnings());
  const run = facts.teachers.filter((item) => item.throughput.at.length);
  const since = new Date(Math.min(...run.map((item) => item.throughput.at[0])) * 1000).toISOString().slice(0, 19).replace("T", " ");
  const curve = (key) => run.map((item) => ({ name: `${item.is_default ? item.name : item.key}${inCorpus(item)}`, at: item.throughput.at, values: item.throughput[key] }));
  const unit = Math.max(...run.flatMap((item) => item.throughput.hours)) < 2 ? ["minutes", 60] : ["hours", 1];
  const done = curve("hours").map((item) => ({ ...item, values: item.values.map((value) => value * unit[1]) }));
  section.append(el("div", { class: "pair" },
    panel("Progress", `${unit[0]} of audio with targets, from the first commit at ${since} UTC`, lines(done, { unit: unit[0], steps: true })),
    panel("Speed", "seconds of audio per worker second, without loading and decoding", lines(curve("speed"), { unit: "times real time", log: true }))));
}

function coverage(item) {
  const share = (count) => `width:${(count / Math.max(item.clips, 1)) * 100}%`;
  const about = `${percent(item.rows / item.clips)} with targets, ${percent(item.failed / item.clips)} failed, ${percent(item.missing / item.clips)} missing`;
  return el("div", { class: "share", role: "img", "aria-label": about, title: about }, el("i", { style: share(item.rows) }), el("i", { class: "failed", style: share(item.failed) }));
}

function streams() {
  const headings = [["Stream"], ["Kind"], ["Width", true], ["Frames/s", true], ["Frames", true], ["Codec"], ["Codec loss", true]];
  const rows = defaults.flatMap((item) => item.streams.map((stream) => [
    `${item.name}.${stream.name}${inCorpus(item)}`, stream.kind, whole(stream.dim), short(stream.rate), whole(stream.frames), stream.codec, percent(stream.loss),
  ]));
  return table(headings, rows);
}

/** A clip that cannot be decoded fails for every teacher, so these failures share one row. */
function alike(reasons) {
  const result = new Map();
  for (const { teacher, ...reason } of reasons) {
    const key = JSON.stringify(reason);
    result.set(key, { ...reason, teachers: [...(result.get(key)?.teachers ?? []), teacher] });
  }
  return [...result.values()];
}

function failures() {
  if (!facts.reasons.length) return el("div", { class: "panel" }, el("p", { class: "good" }, "No clip failed."));
  const rows = alike(facts.reasons).map((item) => [
    item.teachers.join(", "), el("b", {}, item.error), whole(item.clips),
    el("ul", { class: "examples" }, ...item.examples.map((example) => el("li", { class: "small" },
      clipName(example.clip_id), el("span", { class: "quiet" }, ` ${example.stage}: ${example.message}`)))),
  ]);
  return panel("Failures by reason", null, table([["Teachers"], ["Reason"], ["Clips", true], ["Examples"]], rows, { stacking: true }));
}

/** Warnings about audio that the build decoded despite a problem; docs/audio.md explains the types. */
function audioWarnings() {
  const rows = facts.audio_warnings.map((item) => [
    el("b", {}, item.kind), whole(item.clips),
    el("ul", { class: "examples" }, ...item.examples.map((id) => el("li", { class: "small" }, clipName(id)))),
  ]);
  return panel("Warnings about the audio", "These clips have targets despite a problem with their audio; the examples are sampled clips",
    table([["Warning"], ["Clips", true], ["Examples"]], rows, { stacking: true }));
}

const fileName = (uri) => uri.split("/").pop();

/** A clip's id, as a link if the clip is in the gallery. Corpora can have ids in common. */
function clipName(id, corpus = "") {
  const index = facts.clips.findIndex((item) => item.clip_id === id && (!corpus || item.corpus === corpus));
  return el(index < 0 ? "span" : "a", { class: "mono wrap", href: index < 0 ? null : `#clip-${index}` }, id);
}

function showDistributions() {
  const section = byId("distributions");
  section.append(el("p", { class: "quiet small" }, `Computed from those of ${plural(facts.sampled, "sampled clip")} that have targets.`));
  const grid = el("div", { class: "masonry" });
  for (const { title, about, unit, histogram: counts, bars: shares } of facts.charts) {
    const content = counts ? histogram(counts, { unit }) : bars(shares.map(([name, share]) => [name, share, percent(share)]), title);
    grid.append(panel(title, about, content));
  }
  section.append(grid);
}

function showSuspicions() {
  const section = byId("suspicious");
  const unheard = facts.unheard.length ? ` Some could not be decoded on this machine (${facts.unheard[0]}).` : "";
  section.append(el("p", { class: "quiet small" }, `${plural(facts.sampled, "sampled clip")} checked; ${whole(facts.listened)} decoded.${unheard} Listen to the listed clips before you draw a conclusion.`));
  const result = facts.checks.filter((check) => facts.finding_counts[check.kind]);
  const clean = facts.checks.filter((check) => facts.applicable.includes(check.kind) && !facts.finding_counts[check.kind]);
  const idle = facts.checks.filter((check) => !facts.applicable.includes(check.kind));
  const box = el("div", { class: "panel" });
  section.append(box);
  if (result.length) {
    const body = el("div");
    const total = result.reduce((sum, check) => sum + facts.finding_counts[check.kind], 0);
    const show = (kind) => {
      const rows = result.filter((check) => !kind || check.kind === kind).flatMap((check) =>
        facts.findings.filter((item) => item.kind === check.kind).slice(0, kind ? undefined : MOST_SUSPICIONS));
      body.replaceChildren(table([["Reason"], ["Clip"], ["Evidence"]],
        rows.map((item) => [el("span", { class: "chip warn" }, item.kind), el("span", {}, clipName(item.clip_id, item.place[0]), el("br"), el("span", { class: "quiet small wrap" }, fileName(item.uri))), item.detail]), { stacking: true }),
        kind || rows.length === total ? "" : el("p", { class: "quiet small" }, `${rows.length} of ${whole(total)}; choose a reason to see more.`));
    };
    const kinds = result.map(({ kind, about }) => [kind, `${kind} ${whole(facts.finding_counts[kind])}`, about]);
    box.append(choices("Reason", [["", `all ${whole(total)}`, "The most severe findings of each kind"], ...kinds], show), body);
  }
  const list = (checks) => checks.map((check) => `${check.kind} (${check.about})`).join("; ");
  if (clean.length) box.append(el("p", { class: "quiet small good" }, `No findings: ${list(clean)}.`));
  if (idle.length) box.append(el("p", { class: "quiet small" }, `Not checked, because no sampled clip has what it needs: ${idle.map((check) => check.kind).join(", ")}.`));
}
