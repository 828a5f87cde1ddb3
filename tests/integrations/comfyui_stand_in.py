"""A stand-in for ComfyUI: how it loads a pack, validates a graph, runs it in order, and shows progress.

Written from the behaviour of ComfyUI's ``nodes.py`` (loading), ``execution.py`` (validation, mapping over lists,
merging of results), ``comfy_execution/caching.py`` (what is run again) and ``comfy/utils.py`` (the progress bar).
"""

from __future__ import annotations

import importlib.util
import inspect
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import torch

CONVERTED = {"INT": int, "FLOAT": float, "STRING": str, "BOOLEAN": bool}
Graph = dict[str, dict[str, Any]]


def load_pack(folder: Path) -> ModuleType:
    """Import a folder of custom nodes under a name made of its path."""
    name = str(folder).replace(".", "_x_")
    spec = importlib.util.spec_from_file_location(name, folder / "__init__.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


class PreviewImage:
    """ComfyUI's own node, as far as a graph sees it."""

    RETURN_TYPES = ("IMAGE",)
    FUNCTION = "show"
    OUTPUT_NODE = True

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {"images": ("IMAGE",)}}

    def show(self, images: torch.Tensor) -> dict[str, Any]:
        return {"ui": {"images": list(images)}, "result": (images,)}


class PreviewAny:
    """The same for texts."""

    RETURN_TYPES = ("STRING",)
    FUNCTION = "show"
    OUTPUT_NODE = True

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {"source": ("*", {})}}

    def show(self, source: Any) -> dict[str, Any]:
        return {"ui": {"text": (source,)}, "result": (source,)}


class SolidMask:
    """A mask of one value."""

    RETURN_TYPES = ("MASK",)
    FUNCTION = "solid"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        sides = {name: ("INT", {"default": 512, "min": 1, "max": 16384}) for name in ("width", "height")}
        return {"required": {"value": ("FLOAT", {"default": 1.0, "min": 0.0, "max": 1.0}), **sides}}

    def solid(self, value: float, width: int, height: int) -> tuple[torch.Tensor]:
        return (torch.full((1, height, width), value),)


class MaskComposite:
    """One mask on another."""

    RETURN_TYPES = ("MASK",)
    FUNCTION = "combine"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        masks = dict.fromkeys(("destination", "source"), ("MASK",))
        places = {name: ("INT", {"default": 0, "min": 0, "max": 16384}) for name in ("x", "y")}
        return {"required": {**masks, **places, "operation": (["multiply", "add", "subtract", "and", "or", "xor"],)}}

    def combine(self, destination: Any, source: Any, x: int, y: int, operation: str) -> tuple[torch.Tensor]:
        assert operation == "add"
        result = destination.clone()
        part = result[:, y : y + source.shape[1], x : x + source.shape[2]]
        part += source[:, : part.shape[1], : part.shape[2]]
        return (result.clamp(0, 1),)


CORE = {one.__name__: one for one in (PreviewImage, PreviewAny, SolidMask, MaskComposite)}


def is_link(value: Any) -> bool:
    return isinstance(value, list)


