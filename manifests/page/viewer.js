// One clip in full: its audio and all its tracks under one time axis, with one playhead over all.

const HEIGHTS = { waveform: 64, spectrogram: 132, pitch: 96, notes: 116, row: 15, lane: 32, unnamed: 2 };

/** For each kind of track: the drawing function, the legend beside it, and its readout at a given time. */
function plan(track) {
  const { kind, data } = track;
  const frame = (t) => Math.round((t - data.start) / data.hop);
  if (kind === "words") {
    return {
      draw: (canvas, width, seconds) => drawWords(canvas, width, data, seconds),
      says: (t) => data.words.filter((word) => word.start_s <= t && t < word.end_s).map((word) => `“${word.text}”`)[0],
    };
  }
  if (kind === "pitch") {
    const [low, high] = pitchRange(data);
    const usable = (HEIGHTS.pitch - 11) / HEIGHTS.pitch;
    return {
      draw: (canvas, width, seconds) => drawPitch(canvas, width, HEIGHTS.pitch, data, seconds),
      ticks: pitchTicks(low, high).map((tick) => [`${tick} Hz`, usable * (1 - Math.log2(tick / low) / Math.log2(high / low))]),
      legend: "line: voiced, dots: unvoiced, strip: voicing",
      says: (t) => (data.voicing[frame(t)] > VOICED ? `f0 ${whole(data.f0[frame(t)])} Hz` : null),
    };
  }
  if (kind === "notes") {
    const [low, high] = keyRange(data);
    const ticks = [];
    for (let key = low; key <= high && data.notes.length; key += 1) if (key % 12 === 0) ticks.push([noteName(key), (high - key + 0.5) / (high - low + 1)]);
    return {
      draw: (canvas, width, seconds) => drawNotes(canvas, width, HEIGHTS.notes, data, seconds),
      ticks,
      says: (t) => data.notes.filter((note) => note.start_s <= t && t < note.end_s).map((note) => noteName(note.midi)).join(" "),
    };
  }
  if (kind === "curves") {
    const height = Math.max(2, data.curves.length) * HEIGHTS.lane;
    const value = ({ low, high, values }, place) => short(low + ((high - low) * values[place]) / 255);
    return {
      draw: (canvas, width, seconds) => drawCurves(canvas, width, height, data, seconds),
      ticks: data.curves.map((curve, place) => [curve.name, (place + 0.5) / data.curves.length]),
      says: (t) => data.curves.slice(0, 1).filter((curve) => frame(t) in curve.values).map((curve) => `${curve.name} ${value(curve, frame(t))}`)[0],
    };
  }
  const { rows, columns, names } = data;
  const height = names ? rows * HEIGHTS.row : Math.min(132, Math.max(rows * HEIGHTS.unnamed, 48));
  const ticks = names ? names.map((name, row) => [name, (row + 0.5) / rows]) : [];
  for (const [label, height] of data.ticks || []) ticks.push([label, 1 - height]);
  for (let row = 0; row < rows && "lowest_key" in data; row += 1) {
    if ((data.lowest_key + row) % 12 === 0) ticks.push([noteName(data.lowest_key + row), 1 - (row + 0.5) / rows]);
  }
  const strongest = (t) => {
    const column = Math.min(Math.max(frame(t), 0), columns - 1);
    const levels = data.values.subarray(column * rows, (column + 1) * rows);
    const top = levels.indexOf(Math.max(...levels));
    return levels[top] > 25 ? `${names[top]} ${(levels[top] / 255).toFixed(2)}` : null;
  };
  return {
    draw: (canvas, width, seconds) => drawHeat(canvas, width, height, data, seconds),
    ticks,
    says: names && data.scale === "heat" ? strongest : () => null,
  };
}

/** Bytes of a track, unpacked once. */
function opened(track) {
  const data = { ...track.data };
  for (const key of ["values", "voicing"]) if (key in data) data[key] = unpack(data[key]);
  if (data.curves) data.curves = data.curves.map((curve) => ({ ...curve, values: unpack(curve.values) }));
  return { ...track, data };
}

function row(name, { title, source = "", note = "" }, { draw, ticks = [] }, seconds) {
  const canvas = el("canvas", { role: "img", "aria-label": `${title}, ${source}` });
  const marks = ticks.map(([text, place]) => el("span", { class: "tick", style: `top:${place * 100}%`, title: text }, text));
  const plot = el("div", { class: "plot", "data-track": name }, canvas, ...marks);
  keepDrawn(plot, (width) => draw(canvas, width, seconds));
  const caption = el("div", { class: "caption" }, el("b", {}, title), el("span", { class: "quiet" }, source), note ? el("span", { class: "quiet" }, note) : null);
  return el("div", { class: "track" }, caption, plot);
}

