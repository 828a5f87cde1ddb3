"""Writes the example workflows of the ComfyUI nodes, each in the two formats that ComfyUI opens.

python integrations/make_comfyui_workflows.py
"""

from __future__ import annotations

import importlib.util
import json
import sys
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

PACK = Path(__file__).with_name("comfyui")
FOLDER = PACK / "example_workflows"

CORE: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {  # nodes of ComfyUI itself: inputs and outputs
    "PreviewImage": ({"images": ("IMAGE",)}, ()),
    "PreviewAny": ({"source": ("*",)}, ()),
    "SolidMask": ({"value": ("FLOAT", {}), "width": ("INT", {}), "height": ("INT", {})}, ("MASK",)),
    "MaskComposite": (
        {"destination": ("MASK",), "source": ("MASK",), "x": ("INT", {}), "y": ("INT", {}), "operation": (["add"], {})},
        ("MASK",),
    ),
}
WIDGETS = ("INT", "FLOAT", "STRING", "BOOLEAN")

LOAD = ("LladaUniLoadModel", {})
PROMPT = "a red house on grass"
WORKFLOWS: dict[str, dict[str, tuple[str, dict[str, Any]]]] = {
    "generate_and_ask": {
        "1": LOAD,
        "2": ("LladaUniGenerate", {"model": ["1", 0], "prompt": "two red apples left of a house", "seed": 7}),
        "3": ("LladaUniPreviewCodes", {"model": ["1", 0], "codes": ["2", 0], "show": "codes"}),
        "4": ("PreviewImage", {"images": ["3", 0]}),
        "5": ("LladaUniDecode", {"model": ["1", 0], "codes": ["2", 0]}),
        "6": ("PreviewImage", {"images": ["5", 0]}),
        "7": ("LladaUniUnderstand", {"model": ["1", 0], "question": "how many apples are there?", "image": ["5", 0]}),
        "8": ("PreviewAny", {"source": ["7", 0]}),
    },
    "inpaint": {
        "1": LOAD,
        "2": ("LladaUniGenerate", {"model": ["1", 0], "prompt": PROMPT, "seed": 7, "width": 128, "height": 128}),
        "3": ("LladaUniDecode", {"model": ["1", 0], "codes": ["2", 0]}),
        "4": ("PreviewImage", {"images": ["3", 0]}),
        "5": ("SolidMask", {"value": 0.0, "width": 128, "height": 128}),
        "6": ("SolidMask", {"value": 1.0, "width": 64, "height": 48}),
        "7": ("MaskComposite", {"destination": ["5", 0], "source": ["6", 0], "x": 64, "y": 0, "operation": "add"}),
        "8": (
            "LladaUniInpaint",
            {"model": ["1", 0], "mask": ["7", 0], "image": ["3", 0], "prompt": PROMPT, "seed": 1, "reference": False},
        ),
        "9": ("PreviewImage", {"images": ["8", 0]}),
    },
    "edit": {
        "1": LOAD,
        "2": ("LladaUniGenerate", {"model": ["1", 0], "prompt": PROMPT, "seed": 7}),
        "3": ("LladaUniEdit", {"model": ["1", 0], "instruction": "make the house blue", "seed": 1, "codes": ["2", 0]}),
        "4": ("LladaUniDecode", {"model": ["1", 0], "codes": ["3", 0]}),
        "5": ("PreviewImage", {"images": ["4", 0]}),
    },
}


@cache
def pack() -> ModuleType:
    """The nodes, imported as the folder they are."""
    spec = importlib.util.spec_from_file_location("llada_uni_comfyui", PACK / "__init__.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def described(kind: str) -> tuple[dict[str, Any], tuple[str, ...], tuple[str, ...]]:
    """Inputs in the order of the window, types and names of the outputs."""
    if kind in CORE:
        given, types = CORE[kind]
        return given, types, types
    node = pack().NODE_CLASS_MAPPINGS[kind]
    groups = node.INPUT_TYPES()
    return {**groups["required"], **groups.get("optional", {})}, node.RETURN_TYPES, node.RETURN_NAMES


def is_widget(declared: Any) -> bool:
    """Whether an input is a field of the node rather than a socket."""
    return isinstance(declared[0], list) or declared[0] in WIDGETS


def filled(kind: str, values: dict[str, Any]) -> dict[str, Any]:
    """Values of all widgets, defaults included, and links."""
    declared, _, _ = described(kind)
    fields = {name: values.get(name, what[1].get("default")) for name, what in declared.items() if is_widget(what)}
    return fields | values


def api_format(graph: dict[str, tuple[str, dict[str, Any]]]) -> dict[str, Any]:
    """What ``POST /prompt`` takes as ``prompt``."""
    return {number: {"class_type": kind, "inputs": filled(kind, values)} for number, (kind, values) in graph.items()}


def window_format(graph: dict[str, tuple[str, dict[str, Any]]]) -> dict[str, Any]:
    """What the window saves and opens, version 0.4."""
    links: list[list[Any]] = []
    nodes = [_node(int(number), kind, values, graph, links) for number, (kind, values) in graph.items()]
    for node in nodes:
        for slot, output in enumerate(node["outputs"]):
            output["links"] = [link[0] for link in links if link[1:3] == [node["id"], slot]]
    return {
        "last_node_id": len(nodes),
        "last_link_id": len(links),
        "nodes": nodes,
        "links": links,
        "groups": [],
        "config": {},
        "extra": {},
        "version": 0.4,
    }


def _node(number: int, kind: str, values: dict[str, Any], graph: Any, links: list[list[Any]]) -> dict[str, Any]:
    declared, types, names = described(kind)
    inputs, widgets = [], []
    for name, what in declared.items():
        if is_widget(what):
            widgets.append(values.get(name, what[1].get("default")))
            widgets += ["fixed"] if what[1].get("control_after_generate") else []
            continue
        source = values.get(name)
        if source is not None:
            sent = described(graph[source[0]][0])[1][source[1]]
            links.append([len(links) + 1, int(source[0]), source[1], number, len(inputs), sent])
        inputs.append({"name": name, "type": what[0], "link": len(links) if source is not None else None})
    outputs = [{"name": name, "type": sent, "links": []} for name, sent in zip(names, types, strict=True)]
    return {
        "id": number,
        "type": kind,
        "pos": [(number - 1) % 4 * 380, (number - 1) // 4 * 460],
        "size": [330, 120 + 26 * len(widgets)],
        "flags": {},
        "order": number - 1,
        "mode": 0,
        "inputs": inputs,
        "outputs": outputs,
        "properties": {"Node name for S&R": kind},
        "widgets_values": widgets,
    }


def build() -> dict[Path, str]:
    """Every file and what it holds."""
    files = {FOLDER / f"{name}.json": window_format(graph) for name, graph in WORKFLOWS.items()}
    files |= {FOLDER / "api" / f"{name}.json": api_format(graph) for name, graph in WORKFLOWS.items()}
    return {path: json.dumps(content, indent=1) + "\n" for path, content in files.items()}


if __name__ == "__main__":
    for path, text in build().items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        print(path.relative_to(PACK.parent))
