"""Generate, ask, edit and talk about the same pictures, one turn after the other."""

from __future__ import annotations

import io
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

from llada_uni.errors import PromptError, ResourceError
from llada_uni.image_tokenizer.images import ImageSource, load_image
from llada_uni.pipeline.checks import check_text
from llada_uni.pipeline.files import write_atomic
from llada_uni.pipeline.results import EncodedImage, ImageResult, TextResult
from llada_uni.pipeline.tasks import Turn

if TYPE_CHECKING:
    from PIL.Image import Image

    from llada_uni.pipeline.model import LladaUni
    from llada_uni.pipeline.settings import AnswerOptions, ChatOptions, EditOptions, ImageOptions

__all__ = ["CONVERSATION_FORMAT", "Conversation"]

CONVERSATION_FORMAT = "llada-uni-conversation"


class Conversation:
    """Turns so far, and the codes of every picture in them; made by :meth:`LladaUni.conversation`.

    :meth:`generate` makes a picture from its prompt alone, :meth:`edit` and :meth:`ask` work on the *pictures at hand*
    alone, :meth:`say` goes on with all turns. At hand are the pictures added since the last answer, or else the last
    picture. A picture the model made is never encoded again; an added one is encoded once, and once more at the editing
    size when it is edited.

    A call that fails changes nothing. Every result says its seed: the same calls with these seeds give the same turns.
    """

    def __init__(self, model: LladaUni, system: str | None = None, *, seed: int | None = None) -> None:
        self._model, self._seed = model, seed
        self.system = None if system is None else check_text(system, name="system")
        self._turns: list[Turn] = []
        self._pictures: list[_Picture] = []
        self._calls: list[tuple[str, ImageResult | TextResult]] = []

    @property
    def turns(self) -> tuple[Turn, ...]:
        """Everything said and shown, the system text apart; pictures as codes."""
        return tuple(self._turns)

    @property
    def images(self) -> tuple[Image, ...]:
        """The pictures of all turns, in order."""
        return tuple(picture.image for picture in self._pictures)

    @property
    def last_image(self) -> Image | None:
        """The newest picture."""
        return self._pictures[-1].image if self._pictures else None

    @property
    def results(self) -> tuple[ImageResult | TextResult, ...]:
        """What the model did, one result for every assistant turn."""
        return tuple(result for _, result in self._calls)

    def add_image(self, image: ImageSource | ImageResult) -> None:
        """Show a picture; it stands before the words of the next turn.

        Raises:
            ImageError: unreadable, too large or too elongated.
        """
        if isinstance(image, ImageResult):
            picture = _Picture(image=image.image, encoded=image.encoded, result=image)
        else:
            loaded = load_image(image)
            picture = _Picture(image=loaded, encoded=self._model.encode_image(loaded))
        if not self._waiting:
            self._turns.append(Turn("user"))
        self._turns[-1] = replace(self._turns[-1], images=(*self._turns[-1].images, picture.encoded))
        self._pictures.append(picture)

    def generate(self, prompt: str, **options: Unpack[ImageOptions]) -> ImageResult:
        """A new picture; arguments and errors of :meth:`LladaUni.generate_image`."""
        result = self._model.generate_image(check_text(prompt, name="prompt"), **self._seeded(options))
        return self._show("generate", prompt, result)

    def edit(self, instruction: str, **options: Unpack[EditOptions]) -> ImageResult:
        """The pictures at hand, changed; arguments and errors of :meth:`LladaUni.edit_image`."""
        check_text(instruction, name="instruction")
        sources = [one.image if one.result is None else one.encoded for one in self._at_hand()]
        return self._show("edit", instruction, self._model.edit_image(sources, instruction, **self._seeded(options)))

    def ask(self, question: str, **options: Unpack[AnswerOptions]) -> TextResult:
        """A question about the pictures at hand; arguments and errors of :meth:`LladaUni.understand_image`."""
        check_text(question, name="question")
        images, given = [one.encoded for one in self._at_hand()], {"system": self.system, **self._seeded(options)}
        result = self._model.understand_image(images, question, **given)
        return self._tell("ask", question, result)

    def say(self, text: str, **options: Unpack[ChatOptions]) -> TextResult:
        """The next words in the whole conversation; arguments and errors of :meth:`LladaUni.chat`."""
        before, said = self._joined(check_text(text, name="text"))
        opening = [] if self.system is None else [Turn("system", self.system)]
        return self._tell("say", text, self._model.chat([*opening, *before, said], **self._seeded(options)))

    def save(self, directory: str | Path) -> Path:
        """Write ``conversation.json`` and every picture as a PNG to ``directory``, which is created.

        The file has the turns with the codes of their pictures, and every result with its seed and settings.

        Raises:
            ResourceError: the directory cannot be made, or the disk is full.
        """
        directory = Path(directory)
        try:
            directory.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ResourceError(f"cannot make the directory {directory}: {error.strerror or error}") from error
        for number, picture in enumerate(self._pictures, 1):
            write_atomic(directory / _file(number), picture.png_bytes())
        text = json.dumps(self._as_dict(), ensure_ascii=False, indent=2) + "\n"
        write_atomic(directory / "conversation.json", text.encode())
        return directory

    @property
    def _waiting(self) -> bool:
        """Whether pictures were added and nothing was said about them yet."""
        return bool(self._turns) and self._turns[-1].role == "user"

    def _at_hand(self) -> list[_Picture]:
        if not self._pictures:
            raise PromptError("the conversation has no picture yet; generate or add one first")
        return self._pictures[-(len(self._turns[-1].images) if self._waiting else 1) :]

    def _joined(self, text: str) -> tuple[list[Turn], Turn]:
        """The turns before the one that says ``text``, and that turn, with the pictures that wait for it."""
        if self._waiting:
            return self._turns[:-1], replace(self._turns[-1], text=text)
        return self._turns, Turn("user", text)

    def _seeded(self, options: Any) -> dict[str, Any]:
        if self._seed is None or options.get("seed") is not None:
            return dict(options)
        return dict(options) | {"seed": self._seed + len(self._calls)}

    def _show(self, task: str, text: str, result: ImageResult) -> ImageResult:
        self._record(task, text, Turn("assistant", "", (result.encoded,)), result)
        self._pictures.append(_Picture(image=result.image, encoded=result.encoded, result=result))
        return result

    def _tell(self, task: str, text: str, result: TextResult) -> TextResult:
        self._record(task, text, Turn("assistant", result.text), result)
        return result

    def _record(self, task: str, text: str, reply: Turn, result: ImageResult | TextResult) -> None:
        before, said = self._joined(text)
        self._turns = [*before, said, reply]
        self._calls.append((task, result))

    def _as_dict(self) -> dict[str, Any]:
        numbers = iter(range(1, len(self._pictures) + 1))
        turns = [
            {
                "role": turn.role,
                "text": turn.text,
                "images": [_entry(next(numbers), encoded) for encoded in turn.images],
            }
            for turn in self._turns
        ]
        return {
            "format": CONVERSATION_FORMAT,
            "model": self._model.name,
            "system": self.system,
            "turns": turns,
            "results": [{"task": task} | result.as_dict() for task, result in self._calls],
        }


@dataclass(frozen=True, kw_only=True)
class _Picture:
    """A picture of the conversation; ``result`` where the model made it."""

    image: Image
    encoded: EncodedImage
    result: ImageResult | None = None

    def png_bytes(self) -> bytes:
        if self.result is not None:
            return self.result.png_bytes()
        buffer = io.BytesIO()
        self.image.save(buffer, "PNG")
        return buffer.getvalue()


def _file(number: int) -> str:
    return f"picture-{number}.png"


def _entry(number: int, encoded: Any) -> dict[str, Any]:
    return {"file": _file(number)} | encoded.as_dict()
