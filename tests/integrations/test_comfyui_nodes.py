"""The ComfyUI nodes against ComfyUI's rules, and the pictures they make against the model's own methods."""

from __future__ import annotations

import importlib.util
import inspect
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from comfyui_stand_in import Cancelled, Executor, Window, arguments_of, graph_of_window, load_pack
from PIL import Image

from llada_uni import ConfigError, ImageError, LladaUni, LladaUniError
from llada_uni.testing.checkpoint import write_tiny_checkpoint

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "integrations" / "comfyui"
PACK = load_pack(FOLDER)
NODES: dict[str, Any] = PACK.NODE_CLASS_MAPPINGS
WORKFLOWS = sorted((FOLDER / "example_workflows").glob("*.json"))
WORDS = "two red apples left of a house"
OWN_TYPES = {"LLADA_UNI_MODEL", "LLADA_UNI_CODES"}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_tiny_checkpoint(tmp_path_factory.mktemp("tiny") / "model"))


@pytest.fixture(scope="module")
def model(checkpoint: str) -> LladaUni:
    return LladaUni.from_pretrained(checkpoint, device="cpu")


@pytest.fixture(scope="module")
def photo() -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (32, 48, 3), dtype=np.uint8))


def tensor(*images: Image.Image) -> torch.Tensor:
    return torch.stack([torch.from_numpy(np.array(image)) for image in images]).float() / 255


def pixels(image: torch.Tensor) -> list[bytes]:
    """As ComfyUI saves them."""
    return [np.clip(255.0 * one.numpy(), 0, 255).astype(np.uint8).tobytes() for one in image]


def call(name: str, *arguments: Any, **options: Any) -> Any:
    """Run a node by itself."""
    return getattr(NODES[name](), NODES[name].FUNCTION)(*arguments, **options)


