// Everything made in this visit again, step by step.

const inspect = (record) => { shown = record; open("inspect"); redraw("inspect"); };
const inspectWidget = (el) => {
  let drawn = null;
  return () => {
    if (drawn === shown && el.childNodes.length) return;
    drawn = shown;
    if (!shown) {
      put(el, h("div", { class: "ll-empty alone" }, "Make something first, then look at it here step by step: every token, when it was written and how sure the model was."));
    } else put(el, shown.codes ? inspectPicture(shown) : inspectText(shown));
  };
};
const scrubber = (steps, onstep) => {
  const range = h("input", { type: "range", min: 0, max: steps, value: steps, class: "ll-scrub", "aria-label": "Step" });
  const line = h("span", { class: "ll-steps" });
  let timer = null;
  const go = (step) => { range.value = step; line.textContent = `step ${step} of ${steps}`; onstep(Number(step)); };
  const halt = () => { clearInterval(timer); timer = null; play.textContent = "▶"; };
  const play = button("▶", () => {
    if (timer) { halt(); return; }
    if (Number(range.value) >= steps) go(0);
    play.textContent = "❚❚";
    timer = setInterval(() => {
      if (!range.isConnected || Number(range.value) >= steps) halt();
      else go(Number(range.value) + 1);
    }, Math.max(40, Math.min(400, 4000 / Math.max(1, steps))));
  }, "round", { "aria-label": "Play the steps" });
  range.addEventListener("input", () => { halt(); go(range.value); });
  return { node: h("div", { class: "ll-scrubber" }, play, range, line), go };
};
const facts = (pairs) => h("dl", { class: "ll-facts" }, pairs.filter((one) => one[1] !== undefined && one[1] !== null)
  .map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, String(value)))));
const mean = (list) => list.length ? list.reduce((sum, one) => sum + one, 0) / list.length : null;
const chart = (ats, sures, steps, go) => {
  const counts = new Array(steps + 1).fill(0), sums = new Array(steps + 1).fill(0);
  ats.forEach((at, i) => { if (at > 0) { counts[at]++; sums[at] += sures[i] ?? 0; } });
  const most = Math.max(1, ...counts);
  const svg = s("svg", { viewBox: `0 0 ${steps} 40`, preserveAspectRatio: "none", class: "ll-chart", role: "img", "aria-label": "Tokens written in each step" });
  for (let step = 1; step <= steps; step++) {
    const tall = 38 * counts[step] / most;
    svg.append(s("rect", { x: step - 1, y: 0, width: 1, height: 40, class: "hit", onclick: () => go(step) }),
      s("rect", { x: step - 0.9, y: 40 - tall, width: 0.8, height: tall, fill: colour(counts[step] ? sums[step] / counts[step] : 0), onclick: () => go(step) }));
  }
  return h("div", {}, h("div", { class: "ll-caption" }, "Tokens written in each step, coloured by confidence", legend("unsure", "sure")), svg);
};
const settingsOf = (record) => record.settings && h("details", { class: "ll-details" }, h("summary", {}, "Settings that were used"),
  facts(Object.entries(record.settings)));
const inspectPicture = (record) => {
  const steps = record.steps, [high, wide] = record.grid;
  const sures = record.confidence.filter((one) => one !== null);
  let mode = "confidence", upto = steps;
  const about = h("div", { class: "ll-cell" }, "Point at a cell.");
  const pick = (place) => {
    const at = record.at[place], sure = record.confidence[place];
    about.textContent = `row ${Math.floor(place / wide)}, column ${place % wide}: code ${record.codes[place]}, ` +
      (at === 0 ? "kept from the source" : `written in step ${at}, ${percent(sure)} sure`);
  };
  const view = frame("", pick);
  const draw = () => {
    const early = record.frames ? record.frames.filter((one) => one.step <= upto).at(-1) : null;
    view.show(upto >= steps ? record.result : early && early.src, record, mode, upto);
  };
  const modes = ["plain", "confidence", "order"].map((one) => button({ plain: "Picture", confidence: "Confidence", order: "Order" }[one], () => {
    mode = one; modes.forEach((each) => each.setAttribute("aria-pressed", each.dataset.mode === mode)); draw();
  }, "small", { "aria-pressed": one === mode, "data-mode": one }));
  const scrub = scrubber(steps, (step) => { upto = step; draw(); });
  const file = JSON.stringify({ format: "llada-uni-codes", model: record.model, grid: record.grid, codes: record.codes });
  const left = h("div", {}, h("div", { class: "ll-modes" }, ...modes, legend("0", "1")), view.node, scrub.node, about);
  const right = h("div", { class: "ll-panel" }, h("h3", {}, record.title),
    facts([["seed", record.seed], ["grid", `${high} × ${wide}`], ["steps", steps], ["seconds", record.seconds && record.seconds.toFixed(2)],
      ["mean confidence", sures.length ? percent(mean(sures)) : null], ["kept cells", record.at.filter((one) => one === 0).length || null]]),
    chart(record.at, record.confidence, steps, scrub.go),
    h("div", { class: "ll-actions" }, ...pictureActions(record).slice(1),
      h("a", { class: "ll-button", download: "codes.json", href: `data:application/json,${encodeURIComponent(file)}` }, "Save codes")),
    settingsOf(record), record.python && codes(record, filesOf(record)));
  scrub.go(steps);
  return h("div", { class: "ll-two" }, left, right);
};
const inspectText = (record) => {
  const place = h("div"), steps = record.step, list = record.tokens.filter(Boolean);
  const scrub = scrubber(steps, (step) => put(place, tokens(record.tokens, step, true)));
  const left = h("div", {}, record.source && h("img", { class: "ll-shown", src: record.source, alt: "the picture" }), place, scrub.node);
  const right = h("div", { class: "ll-panel" }, h("h3", {}, record.title), h("p", { class: "ll-say" }, record.text),
    facts([["seed", record.seed], ["tokens", list.length], ["steps", steps], ["seconds", record.seconds.toFixed(2)],
      ["mean confidence", list.length ? percent(mean(list.map((one) => one[1]))) : null]]),
    chart(list.map((one) => one[2]), list.map((one) => one[1]), steps, scrub.go), settingsOf(record), codes(record, filesOf(record)));
  scrub.go(steps);
  return h("div", { class: "ll-two" }, left, right);
};
const historyWidget = (el) => () => {
  el.hidden = kept.length === 0;
  put(el, h("h2", {}, "This visit"), h("div", { class: "ll-strip" }, kept.map((record) =>
    h("button", { type: "button", class: "ll-thumb", title: record.title, "aria-label": `Inspect: ${record.title}`, onclick: () => inspect(record) },
      record.result ? h("img", { src: record.result, alt: "" }) : h("span", { class: "ll-quote" }, record.text || "…"),
      h("em", {}, record.title)))));
};
const keep = (record) => {
  kept.unshift(record);
  kept.length = Math.min(kept.length, MOST_KEPT);
  redraw("history");
};