class Executor:
    """Validates and runs graphs; results stay until an input or what ``IS_CHANGED`` says differs."""

    def __init__(self, mappings: dict[str, type]) -> None:
        self.mappings = {**CORE, **mappings}
        self.cache: dict[str, tuple[Any, list[list[Any]]]] = {}
        self.ran: list[str] = []
        self.shown: dict[str, dict[str, list[Any]]] = {}

    def run(self, graph: Graph) -> dict[str, list[list[Any]]]:
        """Outputs of every node: for each slot a list."""
        errors = self.validate(graph)
        assert not errors, errors
        self.ran, self.shown, done = [], {}, {}
        with torch.inference_mode():
            for number in graph:
                if getattr(self.mappings[graph[number]["class_type"]], "OUTPUT_NODE", False):
                    self._run(graph, number, done)
        return done

    # Validation

    def validate(self, graph: Graph) -> list[str]:
        """What is wrong with a graph, and the inputs of a right one converted to their types."""
        errors = []
        outputs = [n for n, node in graph.items() if getattr(self.mappings[node["class_type"]], "OUTPUT_NODE", False)]
        if not outputs:
            errors.append("the graph has no outputs")
        for number, node in graph.items():
            errors += [f"{number}: {error}" for error in self._validate_node(graph, node)]
        return errors

    def _validate_node(self, graph: Graph, node: dict[str, Any]) -> list[str]:
        errors, declared = [], self.mappings[node["class_type"]].INPUT_TYPES()
        for group in ("required", "optional"):
            for name, what in declared.get(group, {}).items():
                if name not in node["inputs"]:
                    errors += [f"{name} is missing"] if group == "required" else []
                    continue
                errors += self._validate_value(graph, node["inputs"], name, what)
        return errors

    def _validate_value(self, graph: Graph, inputs: dict[str, Any], name: str, what: tuple[Any, ...]) -> list[str]:
        value, kind, extra = inputs[name], what[0], what[1] if len(what) > 1 else {}
        if is_link(value):
            if len(value) != 2:
                return [f"{name} is a bad link"]
            sent = self.mappings[graph[value[0]]["class_type"]].RETURN_TYPES[value[1]]
            return [] if "*" in (sent, kind) or sent == kind else [f"{name}: {sent} is not {kind}"]
        try:
            value = inputs[name] = CONVERTED.get(kind, lambda v: v)(value) if isinstance(kind, str) else value
        except ValueError:
            return [f"{name}: {value!r} is no {kind}"]
        if "min" in extra and value < extra["min"]:
            return [f"{name}: {value} < {extra['min']}"]
        if "max" in extra and value > extra["max"]:
            return [f"{name}: {value} > {extra['max']}"]
        return [f"{name}: {value!r} not in {kind}"] if isinstance(kind, list) and value not in kind else []

    # Execution

    def _run(self, graph: Graph, number: str, done: dict[str, Any]) -> Any:
        if number in done:
            return done[number]
        kind, inputs = self.mappings[graph[number]["class_type"]], graph[number]["inputs"]
        for value in inputs.values():
            if is_link(value):
                self._run(graph, value[0], done)
        signature = self._signature(graph, number)
        if number not in self.cache or self.cache[number][0] != signature:
            self.cache[number] = (signature, self._execute(kind, number, inputs, done))
            self.ran.append(number)
        done[number] = self.cache[number][1]
        return done[number]

    def _signature(self, graph: Graph, number: str) -> Any:
        node = graph[number]
        kind, parts = self.mappings[node["class_type"]], []
        for name, value in sorted(node["inputs"].items()):
            parts.append((name, (self._signature(graph, value[0]), value[1]) if is_link(value) else value))
        changed: Any = False
        if hasattr(kind, "IS_CHANGED"):
            constants = {name: None if is_link(value) else value for name, value in node["inputs"].items()}
            changed = kind.IS_CHANGED(**constants)
        return (node["class_type"], changed, parts)

    def _execute(self, kind: Any, number: str, inputs: dict[str, Any], done: dict[str, Any]) -> list[list[Any]]:
        lists = {n: done[v[0]][v[1]] if is_link(v) else [v] for n, v in inputs.items()}
        length = max((len(values) for values in lists.values()), default=1)
        node, results = kind(), []
        for index in range(length):
            arguments = {name: values[min(index, len(values) - 1)] for name, values in lists.items()}
            answer = getattr(node, kind.FUNCTION)(**arguments)
            if isinstance(answer, dict):
                shown = self.shown.setdefault(number, {})
                for name, values in answer["ui"].items():
                    shown.setdefault(name, []).extend(values)
                answer = answer["result"]
            assert isinstance(answer, tuple)
            assert len(answer) == len(kind.RETURN_TYPES)
            results.append(answer)
        lengthen = getattr(kind, "OUTPUT_IS_LIST", (False,) * len(kind.RETURN_TYPES))
        return [
            [item for one in results for item in one[slot]] if many else [one[slot] for one in results]
            for slot, many in enumerate(lengthen)
        ]


# --- the window's side -----------------------------------------------------------------------------------------------


def graph_of_window(saved: dict[str, Any], mappings: dict[str, type]) -> Graph:
    """What the window sends for a workflow it has opened: widgets by their order, sockets by their links."""
    links = {link[0]: link for link in saved["links"]}
    graph: Graph = {}
    for node in saved["nodes"]:
        declared = mappings[node["type"]].INPUT_TYPES()
        fields = {**declared.get("required", {}), **declared.get("optional", {})}
        values = list(node["widgets_values"])
        inputs: dict[str, Any] = {}
        for name, what in fields.items():
            if isinstance(what[0], list) or what[0] in CONVERTED:
                inputs[name] = values.pop(0)
                if len(what) > 1 and what[1].get("control_after_generate"):
                    assert values.pop(0) in ("fixed", "increment", "decrement", "randomize")
        assert not values, f"{node['type']} has {len(values)} values too many"
        for slot, socket in enumerate(node["inputs"]):
            if socket["link"] is not None:
                _, start, start_slot, end, end_slot, _ = links[socket["link"]]
                assert (end, end_slot) == (node["id"], slot)
                inputs[socket["name"]] = [str(start), start_slot]
        graph[str(node["id"])] = {"class_type": node["type"], "inputs": inputs}
    return graph


class Cancelled(Exception):
    pass


class Window:
    """``comfy.utils`` and ``comfy.model_management`` as far as nodes use them; keeps what it was shown."""

    def __init__(self, cancel_after: int | None = None, device: str = "cpu") -> None:
        self.updates: list[tuple[int, int, Any]] = []
        self._checks, self._cancel_after = 0, cancel_after
        window = self

        class ProgressBar:
            def __init__(self, total: int, node_id: Any = None) -> None:
                self.total = total

            def update_absolute(self, value: int, total: int | None = None, preview: Any = None) -> None:
                self.total = self.total if total is None else total
                window.updates.append((min(value, self.total), self.total, preview))

        self.modules = {
            "comfy.utils": SimpleNamespace(ProgressBar=ProgressBar),
            "comfy.model_management": SimpleNamespace(
                throw_exception_if_processing_interrupted=self._check, get_torch_device=lambda: torch.device(device)
            ),
        }

    def _check(self) -> None:
        self._checks += 1
        if self._cancel_after is not None and self._checks > self._cancel_after:
            raise Cancelled


def arguments_of(kind: Any) -> tuple[set[str], set[str]]:
    """Arguments of a node's function: those it needs, and all it takes."""
    parameters = dict(inspect.signature(getattr(kind, kind.FUNCTION)).parameters)
    parameters.pop("self")
    needed = {name for name, one in parameters.items() if one.default is inspect.Parameter.empty}
    return needed, set(parameters)