def graph(checkpoint: str, **nodes: tuple[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    load = {"class_type": "LladaUniLoadModel", "inputs": {"model": checkpoint, "device": "cpu", "dtype": "auto"}}
    return {"load": load} | {name: {"class_type": kind, "inputs": inputs} for name, (kind, inputs) in nodes.items()}


# --- the interface ----------------------------------------------------------------------------------------------------


def test_every_node_has_a_name_for_the_menu() -> None:
    assert set(NODES) == set(PACK.NODE_DISPLAY_NAME_MAPPINGS)
    assert len(set(PACK.NODE_DISPLAY_NAME_MAPPINGS.values())) == len(NODES)


@pytest.mark.parametrize("name", sorted(NODES))
def test_a_node_keeps_the_rules(name: str) -> None:
    node = NODES[name]
    declared = node.INPUT_TYPES()
    assert set(declared) <= {"required", "optional", "hidden"}
    needed, known = arguments_of(node)
    required, optional = set(declared["required"]), set(declared.get("optional", {}))
    assert not required & optional
    assert needed <= required, "an optional input may be left out"
    assert required | optional == known
    assert isinstance(node.RETURN_TYPES, tuple)
    for names in ("RETURN_NAMES", "OUTPUT_IS_LIST"):
        assert len(getattr(node, names, node.RETURN_TYPES)) == len(node.RETURN_TYPES)
    assert set(node.RETURN_TYPES) <= OWN_TYPES | {"IMAGE", "MASK", "STRING"}
    assert isinstance(node.CATEGORY, str)
    assert node.DESCRIPTION
    json.dumps(declared)


@pytest.mark.parametrize("name", sorted(NODES))
def test_defaults_are_in_range_and_the_same_in_both_places(name: str) -> None:
    node = NODES[name]
    declared = node.INPUT_TYPES()
    signature = inspect.signature(getattr(node, node.FUNCTION)).parameters
    kinds = {"INT": int, "FLOAT": float, "STRING": str, "BOOLEAN": bool}
    for group, fields in declared.items():
        for field, what in fields.items():
            if not isinstance(what[0], list) and what[0] not in kinds:
                assert what[0] in OWN_TYPES | {"IMAGE", "MASK"}
                continue
            default, extra = what[1]["default"], what[1]
            assert (field in ("seed", "noise_seed")) == extra.get("control_after_generate", False), (
                "the window adds a control to every field of these names"
            )
            if isinstance(what[0], list):
                assert default in what[0]
            else:
                assert type(default) is kinds[what[0]]
                assert extra.get("min", default) <= default <= extra.get("max", default)
            if group == "optional":
                assert signature[field].default == default, field


def test_two_calls_give_separate_descriptions() -> None:
    first = NODES["LladaUniGenerate"].INPUT_TYPES()
    first["required"]["seed"][1]["default"] = 5
    assert NODES["LladaUniGenerate"].INPUT_TYPES()["required"]["seed"][1]["default"] == 0


def test_loading_the_pack_imports_neither_torch_nor_the_package() -> None:
    code = (
        "import sys, importlib; sys.path.insert(0, sys.argv[1]); pack = importlib.import_module('comfyui');"
        "[node.INPUT_TYPES() for node in pack.NODE_CLASS_MAPPINGS.values()];"
        "print([name for name in ('torch', 'numpy', 'PIL', 'llada_uni') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code, str(FOLDER.parent)], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_missing_package_is_one_clear_line(tmp_path: Path) -> None:
    code = (
        "import sys, importlib; sys.path.insert(0, sys.argv[1]); sys.modules['llada_uni'] = None;"
        "node = importlib.import_module('comfyui').NODE_CLASS_MAPPINGS['LladaUniLoadModel']()\n"
        "try: node.load('nano', 'auto', 'auto')\n"
        "except RuntimeError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(FOLDER.parent)], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("the package llada-uni is not installed in the Python that runs ComfyUI")
    assert done.stdout.count("\n") == 1


# --- the same pictures ------------------------------------------------------------------------------------------------


def test_generate_and_decode_are_generate_image(model: LladaUni) -> None:
    options = {"width": 48, "height": 32, "guidance_scale": 1.5, "steps_per_block": 3, "temperature": 1.0}
    (codes,) = call("LladaUniGenerate", model, WORDS, 7, batch_size=2, **options)
    (image,) = call("LladaUniDecode", model, codes, num_steps=2, decoder="normal")
    expected = model.generate_image([WORDS] * 2, seed=7, num_steps=2, decoder="normal", **options)
    assert [one.codes for one in codes.items] == [one.codes for one in expected]
    assert (tuple(image.shape), image.dtype) == ((2, 32, 48, 3), torch.float32)
    assert pixels(image) == [one.image.tobytes() for one in expected]


def test_presets_are_those_of_the_checkpoint(model: LladaUni) -> None:
    (codes,) = call("LladaUniGenerate", model, WORDS, 3)
    (image,) = call("LladaUniDecode", model, codes)
    assert pixels(image) == [model.generate_image(WORDS, seed=3).image.tobytes()]
    (other,) = call("LladaUniDecode", model, codes, decoder_seed=9)
    assert pixels(other) == [model.decode_image(codes.items[0], seed=9).image.tobytes()]


def test_generating_codes_loads_no_decoder(checkpoint: str) -> None:
    model = LladaUni.from_pretrained(checkpoint, device="cpu")
    call("LladaUniGenerate", model, WORDS, 3)
    assert set(model.networks.modules()) == {"backbone"}


def test_edit_with_references(model: LladaUni, photo: Image.Image) -> None:
    turned = photo.transpose(Image.Transpose.ROTATE_180)
    (codes,) = call(
        "LladaUniEdit", model, "make it red", 5, image=tensor(photo, turned), image_2=tensor(turned), guidance_text=2.0
    )
    expected = model.edit_image([[photo, turned], [turned, turned]], ["make it red"] * 2, seed=5, guidance_text=2.0)
    assert [one.codes for one in codes.items] == [one.codes for one in expected]
    again = call("LladaUniEdit", model, "make it red", 5, codes=codes, width=32, height=32)[0]
    wide = model.edit_image([one.encoded for one in expected], ["make it red"] * 2, seed=5, width=32, height=32)
    assert [one.codes for one in again.items] == [one.codes for one in wide]


@pytest.mark.parametrize("reference", [True, False])
def test_inpaint_with_a_mask(model: LladaUni, photo: Image.Image, reference: bool) -> None:
    mask = torch.zeros(1, 32, 48)
    mask[:, :16, 24:] = 1
    image, codes = call(
        "LladaUniInpaint", model, mask, WORDS, 4, image=tensor(photo), reference=reference, guidance=2.0
    )
    weight = {"guidance_text" if reference else "guidance_scale": 2.0}
    expected = model.inpaint_image(photo, WORDS, seed=4, box=(24, 0, 48, 16), reference=reference, **weight)
    assert codes.items[0].codes == expected.codes
    assert pixels(image) == [expected.image.tobytes()]
    kept = np.frombuffer(pixels(image)[0], np.uint8).reshape(32, 48, 3)[:, :24]
    assert np.array_equal(kept, np.asarray(photo)[:, :24])


def test_inpaint_of_a_batch_and_of_codes(model: LladaUni, photo: Image.Image) -> None:
    turned = photo.transpose(Image.Transpose.ROTATE_180)
    masks = torch.zeros(2, 32, 48)
    masks[0, :16], masks[1, 16:] = 1, 1
    _, codes = call("LladaUniInpaint", model, masks, WORDS, 4, image=tensor(photo, turned))
    boxes = [(0, 0, 48, 16), (0, 16, 48, 32)]
    for row, (source, box) in enumerate(zip((photo, turned), boxes, strict=True)):
        assert codes.items[row].codes == model.inpaint_image(source, WORDS, seed=4 + row, box=box).codes
    _, again = call("LladaUniInpaint", model, masks[0], WORDS, 1, codes=codes, strength=0.5, blend=False)
    expected = model.inpaint_image(codes.items[1], WORDS, seed=2, box=boxes[0], strength=0.5, blend=False)
    assert again.items[1].codes == expected.codes


def test_answers(model: LladaUni, photo: Image.Image) -> None:
    turned = photo.transpose(Image.Transpose.ROTATE_180)
    (answers,) = call("LladaUniUnderstand", model, "what?", 2, image=tensor(photo, turned), temperature=1.0)
    assert answers == [r.text for r in model.understand_image([photo, turned], ["what?"] * 2, seed=2, temperature=1.0)]
    (joint,) = call("LladaUniUnderstand", model, "what?", 2, image=tensor(photo, turned), together=True)
    assert joint == [model.understand_image([photo, turned], "what?", seed=2).text]


def test_encode_and_preview(model: LladaUni, photo: Image.Image) -> None:
    (codes,) = call("LladaUniEncode", model, tensor(photo, photo))
    assert codes.items[0] == model.encode_image(photo)
    (sized,) = call("LladaUniEncode", model, tensor(photo), width=32, height=32)
    assert sized.items[0] == model.encode_image(photo, height=32, width=32)
    (sketch,) = call("LladaUniPreviewCodes", model, codes, "picture")
    assert pixels(sketch)[0] == model.preview_image(codes.items[0].codes, codes.items[0].grid).tobytes()
    (colours,) = call("LladaUniPreviewCodes", model, codes, "codes")
    cells = (colours[0, ::8, ::8] * 255).round().to(torch.int).reshape(-1, 3).tolist()
    assert tuple(colours.shape) == (2, 32, 48, 3)
    assert len({tuple(one) for one in cells}) == len(set(codes.items[0].codes))


def test_kinds_of_tensors(model: LladaUni, photo: Image.Image) -> None:
    (plain,) = call("LladaUniEncode", model, tensor(photo))
    beyond = tensor(photo).clone()
    beyond[beyond == 1] = 1.3
    clear = torch.cat([tensor(photo), torch.ones(1, 32, 48, 1)], dim=3)
    for other in (beyond, tensor(photo).double(), tensor(photo)[0], clear):
        assert call("LladaUniEncode", model, other)[0] == plain
    with pytest.raises(ImageError, match=r"got \[32, 48, 2\]"):
        call("LladaUniEncode", model, torch.zeros(1, 32, 48, 2))


# --- graphs -----------------------------------------------------------------------------------------------------------


def test_a_graph_runs_and_is_not_run_twice(checkpoint: str, model: LladaUni) -> None:
    executor = Executor(NODES)
    nodes: Any = graph(
        checkpoint,
        make=("LladaUniGenerate", {"model": ["load", 0], "prompt": WORDS, "seed": 7, "batch_size": 2}),
        draw=("LladaUniDecode", {"model": ["load", 0], "codes": ["make", 0]}),
        ask=("LladaUniUnderstand", {"model": ["load", 0], "question": "what?", "seed": 0, "image": ["draw", 0]}),
        show=("PreviewImage", {"images": ["draw", 0]}),
        text=("PreviewAny", {"source": ["ask", 0]}),
    )
    done = executor.run(nodes)
    expected = model.generate_image([WORDS] * 2, seed=7)
    assert pixels(done["draw"][0][0]) == [one.image.tobytes() for one in expected]
    answers = model.understand_image([one.image for one in expected], ["what?"] * 2, seed=0)
    assert executor.shown["text"]["text"] == [one.text for one in answers]
    assert set(executor.ran) == set(nodes)
    executor.run(nodes)
    assert executor.ran == []
    nodes["ask"]["inputs"]["question"] = "how many?"
    executor.run(nodes)
    assert set(executor.ran) == {"ask", "text"}


def test_validation_refuses_what_comfyui_would(checkpoint: str) -> None:
    executor = Executor(NODES)
    wrong: Any = graph(
        checkpoint,
        make=("LladaUniGenerate", {"model": ["load", 0], "prompt": WORDS, "seed": -1, "preview": "film"}),
        draw=("LladaUniDecode", {"model": ["make", 0], "num_steps": 5000, "codes": ["make", 0]}),
        ask=("LladaUniUnderstand", {"model": ["load", 0], "seed": 0}),
    )
    assert sorted(executor.validate(wrong)) == [
        "ask: question is missing",
        "draw: model: LLADA_UNI_CODES is not LLADA_UNI_MODEL",
        "draw: num_steps: 5000 > 1000",
        "make: preview: 'film' not in ['confidence', 'picture', 'off']",
        "make: seed: -1 < 0",
        "the graph has no outputs",
    ]


def test_the_model_is_kept_until_its_files_change(tmp_path: Path) -> None:
    directory = write_tiny_checkpoint(tmp_path / "model")
    arguments = {"model": str(directory), "device": "cpu", "dtype": "float32"}
    loader = NODES["LladaUniLoadModel"]
    (first,), before = call("LladaUniLoadModel", **arguments), loader.IS_CHANGED(**arguments)
    assert call("LladaUniLoadModel", **arguments)[0] is first
    assert loader.IS_CHANGED(**arguments) == before
    os.utime(directory / "config.json", ns=(1, 1))
    assert loader.IS_CHANGED(**arguments) != before
    assert call("LladaUniLoadModel", **arguments)[0] is not first
    assert (
        loader.IS_CHANGED(**{**arguments, "model": "nano"}) == loader.IS_CHANGED(model=None, device="", dtype="") == ""
    )


def test_names_below_the_models_folder_and_the_device_of_comfyui(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_tiny_checkpoint(tmp_path / "llada_uni" / "mine")
    monkeypatch.setitem(sys.modules, "folder_paths", type("folder_paths", (), {"models_dir": str(tmp_path)}))
    for name, module in Window(device="cpu").modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    (model,) = call("LladaUniLoadModel", "mine", "auto", "float64")
    assert model.networks.directory == tmp_path / "llada_uni" / "mine"
    assert (model.networks.device.type, model.networks.dtype) == ("cpu", torch.float64)


# --- progress ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def window(monkeypatch: pytest.MonkeyPatch) -> Window:
    shown = Window()
    for name, module in shown.modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    return shown


@pytest.mark.parametrize("preview", ["confidence", "picture", "off"])
def test_the_bar_counts_codes_and_shows_the_first_picture(model: LladaUni, window: Window, preview: str) -> None:
    (codes,) = call("LladaUniGenerate", model, WORDS, 7, batch_size=2, preview=preview)
    counted = [value for value, _, _ in window.updates]
    assert counted == sorted(counted)
    assert window.updates[-1][:2] == (32, 32)
    shown = [one for _, _, one in window.updates if one is not None]
    assert bool(shown) == (preview != "off")
    for kind, picture, most in shown:
        assert (kind, picture.size, picture.mode, most) == ("JPEG", (32, 32), "RGB", 512)
    window.updates.clear()
    (plain,) = call("LladaUniGenerate", model, WORDS, 7, batch_size=2, preview="off")
    assert plain == codes


@pytest.mark.parametrize("preview", ["picture", "off"])
def test_the_bar_counts_steps_of_the_decoder(model: LladaUni, window: Window, preview: str) -> None:
    (codes,) = call("LladaUniGenerate", model, WORDS, 7, batch_size=2)
    window.updates.clear()
    (image,) = call("LladaUniDecode", model, codes, num_steps=3, preview=preview)
    assert [update[:2] for update in window.updates] == [(step, 6) for step in range(1, 7)]
    shown = [one[1].tobytes() for _, _, one in window.updates if one is not None]
    assert len(shown) == (3 if preview == "picture" else 0)
    assert shown[-1:] in ([], pixels(image)[:1]), "the last estimate of the turbo decoder is its picture"


def test_an_edit_of_a_region_counts_only_what_is_open(model: LladaUni, window: Window, photo: Image.Image) -> None:
    mask = torch.zeros(1, 32, 48)
    mask[:, :16, :16] = 1
    call("LladaUniInpaint", model, mask, WORDS, 4, image=tensor(photo), num_steps=2, preview="confidence")
    assert [update[:2] for update in window.updates if update[2] is not None][-1] == (4, 4)
    assert [update[:2] for update in window.updates][-2:] == [(1, 2), (2, 2)]


def test_an_answer_moves_the_bar(model: LladaUni, window: Window, photo: Image.Image) -> None:
    call("LladaUniUnderstand", model, "what?", 2, image=tensor(photo))
    assert window.updates
    assert all(0 < value <= total for value, total, _ in window.updates)


def test_cancelling_stops_between_two_steps(model: LladaUni, monkeypatch: pytest.MonkeyPatch) -> None:
    window = Window(cancel_after=3)
    for name, module in window.modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    with pytest.raises(Cancelled):
        call("LladaUniGenerate", model, WORDS, 7)


# --- bad inputs -------------------------------------------------------------------------------------------------------

IMAGE, SMALL = torch.zeros(2, 32, 48, 3), torch.zeros(1, 64, 64)
BAD: list[tuple[str, dict[str, Any], str]] = [
    ("LladaUniGenerate", {"prompt": "  "}, "prompt"),
    ("LladaUniGenerate", {"prompt": "a", "width": 40, "height": 40}, "allowed"),
    ("LladaUniGenerate", {"prompt": "a", "seed": 2**64}, "seed"),
    ("LladaUniEdit", {"instruction": "a"}, "exactly one of image and codes, got neither"),
    ("LladaUniEdit", {"instruction": "a", "image": IMAGE, "image_3": torch.zeros(3, 8, 8, 3)}, "image_3: expected"),
    ("LladaUniInpaint", {"prompt": "a", "image": IMAGE, "mask": torch.zeros(2, 32, 48)}, "marks nothing"),
    ("LladaUniInpaint", {"prompt": "a", "image": IMAGE, "mask": SMALL}, "the mask marks nothing; paint"),
    ("LladaUniInpaint", {"prompt": "a", "image": IMAGE, "mask": SMALL + 1}, "expected a mask of the picture's shape"),
    ("LladaUniInpaint", {"prompt": "a", "image": IMAGE, "mask": torch.ones(3, 32, 48)}, "mask: expected a batch"),
    ("LladaUniUnderstand", {"question": "", "image": IMAGE}, "question"),
]


@pytest.mark.parametrize(("name", "arguments", "message"), BAD, ids=lambda value: str(value)[:40])
def test_bad_inputs_give_one_line(model: LladaUni, name: str, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(LladaUniError, match=message) as caught:
        call(name, model, **{"seed": 0, **arguments})
    assert "\n" not in str(caught.value)


def test_a_picture_and_codes_at_once(model: LladaUni) -> None:
    (codes,) = call("LladaUniEncode", model, IMAGE)
    with pytest.raises(ConfigError, match="got both"):
        call("LladaUniEdit", model, "a", 0, image=IMAGE, codes=codes)


# --- example workflows ------------------------------------------------------------------------------------------------


def test_the_examples_are_up_to_date() -> None:
    path = FOLDER.parent / "make_comfyui_workflows.py"
    spec = importlib.util.spec_from_file_location("make_comfyui_workflows", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    built = module.build()
    assert set(built) == {*WORKFLOWS, *(FOLDER / "example_workflows" / "api").glob("*.json")}
    for path, text in built.items():
        assert path.read_text(encoding="utf-8") == text, f"run: python integrations/{module.__name__}.py"


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_both_formats_are_the_same_graph(path: Path) -> None:
    saved = json.loads(path.read_text(encoding="utf-8"))
    sent = json.loads((path.parent / "api" / path.name).read_text(encoding="utf-8"))
    executor = Executor(NODES)
    assert graph_of_window(saved, executor.mappings) == sent
    assert not executor.validate(sent)
    assert saved["last_node_id"] == max(node["id"] for node in saved["nodes"])
    assert saved["last_link_id"] == max(link[0] for link in saved["links"])
    for number, start, slot, end, end_slot, kind in saved["links"]:
        nodes = {node["id"]: node for node in saved["nodes"]}
        assert number in nodes[start]["outputs"][slot]["links"]
        assert nodes[end]["inputs"][end_slot]["link"] == number
        assert nodes[start]["outputs"][slot]["type"] == kind


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_an_example_runs(path: Path, checkpoint: str) -> None:
    """On the tiny checkpoint, whose pictures are a quarter as high and wide."""
    sent = json.loads((path.parent / "api" / path.name).read_text(encoding="utf-8"))
    for node in sent.values():
        inputs = node["inputs"]
        for name in ("width", "height", "x", "y"):
            inputs |= {name: inputs[name] // 4} if name in inputs else {}
        inputs |= {"model": checkpoint, "device": "cpu"} if node["class_type"] == "LladaUniLoadModel" else {}
    executor = Executor(NODES)
    executor.run(sent)
    assert all(shown.get("images") or shown.get("text") for shown in executor.shown.values())
    assert len(executor.shown) == sum(node["class_type"].startswith("Preview") for node in sent.values())