function timeAxis(seconds) {
  const canvas = el("canvas", { "aria-hidden": "true" });
  const plot = el("div", { class: "plot", "data-track": "time" }, canvas);
  keepDrawn(plot, (width) => {
    const context = sized(canvas, width, 20);
    context.font = `11px ${getComputedStyle(document.body).fontFamily}`;
    for (const tick of niceSteps(0, seconds, Math.max(2, Math.floor(width / 80)))) {
      const [x, text] = [(tick / seconds) * width, `${tick} s`];
      context.fillStyle = paint("quiet");
      context.fillRect(Math.min(x, width - 1), 0, 1, 5);
      const size = context.measureText(text).width;
      context.fillText(text, Math.max(0, Math.min(x - size / 2, width - size)), 16);
    }
  });
  return el("div", { class: "track" }, plot);
}

function peak({ values }) {
  const most = new Int8Array(values.buffer).reduce((result, level) => Math.max(result, Math.abs(level)), 0);
  return most ? `peak ${(20 * Math.log10(most / 127)).toFixed(1)} dB` : "silence";
}

/** Fills `box` with everything about one clip; `items` are [name, content] above its tracks. */
function view(box, clip, items) {
  const { seconds } = clip;
  const tracks = clip.tracks.map(opened);
  const plans = tracks.map(plan);
  const stack = el("div", { class: "stack" });
  if (clip.waveform) {
    const waveform = { columns: clip.waveform.columns, values: unpack(clip.waveform.values) };
    const spectrogram = { ...clip.spectrogram, values: unpack(clip.spectrogram.values) };
    stack.append(
      row("waveform", { title: "waveform", source: peak(waveform) }, { draw: (canvas, width) => drawWaveform(canvas, width, HEIGHTS.waveform, waveform) }, seconds),
      row("spectrogram", { title: "spectrogram", source: "mel scale" }, {
        draw: (canvas, width) => drawHeat(canvas, width, HEIGHTS.spectrogram, spectrogram, seconds),
        ticks: spectrogram.ticks.map(([hertz, place]) => [hertz < 1000 ? `${hertz} Hz` : `${hertz / 1000} kHz`, 1 - place]),
      }, seconds));
  }
  stack.append(timeAxis(seconds));
  const rows = tracks.map((track, index) => row(track.source + ":" + track.kind, { ...track, note: [track.data.note, plans[index].legend].filter(Boolean).join("; ") }, plans[index], seconds));
  const extra = rows.filter((_, index) => tracks[index].more);
  for (const item of extra) item.hidden = true;
  stack.append(...rows);
  const playhead = el("div", { class: "playhead" });
  const pointer = el("div", { class: "pointer", hidden: true });
  const overlay = el("div", { class: "overlay" }, playhead, pointer);
  stack.append(timeAxis(seconds), overlay);

  const readout = el("div", { class: "readout quiet", "aria-live": "off" });
  const audio = clip.audio ? el("audio", { controls: true, preload: "auto", src: clip.audio, "aria-label": `Play ${clip.clip_id}` }) : null;
  const say = (t) => {
    const said = plans.map((item, index) => [item.says(t), tracks[index].data.who]).filter((item) => item[0])
      .map(([text, who]) => (who ? `${text} (${who})` : text));
    readout.replaceChildren([`${t.toFixed(2)} s`, ...said].join("  ·  "));
  };
  const place = (mark, t) => { mark.style.left = `${(t / seconds) * 100}%`; };
  const follow = () => {
    place(playhead, Math.min(audio.currentTime, seconds));
    if (pointer.hidden) say(audio.currentTime);
    if (!audio.paused) requestAnimationFrame(follow);
  };
  const timeAt = (event) => {
    const { left, width } = overlay.getBoundingClientRect();
    return Math.min(Math.max((event.clientX - left) / width, 0), 1) * seconds;
  };
  overlay.addEventListener("pointermove", (event) => { pointer.hidden = false; place(pointer, timeAt(event)); say(timeAt(event)); });
  overlay.addEventListener("pointerleave", () => { pointer.hidden = true; say(audio ? audio.currentTime : 0); });
  if (audio) {
    overlay.addEventListener("click", (event) => { audio.currentTime = timeAt(event); });
    audio.addEventListener("play", () => { quietOthers(audio); follow(); });
    for (const event of ["seeking", "seeked", "timeupdate", "pause"]) audio.addEventListener(event, follow);
  }
  const show = el("button", {
    type: "button", class: "more", "aria-pressed": "false",
    onclick: () => {
      const hidden = !extra[0].hidden;
      for (const item of extra) item.hidden = hidden;
      show.setAttribute("aria-pressed", String(!hidden));
    },
  }, `All streams (${extra.length} more)`);
  const about = el("dl", { class: "facts" }, ...items.flatMap(([name, content]) => [el("dt", {}, name), el("dd", {}, content)]));
  box.replaceChildren(about, el("div", { class: "listen" },
    audio || el("p", { class: "chip warn" }, `No audio: ${clip.no_audio}`), readout), stack, extra.length ? show : "");
  say(0);
}

function quietOthers(playing) {
  for (const audio of document.querySelectorAll("audio")) if (audio !== playing) audio.pause();
}
