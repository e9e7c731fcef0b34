// Scores of held-out answers by task, with chance and the most frequent answer, from the files that `eval` wrote.

function showAnswers() {
  const section = byId("answers");
  if (!section) return;
  const sets = [...new Set(facts.runs.flatMap((run) => Object.keys(run.scores)))];
  const about = "Accuracy with its 95% interval (for transcripts, 1 - word error rate). Chance: guessing among the choices of each question. Most frequent answer: always giving the answer that most questions have. A score is meaningful only if its interval is above both.";
  section.append(el("p", { class: "quiet small" }, about), ...sets.flatMap((name) =>
    sameQuestions(facts.runs.filter((run) => run.scores[name]), (run) => run.scores[name])
      .map((runs, _, every) => answersTo(name, runs, every.length > 1))));
}

/** Groups of items whose results are about the same questions: only these can be compared. */
function sameQuestions(items, resultOf) {
  const groups = new Map();
  for (const item of items) {
    const { digest } = resultOf(item);
    groups.set(digest, [...(groups.get(digest) ?? []), item]);
  }
  return [...groups.values()];
}

/** One set of questions: a row for each task, a column for each run that has answered. */
function answersTo(name, runs, isOneOfSeveral) {
  const tasks = [...new Set(runs.flatMap((run) => Object.keys(run.scores[name].tasks)))];
  const share = (value) => (value === null || value === undefined ? "–" : fixed(value, 2));
  // A single question has no interval.
  const scored = (item) => share(item.score) + (item.low === null ? "" : ` (${share(item.low)} to ${share(item.high)})`);
  const guesses = []; // [chance, most frequent answer] of each task
  const rows = tasks.map((task) => {
    const result = runs.map((run) => run.scores[name].tasks[task]);
    const any = result.find((item) => item) || {};
    const chance = any.chance || null; // 0 for tasks without choices
    guesses.push([chance, any.kind === "transcription" ? null : any.majority]);
    return [task, whole(any.n), ...guesses.at(-1).map(share),
      ...result.flatMap((item) => (item ? [scored(item), gauge(item.score, Math.max(chance || 0, item.majority || 0))] : ["–", ""]))];
  });
  const means = runs.flatMap((run) => { const { mean: score } = run.scores[name]; return [scored(score), ""]; });
  // The mean of a column over tasks, if every task has a value.
  const overTasks = (column) => {
    const values = known(guesses.map((guess) => guess[column]));
    return values.length < guesses.length ? "" : share(mean(values));
  };
  const headings = [["Task"], ["Questions", true], ["Chance", true], ["Most frequent answer", true], ...runs.flatMap((run) => [[labelOf(run), true], [""]])];
  const about = isOneOfSeveral ? `${runs[0].scores[name].questions} questions. Other runs answered other questions under this name.` : null;
  return panel(name.replaceAll("_", " "), about, table(headings, [...rows, [el("b", {}, "mean over tasks"), "", overTasks(0), overTasks(1), ...means]]));
}
