// The gallery with its search and filters, and the entry point that builds the page.

function showGallery() {
  byId("clips").append(
    el("form", { id: "filters", class: "filters", role: "search" }),
    el("p", { id: "matches", class: "quiet", "aria-live": "polite" }), el("div", { id: "gallery" }));
  const cards = facts.clips.map(exhibit);
  byId("gallery").append(...cards.map((item) => item.root));
  const controls = filters();
  const apply = () => {
    const wanted = controls.wanted();
    let count = 0;
    for (const { root, clip, text } of cards) {
      root.hidden = !wanted(clip, text);
      count += root.hidden ? 0 : 1;
    }
    const all = facts.corpora.reduce((total, item) => total + item.clips, 0);
    byId("matches").replaceChildren(`${whole(count)} of ${plural(cards.length, "clip")} are shown here, of ${whole(all)} in the cache. Click on a track to play from that time.`);
  };
  byId("filters").addEventListener("input", apply);
  byId("filters").addEventListener("submit", (event) => event.preventDefault());
  byId("filters").addEventListener("reset", () => setTimeout(apply));
  const openLinked = () => {
    const linked = cards.find((item) => `#${item.root.id}` === location.hash);
    if (!linked) return;
    if (linked.root.hidden) { byId("filters").reset(); linked.root.hidden = false; }
    linked.open(true);
    linked.root.scrollIntoView();
  };
  addEventListener("hashchange", openLinked);
  apply();
  if (cards.length) cards[0].open(true);
  openLinked();
}

function exhibit(clip, index) {
  const chips = [
    ...absenceChips(clip),
    ...clip.findings.map((kind) => el("span", { class: "chip warn" }, kind)),
  ];
  const said = clip.text || clip.transcript || Object.values(clip.labels).join(" · ");
  const text = [clip.clip_id, clip.text, clip.transcript, clip.uri, ...Object.values(clip.labels)].join("\n").toLocaleLowerCase();
  return { ...card(clip, index, { said, chips }, (box) => view(box, clip, about(clip))), text };
}

/** Teachers that failed, and teachers that have not run; a clip on which every teacher failed names none. */
function absenceChips(clip) {
  const failed = Object.keys(clip.absent);
  const all = failed.length > 1 && !clip.teachers.length && !clip.not_run.length;
  return [
    failed.length ? el("span", { class: "chip bad" }, `failed ${all ? "for all teachers" : failed.join(", ")}`) : "",
    clip.not_run.length ? el("span", { class: "chip" }, `no ${clip.not_run.join(", ")} yet`) : "",
  ];
}

function about(clip) {
  const items = [];
  if (clip.text) items.push(["Text", clip.text]);
  if (clip.transcript) items.push(["Transcript", clip.transcript]);
  for (const [why, names] of byReason(clip.absent)) items.push([`No ${names.join(", ")}`, el("span", { class: "chip bad" }, why)]);
  if (clip.not_run.length) items.push([`No ${clip.not_run.join(", ")}`, el("span", { class: "chip" }, "not run yet")]);
  for (const item of facts.findings.filter((other) => other.clip_id === clip.clip_id)) items.push([`Suspicious`, `${item.kind}: ${item.detail}`]);
  const labels = Object.entries(clip.labels).map(([key, value]) => el("span", { class: "chip" }, el("span", { class: "quiet" }, `${key} `), value));
  if (labels.length) items.push(["Labels", el("span", { class: "chips" }, ...labels)]);
  items.push(["Audio", el("span", { class: "mono" }, clip.uri)]);
  if (clip.seconds < clip.full_seconds) items.push(["Shown", `the first ${span(clip.seconds)} of ${span(clip.full_seconds)}`]);
  return items;
}

/** The search field and the three filters; `wanted()` returns the predicate that a clip must satisfy. */
function filters() {
  const form = byId("filters");
  const option = (value, text = value) => el("option", { value }, text);
  const search = el("input", { type: "search", name: "text", placeholder: "id, text, transcript, label, file" });
  const values = new Map();
  for (const clip of facts.clips) {
    for (const [key, value] of Object.entries(clip.labels)) values.set(key, (values.get(key) || new Set()).add(value));
  }
  const groups = [...values].filter(([, result]) => result.size <= 12).map(([key, result]) =>
    el("optgroup", { label: key }, ...[...result].sort().map((value) => option(JSON.stringify([key, value]), value))));
  const label = el("select", { name: "label" }, option("", "any"), ...groups);
  const names = [...new Set(defaults.map((item) => item.name))];
  const teacher = el("select", { name: "teacher" }, option("", "any"), option("all", "has all"),
    ...names.map((name) => option(`has ${name}`)), ...names.map((name) => option(`lacks ${name}`)));
  const kinds = facts.checks.map((check) => check.kind).filter((kind) => facts.clips.some((clip) => clip.findings.includes(kind)));
  const problem = el("select", { name: "problem" }, option("", "any or none"), option("none"), option("failed", "a teacher failed"),
    option("suspicious", "suspicious"), ...kinds.map((kind) => option(`suspicious:${kind}`, `suspicious: ${kind}`)));
  form.append(
    el("label", {}, "Search", search), el("label", {}, "Label", label), el("label", {}, "Teachers", teacher),
    el("label", {}, "Problem", problem), el("button", { type: "reset" }, "Reset"));
  const tests = {
    label: (wanted) => { const [key, value] = JSON.parse(wanted); return (clip) => clip.labels[key] === value; },
    teacher: (wanted) => {
      if (wanted === "all") return (clip) => names.every((name) => clip.teachers.includes(name));
      const has = wanted.startsWith("has ");
      const name = wanted.slice(has ? 4 : 6);
      return (clip) => clip.teachers.includes(name) === has;
    },
    problem: (wanted) => (clip) => {
      if (wanted === "none") return !clip.failed && !clip.findings.length;
      if (wanted === "failed") return clip.failed;
      return wanted === "suspicious" ? clip.findings.length > 0 : clip.findings.includes(wanted.slice("suspicious:".length));
    },
  };
  const wanted = () => {
    const words = search.value.toLocaleLowerCase().split(/\s+/).filter(Boolean);
    const chosen = [label, teacher, problem].filter((item) => item.value).map((item) => tests[item.name](item.value));
    return (clip, text) => words.every((word) => text.includes(word)) && chosen.every((test) => test(clip));
  };
  return { wanted };
}

showTitle();
showCorpus();
showTeachers();
showDistributions();
showSuspicions();
showGallery();
chooseTheme();

/** [reason, teacher names] for the missing targets of a clip; a decoding error is listed once for all teachers. */
function byReason(absent) {
  const names = new Map();
  for (const [name, why] of Object.entries(absent)) names.set(why, [...(names.get(why) ?? []), name]);
  return [...names];
}
