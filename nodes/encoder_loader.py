"""The node Load Sketch Encoder: finds the CLIP vision model that an adapter reads."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import comfy.clip_vision
from comfy_api.latest import io

from ..animesketchnet_core.image_encoder_file import (
    ImageEncoderKind,
    WrongEncoderError,
    read_image_encoder_kind,
)
from ..animesketchnet_core.image_features import where_to_get
from .folders import encoder_files, encoder_path, file_stamp
from .links import AnimeSketchNetType, LoadedAdapter
from .schema import schema

FIND = "find by itself"
_USUAL_IMAGE_SIZE = 224
_MOST_LISTED = 12


class LoadSketchEncoder(io.ComfyNode):
    """Adapter in, image encoder out."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describes the node."""
        return schema(
            node_id="AnimeSketchNetEncoderLoader",
            display_name="Load Sketch Encoder",
            category="AnimeSketchNet",
            description="Finds the CLIP vision model that an adapter reads among the files of "
            "models/clip_vision and loads it; if there is none, says what to download and where "
            "to put it.",
            search_aliases=["clip vision", "clip_vision loader", "image encoder", "vit-h"],
            inputs=[
                AnimeSketchNetType.Input(
                    "animesketchnet", tooltip="The adapter, from Load AnimeSketchNet."
                ),
                io.Combo.Input(
                    "clip_vision_name",
                    options=[FIND, *encoder_files()],
                    default=FIND,
                    optional=True,
                    tooltip="find by itself: looks into every file of models/clip_vision; their "
                    "names do not matter. Or the file to take, if several fit; it is checked, too.",
                ),
            ],
            outputs=[
                io.ClipVision.Output(
                    "clip_vision", display_name="clip_vision", tooltip="For Encode Sketch."
                ),
                io.String.Output(
                    "found", display_name="found", tooltip="Which file it is, and what it holds."
                ),
            ],
        )

    @classmethod
    def validate_inputs(cls, clip_vision_name: str | None = FIND) -> bool | str:
        """Looks into the header of a named file, so that a wrong one is told before all runs."""
        if clip_vision_name in (None, FIND):  # None comes over a link, not known yet
            return True
        try:
            EncoderFile.read(clip_vision_name)
        except (OSError, WrongEncoderError) as error:
            return (
                f"Load Sketch Encoder, input clip_vision_name: {error} Put the right file there, "
                f"or choose {FIND!r}."
            )
        return True

    @classmethod
    def fingerprint_inputs(
        cls, animesketchnet: LoadedAdapter | None = None, clip_vision_name: str = FIND
    ) -> str:
        """Changes when a file does, or comes, so that a download is seen without a restart."""
        names = encoder_files() if clip_vision_name == FIND else [clip_vision_name]
        return "\n".join(f"{name} {stamp(name)}" for name in names)

    @classmethod
    def execute(cls, animesketchnet: LoadedAdapter, clip_vision_name: str = FIND) -> io.NodeOutput:
        """Finds the file and gives it to ComfyUI's own loader."""
        source = "animesketchnet" if clip_vision_name == FIND else "clip_vision_name"
        try:
            if clip_vision_name == FIND:
                file = find_encoder(animesketchnet)
            else:
                file = named_encoder(clip_vision_name, animesketchnet)
            return io.NodeOutput(load(file), f"{file.name}: {file.kind}")
        except (OSError, WrongEncoderError) as error:
            raise WrongEncoderError(
                f"Load Sketch Encoder, input {source}: {error}\n{where(animesketchnet)}"
            ) from error


