"""What the nodes' inputs have in common: types, ranges, tooltips, and the value that means "as the checkpoint says"."""

from __future__ import annotations

from typing import Any

CATEGORY = "LLaDA2.0-Uni"
MODEL, CODES = "LLADA_UNI_MODEL", "LLADA_UNI_CODES"
MAX_SEED = 2**53 - 1  # the largest whole number that a browser passes on unchanged
TOKEN_PREVIEWS = ("confidence", "picture", "off")
FLOW_PREVIEWS = ("picture", "off")


def words(default: str, tooltip: str) -> tuple[str, dict[str, Any]]:
    """A text box of several lines."""
    return ("STRING", {"default": default, "multiline": True, "tooltip": tooltip})


def seed() -> tuple[str, dict[str, Any]]:
    """A seed that the browser can change after every run."""
    tooltip = "The same seed gives the same result; further pictures of a batch use seed + 1, seed + 2, ..."
    return ("INT", {"default": 0, "min": 0, "max": MAX_SEED, "control_after_generate": True, "tooltip": tooltip})


def whole(tooltip: str, *, most: int, default: int = 0, least: int = 0, step: int = 1) -> tuple[str, dict[str, Any]]:
    """A whole number."""
    return ("INT", {"default": default, "min": least, "max": most, "step": step, "tooltip": tooltip})


def weight(tooltip: str, *, default: float = -1.0, least: float = -1.0, most: float = 30.0) -> tuple[str, dict]:
    """A number with two decimals."""
    return ("FLOAT", {"default": default, "min": least, "max": most, "step": 0.05, "round": 0.01, "tooltip": tooltip})


def choice(options: tuple[str, ...], tooltip: str) -> tuple[list[str], dict[str, Any]]:
    """One of several words; the first is the default."""
    return (list(options), {"default": options[0], "tooltip": tooltip})


def size() -> dict[str, tuple[str, dict[str, Any]]]:
    """Width and height of the result."""
    tooltip = "Pixels of the result; 0 = as the checkpoint prefers (of an edit: the size of the first picture)."
    return {name: whole(tooltip, most=8192, step=8) for name in ("width", "height")}


def sampling() -> dict[str, tuple[str, dict[str, Any]]]:
    """How codes are chosen."""
    return {
        "steps_per_block": whole("Most denoising steps in one block of codes; 0 = preset.", most=1024),
        "temperature": weight("0 takes the likeliest codes, -1 = preset.", most=10.0),
    }


def decoding() -> dict[str, tuple[Any, dict[str, Any]]]:
    """How codes are drawn."""
    return {
        "decoder": choice(("preset", "turbo", "normal"), "turbo needs few steps, normal more."),
        "num_steps": whole("Steps of the decoder; 0 = preset.", most=1000),
    }


def sources() -> dict[str, tuple[str, dict[str, Any]]]:
    """The picture to start from, as pixels or as codes."""
    return {
        "image": ("IMAGE", {"tooltip": "The picture; of a batch each one by itself."}),
        "codes": (CODES, {"tooltip": "Codes in place of the picture: they are used as they are."}),
    }


def given(**values: Any) -> dict[str, Any]:
    """The values that do not stand for a preset: 0 pixels and steps, weights below 0 and "preset" do."""
    absent = {"width": 0, "height": 0, "steps_per_block": 0, "num_steps": 0, "max_new_tokens": 0, "decoder": "preset"}
    weights = ("temperature", "guidance_scale", "guidance_text", "guidance_image")
    return {
        name: None if (value < 0 if name in weights else value == absent.get(name)) else value
        for name, value in values.items()
    }
