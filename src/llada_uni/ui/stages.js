// What a tab shows of its run, while it goes on and when it is over.

const status = (t) => {
  const now = t.now;
  if (t.state === "failed") return t.error;
  if (t.state === "stopped") return "Stopped.";
  if (t.state === "done") {
    const record = t.record, steps = record.segments ? 0 : record.steps || record.step;
    return [`${record.seconds.toFixed(1)} s`, `seed ${record.seed}`, steps && (steps === 1 ? "1 step" : `${steps} steps`)].filter(Boolean).join(" · ");
  }
  if (t.state !== "running") return "";
  if (now.phase === "drawing") return now.flow ? `Drawing pixels · ${now.flow[0]} of ${now.flow[1]}` : "Drawing pixels";
  if (now.phase !== "writing") return "Waiting for its turn";
  if (!now.codes) return `Writing words · step ${now.step}`;
  return `Writing the picture · ${now.codes.filter((one) => one !== null).length} of ${now.codes.length} cells`;
};
const share = (t) => {
  const now = t.now;
  if (t.state === "done") return 1;
  if (t.state !== "running" || !now.phase || now.phase === "waiting") return 0;
  if (now.phase === "drawing") return now.flow ? 0.7 + 0.3 * now.flow[0] / now.flow[1] : 0.7;
  return now.codes ? 0.7 * now.codes.filter((one) => one !== null).length / now.codes.length : 0.7 * now.step / now.most;
};
const footing = (tab) => {
  const bar = h("i"), line = h("div", { class: "ll-line" });
  const track = h("div", { class: "ll-track" }, bar), node = h("div", { class: "ll-footing" }, track, line);
  return [node, () => {
    const t = tabs[tab];
    bar.style.width = `${100 * share(t)}%`;
    track.hidden = t.state !== "running";
    line.textContent = status(t);
    line.className = `ll-line ${t.state}`;
    line.setAttribute("role", t.state === "failed" ? "alert" : "status");
  }];
};
const pictureStage = (el, tab) => {
  const view = frame(tab === "edit" ? "The changed picture appears here." : "The picture appears here, cell by cell.");
  const [foot, draw] = footing(tab);
  const actions = h("div", { class: "ll-actions" }), more = h("div");
  el.append(view.node, foot, actions, more);
  let drawn = null;
  return () => {
    const t = tabs[tab], running = t.state === "running", record = t.state === "done" ? t.record : null;
    const source = record ? record.result : running ? t.now.picture : null;
    const mode = t.heat ? "confidence" : record ? "none" : "plain";
    view.show(source, record || (running && t.now.codes ? t.now : null), mode, record ? record.steps : t.now.step);
    draw();
    if (drawn === record) return;
    drawn = record;
    put(actions, record && button("Confidence", (event) => {
      t.heat = !t.heat; event.currentTarget.setAttribute("aria-pressed", t.heat); redraw(tab);
    }, "", { "aria-pressed": t.heat }), ...(record ? pictureActions(record, tab) : []));
    put(more, record && record.thinking && h("blockquote", { class: "ll-plan" }, record.thinking),
      record && codes(record, filesOf(record)));
  };
};
const pictureActions = (record, tab) => [
  button("Inspect", () => inspect(record)),
  button("Edit", () => { load("edit", record.result); open("edit"); }, "", { "aria-label": "Edit this picture" }),
  button("Ask", () => { load("ask", record.result); open("ask"); }, "", { "aria-label": "Ask about this picture" }),
  h("a", { class: "ll-button", download: `${slug(record.title)}-${record.seed}.png`, href: record.result }, "Save"),
];
const slug = (text) => text.toLowerCase().replace(/[^a-z0-9]+/g, "-").replace(/^-|-$/g, "").slice(0, 40) || "picture";
const textStage = (el, tab) => {
  const answer = h("div", { class: "ll-answer" }), [foot, draw] = footing(tab), more = h("div");
  el.append(answer, foot, more);
  let drawn = null;
  return () => {
    const t = tabs[tab], record = t.state === "done" ? t.record : null;
    draw();
    if (t.state === "running") {
      const list = t.now.tokens || [];
      put(answer, list.length ? tokens(list, t.now.step, true) : h("div", { class: "ll-empty" }, "Reading the picture"));
    } else if (!record) put(answer, h("div", { class: "ll-empty" }, "The answer appears here, token by token."));
    if (drawn === record) return;
    drawn = record;
    if (!record) { put(more); return; }
    put(answer, h("p", { class: "ll-say" }, record.text || "(no words)"));
    put(more, h("div", { class: "ll-caption" }, "How sure, token by token", legend("unsure", "sure")),
      tokens(record.tokens, Infinity, true), h("div", { class: "ll-actions" }, button("Inspect", () => inspect(record))),
      codes(record, filesOf(record)));
  };
};
const storyStage = (el, tab) => {
  const list = h("div", { class: "ll-story" }), live = h("div", { class: "ll-story" }), view = frame("");
  const [foot, draw] = footing(tab), more = h("div");
  const hint = h("div", { class: "ll-empty alone" }, "Words and pictures appear here in turn.");
  el.append(hint, list, live, foot, more);
  const piece = (one) => typeof one === "string" ? h("p", {}, one) :
    h("figure", {}, h("img", { src: one.result, alt: "picture of the story" }),
      h("div", { class: "ll-actions" }, ...pictureActions({ ...one, title: one.words || "frame", seed: one.pictureSeed }, tab)));
  let built = [], run = "";
  return () => {
    const t = tabs[tab], record = t.state === "done" ? t.record : null;
    let place = 0;
    const segments = record ? record.segments : (t.now.segments || []).map((one) => one ?? t.pictures[place++]);
    const of = t.run + t.state;  // the result is the truth: it is laid out anew
    if (run !== of) { run = of; built = []; put(list); }
    for (const one of segments.slice(built.length)) {
      if (!one) break;  // a picture that is on its way
      built.push(one);
      list.append(piece(one));
    }
    const running = t.state === "running", now = t.now;
    hint.hidden = t.state !== "idle" || segments.length > 0;
    if (running && now.codes && now.segments.length === built.length) {
      view.show(now.picture, now, "plain", now.step);
      put(live, h("figure", {}, view.node));
    } else put(live, running && now.phase === "writing" && !now.codes && tokens(now.tokens, now.step, false));
    draw();
    put(more, record && h("p", { class: "ll-muted" }, REASONS[record.reason] || record.reason),
      record && codes(record, []));
  };
};
