"""Reads Anime2Sketch's generator from its weight file, `netG.pth`, or the same as safetensors.

What a file is, its keys and shapes tell; its name does not matter. Nothing in it is run.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .anime2sketch import LEVELS, Anime2Sketch
from .weight_container import UnreadableWeightsError, WeightContainer, open_weights
from .weight_kinds import some

NEEDED = "the `default` generator of Anime2Sketch (netG.pth)"
WHERE = (
    "Download https://huggingface.co/lllyasviel/Annotators/resolve/main/netG.pth into "
    "ComfyUI/models/animesketchnet_sketchers."
)


_PUBLISHED_WIDTH = 64
_WIDEST = 1024  # of a level; what claims more is no such file


class WrongSketcherError(ValueError):
    """A file that is no such generator: says what was found, what was needed, and the fix."""


def read_anime2sketch(
    path: Path, *, operations: Any = nn, device: torch.device | str | None = None
) -> Anime2Sketch:
    """Reads the generator, its weights as float32.

    Args:
        path: the weight file, safetensors or pickle.
        operations: where its layers come from (see `Anime2Sketch`).
        device: where its weights lie.

    Raises:
        FileNotFoundError: no such file.
        WrongSketcherError: it is damaged, could run code, or is something else.
    """
    with _opened(path) as (container, sources):
        width = container.shapes[sources["down.0.weight"]][0]
        net = Anime2Sketch(base_width=width, operations=operations, device=device)
        with torch.no_grad():
            for name, parameter in net.named_parameters():
                parameter.copy_(_checked(sources[name], container.read(sources[name])))
        return net.eval().requires_grad_(False)


def check_anime2sketch(path: Path) -> None:
    """Refuses a file that is something else, by its header alone (see `read_anime2sketch`)."""
    with _opened(path):
        pass


def original_keys() -> dict[str, str]:
    """Gives each parameter's key in netG.pth by its name in `Anime2Sketch`.

    There the net is nested: each level is a Sequential that holds the next one. The first and the
    last level have fewer modules before the nested one, so their numbers differ.
    """
    keys, block = {}, "model"
    for level in range(LEVELS):
        down = 0 if level == 0 else 1
        up = 3 if level in (0, LEVELS - 1) else 5
        for kind in ("weight", "bias"):
            keys[f"down.{level}.{kind}"] = f"{block}.model.{down}.{kind}"
            keys[f"up.{level}.{kind}"] = f"{block}.model.{up}.{kind}"
        block += ".model.1" if level == 0 else ".model.3"
    return keys


@contextmanager
def _opened(path: Path) -> Iterator[tuple[WeightContainer, Mapping[str, str]]]:
    """Opens a file and checks it; with it come the file's key of each parameter by its name."""
    try:
        container = open_weights(path)
        # Training on several GPUs puts "module." before each key.
        in_file = {key.removeprefix("module."): key for key in container.shapes}
        _check({plain: container.shapes[key] for plain, key in in_file.items()})
        yield container, {name: in_file[key] for name, key in original_keys().items()}
    except UnreadableWeightsError as error:
        raise WrongSketcherError(f"{error} Needed is {NEEDED}. {WHERE}") from error


def _check(shapes: Mapping[str, tuple[int, ...]]) -> None:
    if any(".smooth.kernel" in key or ".mlp." in key for key in shapes):
        raise _refuse("Anime2Sketch's `improved` generator, whose layers are others")
    names = original_keys()
    missing = [key for key in names.values() if key not in shapes]
    if len(missing) == len(names):
        raise _refuse(f"a file of {len(shapes)} tensors{some(shapes)}")
    extra = [key for key in shapes if key not in names.values()]
    if missing or extra:
        raise _refuse(
            f"a file with {len(missing)} of its tensors missing{some(missing)} and "
            f"{len(extra)} others{some(extra)}"
        )
    first = shapes[names["down.0.weight"]]
    width = first[0] if first and 0 < first[0] <= _WIDEST else _PUBLISHED_WIDTH
    net = Anime2Sketch(base_width=width, device="meta")
    wrong = [
        f"{names[name]} is {list(shapes[names[name]])} instead of {list(parameter.shape)}"
        for name, parameter in net.named_parameters()
        if shapes[names[name]] != tuple(parameter.shape)
    ]
    if wrong:
        raise _refuse(f"a file with {len(wrong)} tensors of another shape{some(wrong)}")


def _checked(key: str, weight: Tensor) -> Tensor:
    if not weight.is_floating_point() or not weight.float().isfinite().all():
        raise _refuse(f"a file whose {key} ({weight.dtype}) holds no finite floats")
    return weight


def _refuse(found: str) -> WrongSketcherError:
    return WrongSketcherError(f"This is {found}; needed is {NEEDED}. {WHERE}")
