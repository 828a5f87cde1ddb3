// The page's script: holds what a visit makes (pictures, masks, history), draws it, and reads the server's messages.
// Gradio calls this function when the page is there. Text of any origin becomes text nodes, never markup.
() => {
  const RAMP = [[68, 1, 84], [59, 82, 139], [33, 145, 140], [94, 201, 98], [253, 231, 37]];
  const REASONS = {
    stop: "The model ended it here.", length: "Ended: the longest text was reached.",
    max_frames: "Ended: that many pictures were asked for.", context: "Ended: no room left in the context.",
    bad_header: "Ended: a picture was announced without a readable size.",
    bad_grid: "Ended: a picture of a size this checkpoint cannot draw.", bad_ids: "Ended: text that cannot be read.",
  };
  const MOST_KEPT = 60, MOST_FRAMES = 48, MIN_COVER = 0.1, LARGEST_FILE = 20 * 2 ** 20;
  const fresh = () => ({ state: "idle", run: "", now: {}, frames: [], pictures: [], heat: false });
  const tabs = { generate: fresh(), ask: fresh(), edit: fresh(), story: fresh() };
  const wells = { ask: { source: null }, edit: { source: null, grid: null, mask: null } };
  const kept = [];
  const unique = () => [...crypto.getRandomValues(new Uint32Array(4))].map((one) => one.toString(36)).join("-");
  let views = [], shown = null, looked = { number: "", source: null };

  // --- elements ------------------------------------------------------------------------------------------------------
  const fill = (node, about, inside) => {
    for (const [name, value] of Object.entries(about)) {
      if (name.startsWith("aria-") && value !== null) { node.setAttribute(name, value); continue; }
      if (value === undefined || value === null || value === false) continue;
      if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
      else if (name === "style") node.style.cssText = value;
      else node.setAttribute(name, value === true ? "" : value);
    }
    node.append(...inside.flat().filter((one) => one !== null && one !== undefined && one !== false));
    return node;
  };
  const h = (tag, about = {}, ...inside) => fill(document.createElement(tag), about, inside);
  const s = (tag, about = {}, ...inside) =>
    fill(document.createElementNS("http://www.w3.org/2000/svg", tag), about, inside);
  const button = (label, onclick, kind = "", about = {}) =>
    h("button", { type: "button", class: `ll-button ${kind}`, onclick, ...about }, label);
  const put = (node, ...inside) => node.replaceChildren(...inside.flat().filter(Boolean));
  const colour = (share) => {
    const place = Math.max(0, Math.min(1, share)) * (RAMP.length - 1);
    const low = Math.min(RAMP.length - 2, Math.floor(place));
    return `rgb(${RAMP[low].map((one, i) => Math.round(one + (RAMP[low + 1][i] - one) * (place - low))).join(",")})`;
  };
  const percent = (value) => `${Math.round(100 * value)} %`;

  // --- the token grid over a picture -----------------------------------------------------------------------------------
  // `mode`: plain, confidence or order; cells written after step `upto` are open.
  // Cells are made once and then only changed, so that a live picture costs little.
  const cell = (one, place, mode, upto) => {
    const at = one.at[place], sure = one.confidence[place], last = Math.max(1, one.steps || one.step || 1);
    if (at === null || at > upto) return ["open", ""];
    if (mode === "confidence" && sure !== null) return ["heat", colour(sure)];
    if (mode === "order" && at > 0) return ["heat", colour(at / last)];
    return [at === upto && upto > 0 ? "fresh" : at === 0 ? "given" : "known", ""];
  };
  const overlay = ([high, wide], onpick) => {
    const svg = s("svg", { viewBox: `0 0 ${wide} ${high}`, preserveAspectRatio: "none", class: "ll-cells" });
    const rects = Array.from({ length: high * wide }, (_, place) => s("rect", {
      x: place % wide + 0.03, y: Math.floor(place / wide) + 0.03, width: 0.94, height: 0.94, rx: 0.1,
      onpointerenter: () => onpick && onpick(place), onclick: () => onpick && onpick(place) }));
    svg.append(...rects);
    const was = rects.map(() => "");
    return {
      svg,
      show(one, mode, upto) {
        svg.setAttribute("class", `ll-cells ${mode}`);
        rects.forEach((rect, place) => {
          const [kind, paint] = cell(one, place, mode, upto), now = kind + paint;
          if (was[place] === now) return;
          was[place] = now;
          rect.setAttribute("class", kind);
          if (paint) rect.setAttribute("fill", paint); else rect.removeAttribute("fill");
        });
      },
    };
  };
  const frame = (hint, onpick) => {
    let cells = null, size = "";
    const img = h("img", { alt: "", draggable: "false" }), over = h("div", { class: "ll-over" });
    const empty = h("div", { class: "ll-empty" }, hint);
    const node = h("div", { class: "ll-frame" }, img, over, empty);
    return {
      node,
      show(source, one, mode, upto) {
        const grid = one && one.grid;
        node.style.aspectRatio = grid ? `${grid[1]} / ${grid[0]}` : "1";
        node.classList.toggle("wide", Boolean(grid && grid[1] > grid[0]));
        if (source && img.getAttribute("src") !== source) img.src = source;
        img.hidden = !source;
        img.alt = one && one.title ? one.title : "picture";
        empty.hidden = Boolean(source || grid);
        over.hidden = !(grid && one.at && mode !== "none");
        if (over.hidden) return;
        if (size !== String(grid)) { size = String(grid); cells = overlay(grid, onpick); put(over, cells.svg); }
        cells.show(one, mode, upto);
      },
    };
  };
  const legend = (low, high) => h("div", { class: "ll-legend" }, h("span", {}, low), h("i"), h("span", {}, high));

  // --- tokens of a text ------------------------------------------------------------------------------------------------
  // Of the empty tokens after the last word one is shown, as the end.
  const tokens = (all, upto, heat) => h("div", { class: "ll-tokens" }, worded(all).map((one, place, list) => {
    if (!one || one[2] > upto) return h("span", { class: "open" }, "··");
    const about = { title: `${percent(one[1])} sure, step ${one[2]}`, class: one[2] === upto ? "fresh" : "" };
    if (heat) about.style = `box-shadow: inset 0 -3px ${colour(one[1])}`;
    return h("span", about, one[0].replaceAll("\n", "⏎") || (place + 1 === list.length ? "end" : "∅"));
  }));
  const worded = (all) => all.slice(0, all.findLastIndex((one) => one && one[0] !== "") + 2);

  // --- code to copy ----------------------------------------------------------------------------------------------------
  const copy = async (text, where) => {
    let done = false;
    try { await navigator.clipboard.writeText(text); done = true; } catch { done = false; }
    if (!done) {
      const area = h("textarea", { style: "position:fixed;opacity:0" });
      area.value = text; document.body.append(area); area.select();
      done = document.execCommand("copy"); area.remove();
    }
    const before = where.textContent;
    where.textContent = done ? "Copied" : "Select and copy";
    setTimeout(() => { where.textContent = before; }, 1500);
  };
  const codes = (record, files) => {
    const panel = (kind, label) => h("div", { class: "ll-code", "data-kind": kind },
      h("div", { class: "ll-codehead" }, h("b", {}, label),
        button("Copy", (event) => copy(record[kind], event.currentTarget), "small", { "aria-label": `Copy as ${label}` })),
      h("pre", {}, h("code", {}, record[kind])));
    const links = files.map(([name, uri]) => h("a", { download: name, href: uri, class: "ll-link" }, name));
    return h("details", { class: "ll-details ll-snippets" }, h("summary", {}, "Copy as Python or curl"),
      links.length ? h("p", { class: "ll-muted" }, "Put beside it: ", ...links.flatMap((one) => [one, " "])) : null,
      panel("python", "Python"), panel("curl", "curl"));
  };
  const filesOf = (record) => [["picture.png", record.source], ["mask.png", record.mask]].filter((one) => one[1]);

  // --- stages ----------------------------------------------------------------------------------------------------------
  const status = (t) => {
    const now = t.now;
    if (t.state === "failed") return t.error;
    if (t.state === "stopped") return "Stopped.";
    if (t.state === "done") {
      const record = t.record, steps = record.steps || record.step;
      return [`${record.seconds.toFixed(1)} s`, `seed ${record.seed}`, steps && `${steps} steps`].filter(Boolean).join(" · ");
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

  // --- the picture that is shown to the model, and the brush -------------------------------------------------------------
  const read = (file, tab) => {
    const well = wells[tab];
    if (!file || !file.type.startsWith("image/")) { well.error = "That is not a picture."; redraw(tab); return; }
    if (file.size > LARGEST_FILE) { well.error = "That picture has more than 20 MiB."; redraw(tab); return; }
    const reader = new FileReader();
    reader.onload = () => load(tab, reader.result);
    reader.readAsDataURL(file);
  };
  const load = (tab, uri) => {
    const well = wells[tab];
    well.error = null;
    if (tab === "ask") { well.source = uri; redraw(tab); return; }
    well.waiting = true;
    looked = { number: unique(), source: uri };
    redraw(tab);
    document.querySelector("#ll-look").click();
  };
  const wellWidget = (el, tab) => {
    const well = wells[tab], input = h("input", { type: "file", accept: "image/*", class: "ll-file",
      "aria-label": "Choose a picture", onchange: () => { read(input.files[0], tab); input.value = ""; } });
    const drop = h("label", { class: "ll-drop" }, h("b", {}, "Choose a picture"),
      h("span", {}, "or drop it here, or paste it"), input);
    const body = h("div", { class: "ll-wellbody" }), error = h("div", { class: "ll-line failed", role: "alert" });
    el.append(drop, body, error);
    for (const kind of ["dragover", "drop"]) {
      el.addEventListener(kind, (event) => {
        event.preventDefault();
        if (kind === "drop") read(event.dataTransfer.files[0], tab);
      });
    }
    let drawn = null, brush = null;
    return () => {
      drop.hidden = Boolean(well.source);
      drop.classList.toggle("waiting", Boolean(well.waiting));
      error.textContent = well.error || "";
      if (drawn === well.source) { if (brush) brush(); return; }
      drawn = well.source; brush = null;
      const other = button("Other picture", () => { Object.assign(well, { source: null, grid: null, mask: null }); redraw(tab); }, "small");
      if (!well.source) put(body);
      else if (tab === "ask") put(body, h("img", { src: well.source, alt: "the picture you ask about", class: "ll-shown" }), other);
      else { const made = brushes(well, other); put(body, made.node); brush = made.draw; brush(); }
    };
  };
  const brushes = (well, other) => {
    const picture = h("img", { src: well.source, alt: "the picture to edit", draggable: "false" });
    const paint = h("canvas", { class: "ll-paint", "aria-label": "Brush over what shall change" });
    const marks = document.createElement("canvas"), lines = overlay(well.grid);
    const hand = marks.getContext("2d", { willReadFrequently: true });
    const [high, wide] = well.grid, said = h("span", { class: "ll-muted", id: "ll-touched" });
    const size = h("input", { type: "range", min: 2, max: 40, value: 14, "aria-label": "Size of the brush" });
    let erase = false, last = null, touched = [];
    picture.onload = () => {
      for (const one of [paint, marks]) { one.width = picture.naturalWidth; one.height = picture.naturalHeight; }
      draw();
    };
    const stroke = (event) => {
      const box = paint.getBoundingClientRect(), scale = paint.width / box.width;
      const point = [(event.clientX - box.left) * scale, (event.clientY - box.top) * scale];
      const pen = hand;
      pen.globalCompositeOperation = erase ? "destination-out" : "source-over";
      pen.lineWidth = paint.width * size.value / 100; pen.lineCap = "round"; pen.strokeStyle = "#fff";
      pen.beginPath(); pen.moveTo(...(last || point)); pen.lineTo(point[0] + 0.01, point[1]); pen.stroke();
      last = point;
      draw();
    };
    paint.addEventListener("pointerdown", (event) => { paint.setPointerCapture(event.pointerId); last = null; stroke(event); });
    paint.addEventListener("pointermove", (event) => { if (event.buttons) stroke(event); });
    const measure = () => {
      const data = hand.getImageData(0, 0, marks.width, marks.height).data;
      const counts = new Array(high * wide).fill(0), cell = marks.width / wide;
      for (let i = 3, place = 0; i < data.length; i += 4, place++) {
        if (data[i] < 128) continue;
        const x = place % marks.width, y = (place - x) / marks.width;
        counts[Math.floor(y / cell) * wide + Math.floor(x / cell)]++;
      }
      touched = counts.map((count) => count > MIN_COVER * cell * cell);
    };
    const draw = () => {
      if (!marks.width || !paint.width || !picture.naturalWidth) return;
      measure();
      const pen = paint.getContext("2d");
      pen.clearRect(0, 0, paint.width, paint.height);
      pen.globalCompositeOperation = "source-over";
      pen.drawImage(marks, 0, 0);
      pen.globalCompositeOperation = "source-in";
      pen.fillStyle = "rgba(99, 102, 241, 0.6)"; pen.fillRect(0, 0, paint.width, paint.height);
      const at = touched.map((one) => (one ? 1 : 0));
      lines.show({ at, confidence: at, step: 1 }, "plain", 1);
      const count = touched.filter(Boolean).length;
      said.textContent = count ? `${count} of ${high * wide} cells will be written anew, the others stay.` :
        "Brush over what shall change, or leave it bare: then the whole picture follows the instruction.";
      well.mask = count ? marked() : null;
    };
    const marked = () => {
      const flat = document.createElement("canvas");
      flat.width = marks.width; flat.height = marks.height;
      const pen = flat.getContext("2d");
      pen.fillStyle = "#000"; pen.fillRect(0, 0, flat.width, flat.height);
      pen.globalCompositeOperation = "destination-out"; pen.drawImage(marks, 0, 0);
      return flat.toDataURL("image/png");
    };
    const tools = [["Brush", false], ["Eraser", true]].map(([label, value]) =>
      button(label, () => { erase = value; tools.forEach((one, i) => one.setAttribute("aria-pressed", Boolean(i) === value)); },
        "small", { "aria-pressed": !value }));
    const clear = button("Clear", () => { hand.clearRect(0, 0, marks.width, marks.height); draw(); }, "small");
    const frame = h("div", { class: "ll-frame brush", style: `aspect-ratio:${wide}/${high}` }, picture, h("div", { class: "ll-over" }, lines.svg), paint);
    const node = h("div", {}, frame, h("div", { class: "ll-tools" }, ...tools, size, clear, other), said);
    return { node, draw };
  };

  // --- inspect and history -----------------------------------------------------------------------------------------------
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

  // --- messages ------------------------------------------------------------------------------------------------------------
  const receive = (m) => {
    if (m.look !== undefined) {
      if (m.look !== looked.number) return;
      Object.assign(wells.edit, { waiting: false, error: m.error || null });
      if (!m.error) Object.assign(wells.edit, { source: m.picture, grid: m.grid, mask: null });
      redraw("edit");
      return;
    }
    const t = tabs[m.tab];
    if (!t || t.run !== m.run || t.state !== "running") return;
    if (m.frames) { t.pictures = m.frames; redraw(m.tab); return; }
    if (m.record) finish(t, m);
    else if (m.state === "failed") { t.state = "failed"; t.error = m.error; }
    else if (m.state === "running") {
      t.now = m;
      const last = t.frames.at(-1);
      if (m.picture && !(last && last.src === m.picture)) {
        if (last && last.step === m.pictureStep) t.frames.pop();
        if (t.frames.length < MOST_FRAMES) t.frames.push({ step: m.pictureStep, src: m.picture });
      }
    }
    busy(m.tab);
    redraw(m.tab);
  };
  const finish = (t, m) => {
    t.state = "done";
    t.record = { ...m.record, tab: m.tab, frames: t.frames, source: t.source, mask: t.record_mask };
    if (m.tab !== "story") { keep(t.record); if (!shown) { shown = t.record; redraw("inspect"); } return; }
    for (const one of m.record.segments) {
      if (typeof one !== "string") keep({ ...one, title: one.words || m.record.title, seed: one.pictureSeed, tab: "story" });
    }
  };
  const busy = (tab) => document.body.classList.toggle(`ll-busy-${tab}`, tabs[tab].state === "running");

  window.llada = {
    gather(tab, values) {
      const well = wells[tab] || {}, run = unique();
      tabs[tab] = { ...fresh(), state: "running", run, heat: tabs[tab].heat, source: well.source, record_mask: well.mask };
      busy(tab);
      redraw(tab);
      const stage = document.querySelector(`.ll-stage[data-tab=${tab}]`);
      if (stage && stage.getBoundingClientRect().top > 0.6 * innerHeight) stage.scrollIntoView({ behavior: "smooth", block: "start" });
      return [...values.slice(0, -3), well.source || "", well.mask || "", run];
    },
    stopped(tab) {
      if (tabs[tab].state === "running") tabs[tab].state = "stopped";
      busy(tab);
      redraw(tab);
      return [tabs[tab].run];
    },
    looking: () => [looked.source, looked.number],
    tabs, kept, wells, load,
  };

  // --- the page --------------------------------------------------------------------------------------------------------------
  const open = (tab) => {
    const name = tab[0].toUpperCase() + tab.slice(1);
    const found = [...document.querySelectorAll("#ll-tabs [role=tab]")].find((one) => one.textContent.trim() === name);
    if (found) found.click();
    window.scrollTo({ top: 0, behavior: "smooth" });
  };
  const say = (tab, words) => {
    const area = document.querySelector(`#ll-words-${tab} textarea`);
    area.value = words;
    area.dispatchEvent(new Event("input", { bubbles: true }));
    area.focus();
  };
  const mark = () => s("svg", { viewBox: "0 0 4 4", class: "ll-mark", "aria-hidden": "true" },
    [0.2, 0.55, 0.8, 0.35, 0.65, 1, 0.45, 0.9, 0.9, 0.3, 0.75, 0.6, 0.4, 0.85, 0.5, 0.95].map((share, i) =>
      s("rect", { x: i % 4 + 0.08, y: Math.floor(i / 4) + 0.08, width: 0.84, height: 0.84, rx: 0.18, opacity: share })));
  const header = (el) => {
    const dark = () => document.body.classList.contains("dark");
    const stored = () => { try { return localStorage.getItem("ll-theme"); } catch { return null; } };
    if (stored()) document.body.classList.toggle("dark", stored() === "dark");
    const theme = button("◐", () => {
      document.body.classList.toggle("dark");
      try { localStorage.setItem("ll-theme", dark() ? "dark" : "light"); } catch { /* kept for this visit only */ }
    }, "round", { "aria-label": "Light or dark" });
    el.append(mark(), h("div", {}, h("h1", {}, "llada-uni"), h("p", {}, "Words and pictures, written by one diffusion model")),
      h("span", { class: "ll-model" }, el.dataset.name), theme);
    return () => {};
  };
  const chips = (el) => {
    el.append(...el.dataset.words.split("|").map((words) => button(words, () => say(el.dataset.tab, words), "chip")));
    return () => {};
  };
  const stage = (el, tab) => ({ ask: textStage, story: storyStage }[tab] || pictureStage)(el, tab);
  const widgets = { header, chips, stage, well: wellWidget, inspect: inspectWidget, history: historyWidget };
  const redraw = (tab) => {
    views = views.filter((one) => one.el.isConnected);
    views.filter((one) => one.tab === tab).forEach((one) => one.draw());
  };
  const hydrate = () => {
    for (const el of document.querySelectorAll("[data-ll]:not([data-on])")) {
      el.dataset.on = "";
      const tab = el.dataset.tab || el.dataset.ll;
      const draw = widgets[el.dataset.ll](el, tab);
      views.push({ el, tab, draw });
      draw();
    }
  };
  const seen = new WeakMap();
  const collect = () => {
    for (const el of document.querySelectorAll("[data-llada]")) {
      if (seen.get(el) === el.dataset.llada) continue;
      seen.set(el, el.dataset.llada);
      receive(JSON.parse(el.dataset.llada));
    }
  };
  new MutationObserver(() => { hydrate(); collect(); })
    .observe(document.body, { childList: true, subtree: true, attributes: true, attributeFilter: ["data-llada"] });
  document.addEventListener("paste", (event) => {
    const file = [...(event.clipboardData?.files || [])][0];
    const tab = ["ask", "edit"].find((one) => document.querySelector(`#ll-tab-${one}`)?.offsetParent);
    if (file && tab && !wells[tab].source) read(file, tab);
  });
  hydrate();
}
