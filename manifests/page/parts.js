// Parts of which the sections of every page are made: panels, tables, figures, cards, the theme.

const THEMES = { auto: "light dark", light: "light", dark: "dark" };

function panel(title, about, ...content) {
  return el("div", { class: "panel" }, el("h3", {}, title), about ? el("p", { class: "quiet small" }, about) : null, ...content);
}

/** Rows under headings [name, is it a number]; a stacking one becomes a list on narrow screens. */
function table(headings, rows, { stacking = false } = {}) {
  const cell = (content, index) => el("td", { class: headings[index][1] ? "number" : null }, content);
  return el("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": headings.map((item) => item[0]).filter(Boolean).join(", ") },
    el("table", { class: stacking ? "stacking" : null },
      el("thead", {}, el("tr", {}, ...headings.map(([name, numeric]) => el("th", { scope: "col", class: numeric ? "number" : null }, name)))),
      el("tbody", {}, ...rows.map((row) => el("tr", {}, ...row.map(cell))))));
}

/** The head of the page; figures are [name, value, note]. */
function head(title, where, about, figures) {
  document.title = `${title}: ${where}`;
  byId("title").append(title);
  byId("subtitle").append(el("span", { class: "mono wrap" }, where), about ? ` · ${about}` : "");
  byId("figures").append(...figures.map(([name, value, note]) => el("div", {}, el("dt", {}, name), el("dd", {}, value, el("small", {}, note)))));
}

/** Buttons, one of which is selected; choices are [key, text, about], and `show(key)` is called immediately. */
function choices(label, all, show) {
  const box = el("div", { class: "choices", role: "group", "aria-label": label });
  const choose = (key) => {
    for (const button of box.children) button.setAttribute("aria-pressed", String(button.dataset.kind === key));
    show(key);
  };
  box.append(...all.map(([key, text, about]) => el("button", { type: "button", "data-kind": key, title: about || null, onclick: () => choose(key) }, text)));
  choose(all[0][0]);
  return box;
}

/** One collapsed clip: its waveform, name, description and chips; `view(box)` fills it when it is opened. */
function card(clip, index, { said, chips }, view) {
  const box = el("div", { class: "viewer", id: `view-${index}`, hidden: true });
  const thumb = el("canvas", { "aria-hidden": "true" });
  const frame = el("span", {}, thumb);
  frame.style.display = "block";
  if (clip.waveform) {
    const waveform = { columns: clip.waveform.columns, values: unpack(clip.waveform.values) };
    keepDrawn(frame, (width) => drawWaveform(thumb, width, 36, waveform));
  }
  const face = el("button", { type: "button", class: "face", "aria-expanded": "false", "aria-controls": box.id, onclick: () => open(box.hidden) },
    frame,
    el("span", { class: "about" }, el("span", { class: "name" }, clip.clip_id), el("span", { class: "said" }, said)),
    el("span", { class: "aside" }, el("span", {}, `${clip.full_seconds.toFixed(2)} s`), chips.length ? el("span", { class: "chips" }, ...chips) : null));
  const open = (wanted) => {
    if (wanted && !box.childElementCount) view(box);
    for (const audio of wanted ? [] : box.querySelectorAll("audio")) audio.pause();
    box.hidden = !wanted;
    face.setAttribute("aria-expanded", String(wanted));
  };
  const root = el("article", { class: "clip", id: `clip-${index}` }, el("h3", {}, face), box);
  return { root, clip, open };
}

function chooseTheme() {
  const button = byId("theme");
  const names = Object.keys(THEMES);
  let index = 0;
  const show = () => {
    document.documentElement.style.colorScheme = THEMES[names[index]];
    button.replaceChildren(el("span", {}, "Theme: "), names[index]);
    button.setAttribute("aria-label", `Theme: ${names[index]}`);
    redrawAll();
  };
  button.addEventListener("click", () => { index = (index + 1) % names.length; show(); });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redrawAll);
  show();
}
