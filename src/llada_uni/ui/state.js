// The page's script: holds what a visit makes (pictures, masks, history), draws it, and reads the server's messages.
// Its files are one function, one after another; `page.py` joins them and Gradio calls it when the page is there. Text of
// any origin becomes text nodes, never markup.
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
