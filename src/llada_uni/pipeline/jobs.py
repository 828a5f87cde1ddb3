"""A task on the main path: which pictures it reads, and its script.

A script is a generator. It yields a request, is sent what the request finished with, may go on with another request
(the picture after a plan), and returns a drawing or an answer. Scripts know nothing of each other: ``perform`` runs any
number of them side by side.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Any

from llada_uni.pipeline.results import EncodedImage, TextResult
from llada_uni.pipeline.stations import Drawing
from llada_uni.protocols import Finished, Request

__all__ = ["Job", "Script"]

Script = Generator[Request, Finished, Drawing | TextResult]


@dataclass(frozen=True, kw_only=True)
class Job:
    """A task whose arguments are checked: the pictures it reads (PIL at the tokenizer's size, or codes) and its script.

    ``script`` takes the codes of these pictures.
    """

    pictures: Sequence[Any] = ()
    script: Callable[[Sequence[EncodedImage]], Script]
