// Messages of the server, what the page's buttons call, and the page itself.

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