@dataclass(frozen=True)
class EncoderFile:
    """A file of models/clip_vision that holds an image encoder.

    Attributes:
        name: as ComfyUI lists it.
        path: where it lies.
        kind: what its header tells.
    """

    name: str
    path: Path
    kind: ImageEncoderKind

    @classmethod
    def read(cls, name: str) -> EncoderFile:
        """Looks into a listed file's header.

        Raises:
            OSError: it is not there, or cannot be read.
            WrongEncoderError: it holds no image encoder; says what it is.
        """
        path = encoder_path(name)
        if path is None:
            raise FileNotFoundError(f"{name!r} is not in models/clip_vision.")
        try:
            return cls(name, Path(path), read_image_encoder_kind(Path(path)))
        except WrongEncoderError as error:
            raise WrongEncoderError(f"{name}: {error}") from error

    def rank(self) -> tuple[bool, bool, int, str]:
        """Orders files that all fit: usual pictures, half precision, then float32; then names."""
        size = self.path.stat().st_size
        quantised = size < 2 * self.kind.num_values
        return self.kind.image_size != _USUAL_IMAGE_SIZE, quantised, size, self.name


def find_encoder(adapter: LoadedAdapter) -> EncoderFile:
    """Finds the file of models/clip_vision that suits an adapter best.

    Raises:
        WrongEncoderError: none does; says what is needed and what each file is.
    """
    fitting, others = [], []
    for name in encoder_files():
        try:
            file = EncoderFile.read(name)
        except (OSError, WrongEncoderError) as error:
            others.append(str(error))
            continue
        if fits(file, adapter):
            fitting.append(file)
        else:
            others.append(f"{name}: {file.kind}")
    if fitting:
        return min(fitting, key=EncoderFile.rank)
    raise WrongEncoderError(
        f"{needed(adapter)} No file of models/clip_vision gives these{listed(others)}"
    )


def named_encoder(name: str, adapter: LoadedAdapter) -> EncoderFile:
    """Takes the file that is named.

    Raises:
        OSError, WrongEncoderError: it cannot be read, or does not fit the adapter.
    """
    file = EncoderFile.read(name)
    if not fits(file, adapter):
        raise WrongEncoderError(f"{needed(adapter)} {name} is another: {file.kind}.")
    return file


def load(file: EncoderFile) -> Any:
    """Loads a file with ComfyUI's own loader, which tells the published sizes apart.

    Raises:
        WrongEncoderError: it is of a size that ComfyUI does not load.
    """
    unknown = f"{file.name} is of a size that ComfyUI does not load: {file.kind}."
    try:
        clip_vision = comfy.clip_vision.load(str(file.path))
    except RuntimeError as error:
        if "size mismatch" in str(error):  # torch: for the size that ComfyUI took it for
            raise WrongEncoderError(unknown) from error
        raise  # out of memory
    if clip_vision is None:
        raise WrongEncoderError(unknown)
    return clip_vision


def fits(file: EncoderFile, adapter: LoadedAdapter) -> bool:
    """Says whether a file's encoder gives what an adapter reads."""
    model = adapter.patcher.model
    return file.kind.fits(model.reads, model.image_proj.config.embedding_dim)


def needed(adapter: LoadedAdapter) -> str:
    """Says what an adapter reads, and what its file says of the encoder."""
    model = adapter.patcher.model
    width = model.image_proj.config.embedding_dim
    trained = f", trained with {adapter.metadata.image_encoder!r}," if adapter.metadata else ""
    return (
        f"The adapter ({adapter.name}){trained} reads the {model.reads.value} of "
        f"{model.reads.encoder(width)} (width {width})."
    )


def where(adapter: LoadedAdapter) -> str:
    """Says how the encoder of an adapter is had."""
    model = adapter.patcher.model
    return where_to_get(model.reads.encoder(model.image_proj.config.embedding_dim))


def listed(lines: list[str]) -> str:
    """Lists what the files are, so many as a message can hold."""
    if not lines:
        return ", which has no file at all."
    more = len(lines) - _MOST_LISTED
    shown = [*lines[:_MOST_LISTED], *([f"and {more} more"] if more > 0 else [])]
    return ":\n" + "\n".join(f"- {line}" for line in shown)


def stamp(name: str) -> str:
    """What changes when a listed file does; a link to nowhere has none."""
    path = encoder_path(name)
    return "" if path is None else file_stamp(Path(path))
