"""What requests may say. Unknown fields are ignored; fields left out or null take the checkpoint's presets."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

__all__ = ["ChatBody", "EditBody", "GenerationBody", "PictureBody"]


class _Body(BaseModel):
    model_config = ConfigDict(extra="ignore", protected_namespaces=())

    model: str | None = Field(None, max_length=200, description="A name of /v1/models; none means the one there is.")
    seed: int | None = Field(None, ge=0, le=2**63 - 1, description="None draws one; it is always reported.")
    timeout: float | None = Field(None, gt=0, description="Seconds, waiting included; also the server's limit holds.")
    steps_per_block: int | None = Field(None, le=4096)
    confidence_threshold: float | None = None
    temperature: float | None = None
    sprint: str | None = Field(None, max_length=40)
    keep_ratio: float | None = None


class PictureBody(_Body):
    """Fields that shape a picture, the same in every request that makes one."""

    height: int | None = Field(None, description="Pixels; exactly a size of the checkpoint, unlike size.")
    width: int | None = None
    size: str | None = Field(None, max_length=40, description='"WIDTHxHEIGHT" or "auto"; drawn at the nearest size.')
    guidance_scale: float | None = None
    guidance_text: float | None = None
    guidance_image: float | None = None
    crop: str | None = Field(None, max_length=40)
    num_steps: int | None = None
    decoder: str | None = Field(None, max_length=40)
    decoder_guidance: float | None = Field(None, description="Of the pixel decoder; 1 is off.")
    guidance_interval: list[float] | None = Field(
        None, max_length=2, description="Two of the decoder's times, 0 to 1, between which it is guided."
    )
    step_cache: float | None = Field(None, description="Decoder steps that change less are reused; 0 to 1.")
    thinking: bool | None = Field(None, description="Write a plan in words before the picture.")
    thinking_tokens: int | None = None
    partial_images: int | None = Field(None, ge=0, le=3, description="Previews of each picture in a stream.")
    output_format: str | None = Field(None, max_length=40)
    output_compression: int | None = None

    @field_validator("guidance_interval", mode="before")
    @classmethod
    def _two_times(cls, value: Any) -> Any:
        """Forms hold text: LOW,HIGH."""
        return value.split(",") if isinstance(value, str) else value


class GenerationBody(PictureBody):
    """``POST /v1/images/generations``."""

    prompt: str
    n: int | None = Field(None, ge=1, le=10)
    response_format: Literal["b64_json", "url"] | None = Field(None, description="url is a data URI.")
    stream: bool | None = None


class EditBody(GenerationBody):
    """``POST /v1/images/edits``, the fields that are not files."""

    strength: float | None = Field(None, description="With a mask: share of its cells that is drawn again.")


class ChatBody(PictureBody):
    """``POST /v1/chat/completions``."""

    messages: list[dict[str, Any]] = Field(max_length=1000)
    modalities: list[Literal["text", "image"]] | None = Field(
        None, description='["text"], ["image"], or both for text and pictures in turn.'
    )
    n: int | None = Field(None, ge=1, le=1)
    max_tokens: int | None = Field(None, ge=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    stream: bool | None = None
    stream_mode: Literal["block", "denoise"] | None = None
    stream_options: dict[str, Any] | None = None
    max_frames: int | None = None
    max_image_tokens: int | None = None
    image_generation: dict[str, Any] | None = Field(
        None, description='Fields of a picture request, and "action": "auto", "generate" or "edit".'
    )
