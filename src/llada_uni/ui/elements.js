// What everything else is built of: elements, the token grid over a picture, tokens of a text, code to copy.

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
