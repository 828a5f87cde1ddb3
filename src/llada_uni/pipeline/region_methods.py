"""The methods of the public class for edits on the token grid and for looking at a picture that is being made."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Unpack, overload

from llada_uni.grid import TokenGrid
from llada_uni.pipeline.film import Film
from llada_uni.pipeline.perform import perform
from llada_uni.pipeline.preview import PREVIEW_STEPS, Canvas, preview_image
from llada_uni.pipeline.region_settings import InpaintOptions, OutpaintOptions, VaryOptions
from llada_uni.pipeline.region_source import RegionSource
from llada_uni.pipeline.regions import region_tasks
from llada_uni.pipeline.results import ImageDone, ImageResult
from llada_uni.pipeline.scripts import job
from llada_uni.pipeline.tasks import InpaintTask, OutpaintTask, VaryTask
from llada_uni.protocols import Event
from llada_uni.sampling.block_sampler import Granularity

if TYPE_CHECKING:
    from PIL.Image import Image

    from llada_uni.pipeline.networks import Networks

__all__ = ["RegionMethods"]


class RegionMethods:
    """Part of ``LladaUni``; not for use on its own.

    A list of pictures gives a list of results, with one prompt for all or one for each; the region is the same for all.
    """

    networks: Networks
    pictures_at_once: int

    @overload
    def inpaint_image(self, image: RegionSource, prompt: str, **options: Unpack[InpaintOptions]) -> ImageResult: ...
    @overload
    def inpaint_image(
        self, image: Sequence[RegionSource], prompt: str | Sequence[str], **options: Unpack[InpaintOptions]
    ) -> list[ImageResult]: ...
    def inpaint_image(self, image: Any, prompt: Any, **options: Unpack[InpaintOptions]) -> Any:
        """Predict one region of a picture anew and leave the rest as it is.

        A list of pictures gives a list of results, with one prompt for all or one for each, and the same region.
        Arguments and errors are those of :meth:`stream_inpaint`: ``mask``, ``box``, ``cells``, ``keep_cells``,
        ``strength``, ``reference``, ``blend``, ``seed``, ``block_length``, ``steps_per_block``, ``guidance_scale``,
        ``guidance_text``, ``guidance_image``, ``confidence_threshold``, ``temperature``, ``num_steps``, ``decoder``,
        ``decoder_guidance``, ``guidance_interval``, ``step_cache``.
        """
        return _results(image, self.stream_inpaint(image, prompt, granularity="block", **options))

    def stream_inpaint(
        self, image: Any, prompt: Any, *, granularity: Granularity = "step", **options: Unpack[InpaintOptions]
    ) -> Iterator[Event | ImageDone]:
        """Predict one region of a picture anew and yield the samplers' events on the way, ``ImageDone`` last.

        All codes outside the region are those of the source, exactly. The region is given by exactly one of ``mask``,
        ``box``, ``cells`` and ``keep_cells``; a cell is touched when more than a tenth of it lies in the region.

        Args:
            image: PIL image, path, bytes or data URI, scaled and cropped to the nearest usable size (reported as
                ``settings["resized_from"]``); or an ``ImageResult`` or ``EncodedImage``, whose codes are taken as they
                are.
            prompt: with ``reference`` an instruction, without it a description of the whole picture.
            mask: picture of the same shape; transparent parts are the region or, without transparency, white ones.
            box: (left, top, right, bottom) in pixels of ``image``, right and bottom excluded.
            cells, keep_cells: (row, column) pairs on the token grid: those that are predicted, or those that stay.
            strength: share of the touched cells that is predicted, drawn from the seed; 0 keeps everything.
            reference: whether the source picture stands in the prompt. Blocks see only earlier blocks: without it new
                cells know nothing of what lies in later blocks.
            blend: whether pixels outside the region stay those of the source (scaled where sizes differ), bit for bit,
                with a soft edge inside the region; otherwise the decoder's picture is returned.
            block_length: of the prediction; the preset is ``region_block_length``.
            guidance_text, guidance_image: with ``reference``. guidance_scale: without it.
            seed, steps_per_block, confidence_threshold, temperature, num_steps, decoder, decoder_guidance,
                guidance_interval, step_cache, granularity: as in ``stream_image``.

        Raises:
            PromptError: a prompt is empty or not text. BudgetError: it is too long.
            ImageError: an unreadable picture or mask, a mask of another shape, or one that marks nothing.
            SizeError: codes on a grid the checkpoint was not trained on.
            ConfigError: not exactly one region, one outside the picture, or another argument out of range.
        """
        return self._stream(InpaintTask, image, prompt, granularity, dict(options))

    @overload
    def outpaint_image(self, image: RegionSource, prompt: str, **options: Unpack[OutpaintOptions]) -> ImageResult: ...
    @overload
    def outpaint_image(
        self, image: Sequence[RegionSource], prompt: str | Sequence[str], **options: Unpack[OutpaintOptions]
    ) -> list[ImageResult]: ...
    def outpaint_image(self, image: Any, prompt: Any, **options: Unpack[OutpaintOptions]) -> Any:
        """Put a picture on a larger one and predict what surrounds it.

        Arguments and errors are those of :meth:`stream_outpaint`: ``height``, ``width``, ``anchor`` and the options of
        :meth:`inpaint_image` that do not name a region. Lists as there.
        """
        return _results(image, self.stream_outpaint(image, prompt, granularity="block", **options))

    def stream_outpaint(
        self, image: Any, prompt: Any, *, granularity: Granularity = "step", **options: Unpack[OutpaintOptions]
    ) -> Iterator[Event | ImageDone]:
        """Put a picture on a larger one, predict what surrounds it, and yield the samplers' events on the way.

        Args:
            image, prompt: as in :meth:`stream_inpaint`.
            height, width: pixels of the result; a side left out stays as it is.
            anchor: where the picture lies: "center", "top", "bottom", "left", "right", "top-left", ...; of an odd
                number of new cells "center" puts one more below or to the right.
            reference, blend, block_length and the other options: as in :meth:`stream_inpaint`.

        Raises:
            SizeError: no such size, or one that is not larger. Other errors as in :meth:`stream_inpaint`.
        """
        return self._stream(OutpaintTask, image, prompt, granularity, dict(options))

    @overload
    def vary_image(self, image: RegionSource, prompt: str, **options: Unpack[VaryOptions]) -> ImageResult: ...
    @overload
    def vary_image(
        self, image: Sequence[RegionSource], prompt: str | Sequence[str], **options: Unpack[VaryOptions]
    ) -> list[ImageResult]: ...
    def vary_image(self, image: Any, prompt: Any, **options: Unpack[VaryOptions]) -> Any:
        """Predict a random share of a picture's cells anew.

        Arguments and errors are those of :meth:`stream_vary`: ``strength`` and the options of :meth:`inpaint_image`
        that do not name a region. Lists as there: ``[picture] * 3`` gives three variants.
        """
        return _results(image, self.stream_vary(image, prompt, granularity="block", **options))

    def stream_vary(
        self, image: Any, prompt: Any, *, granularity: Granularity = "step", **options: Unpack[VaryOptions]
    ) -> Iterator[Event | ImageDone]:
        """Predict a random share of a picture's cells anew and yield the samplers' events on the way.

        Args:
            image, prompt: as in :meth:`stream_inpaint`.
            strength: the share, drawn from the seed; 0 keeps every code, 1 predicts all. By default 0.5.
            reference: False by default, because a picture that sees its source has little reason to differ from it.
            blend: False by default: the decoder draws the whole picture, so that old and new cells fit together.
            block_length and the other options: as in :meth:`stream_inpaint`.

        Raises:
            As in :meth:`stream_inpaint`.
        """
        return self._stream(VaryTask, image, prompt, granularity, dict(options))

    def _stream(
        self, kind: type, image: Any, prompt: Any, granularity: Granularity, options: dict[str, Any]
    ) -> Iterator[Any]:
        tasks = region_tasks(kind, image, prompt, options.pop("seed", None), options)
        jobs = [job(self.networks, task) for task in tasks]
        return perform(self.networks, jobs, granularity, at_once=self.pictures_at_once)

    def preview_image(
        self,
        codes: Sequence[int | None],
        grid: TokenGrid,
        *,
        seed: int = 0,
        num_steps: int = PREVIEW_STEPS,
        decoder: str = "turbo",
    ) -> Image:
        """A cheap picture of partly known codes (None = not known), unknown cells as a grey checker.

        Raises:
            ConfigError: not as many codes as the grid has cells, or a value out of range.
            SizeError: a grid this checkpoint was not trained on. ImageError: a code outside the codebook.
            CheckpointError: the checkpoint has no such decoder.
        """
        return preview_image(self.networks, codes, grid, seed=seed, num_steps=num_steps, decoder=decoder)

    def canvas(self, row: int = 0) -> Canvas:
        """Follows one row of a stream: token grid, confidences and, on request, a picture of what is known so far."""
        return Canvas(self.networks, row)

    def film(self, row: int = 0) -> Film:
        """Follows one row of a stream and makes an animated picture of it."""
        return Film(self.networks, row)


def _results(image: Any, events: Iterator[Event | ImageDone]) -> Any:
    results = [event.result for event in events if isinstance(event, ImageDone)]
    return results if isinstance(image, (list, tuple)) else results[0]
