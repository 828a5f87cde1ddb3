// The picture that is shown to the model, and the brush that marks what shall change.

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
