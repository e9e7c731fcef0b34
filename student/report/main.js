// Held-out clips with their pairs of tracks, and the entry point that builds the page.

function showClips() {
  const section = byId("clips");
  if (!section) return;
  section.append(
    el("p", { class: "quiet small" }, `Predictions of the heads of ${facts.predicting} from ${facts.read_from}, on held-out clips. Each pair shows the cached targets on the student's time grid, then the prediction, with the same rows and colours.`),
    el("div", { id: "gallery" }));
  const cards = facts.clips.map((clip, index) => {
    const said = `${clip.question} “${clip.answered}”`;
    const right = clip.answered === clip.expected;
    const chips = [el("span", { class: right ? "chip" : "chip warn" }, right ? "answer as expected" : "another answer")];
    return card(clip, index, { said, chips }, (box) => view(box, clip, itemsOf(clip)));
  });
  byId("gallery").append(...cards.map((item) => item.root));
  cards[0].open(true);
}

function itemsOf(clip) {
  const scores = Object.entries(clip.scores).map(([name, score]) => el("span", { class: "chip" }, el("span", { class: "quiet" }, `${name} `), score === null ? "–" : fixed(score, 2)));
  const items = [["Question", clip.question], ["Expected", clip.expected], ["Answered", clip.answered || "nothing"], ["Scores", el("span", { class: "chips" }, ...scores)]];
  if (clip.absent.length) items.push(["Not cached", clip.absent.join(", ")]);
  items.push(["Audio", el("span", { class: "mono" }, clip.uri)]);
  return items;
}

showTitle();
showArms();
showCurves();
showStreams();
showAnswers();
showClips();
showEvaluation();
showCost();
chooseTheme();
