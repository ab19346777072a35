"""Makes an inference file of another trainer's checkpoint, of whichever vintage.

    python -m training.convert output/checkpoint-20000 adapter.safetensors
    python -m training.convert ip_adapter.bin adapter.safetensors

Reads what tencent-ailab/IP-Adapter's trainer (and diffusers' copy of it) leaves behind: folders of
accelerate with pytorch_model.bin or model.safetensors, also those from which safetensors dropped
`adapter_modules.*` because the UNet shares them; DeepSpeed's; .bin files; diffusers' names. Files
of this project's own trainer need no conversion.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from animesketchnet_core.adapter import sizes_of
from animesketchnet_core.resampler import ResamplerConfig
from animesketchnet_core.weight_file import (
    AdapterMetadata,
    WrongAdapterError,
    read_adapter,
    write_adapter,
)
from animesketchnet_core.weight_kinds import SDXL_TOKEN_WIDTH

from .program import run_program

WEIGHTS = ("model.safetensors", "pytorch_model.bin", "pytorch_model.safetensors")
DEEPSPEED = "pytorch_model/mp_rank_00_model_states.pt"
_STEP = re.compile(r"checkpoint-(\d+)")


def find_weights(checkpoint: Path) -> Path:
    """Finds the weight file of a checkpoint.

    Args:
        checkpoint: a file, a checkpoint's folder, or a run's with `checkpoint-N` folders in it.

    Returns:
        The file; of a run's folder that of the last checkpoint.

    Raises:
        WrongAdapterError: there is none.
    """
    if checkpoint.is_file():
        return checkpoint
    if not checkpoint.is_dir():
        raise WrongAdapterError(f"There is no {checkpoint}.")
    steps = {int(m[1]): path for path in checkpoint.iterdir() if (m := _STEP.fullmatch(path.name))}
    if steps:
        return find_weights(steps[max(steps)])
    for name in (*WEIGHTS, DEEPSPEED):
        if (checkpoint / name).is_file():
            return checkpoint / name
    found = ", ".join(sorted(path.name for path in checkpoint.iterdir())[:8]) or "nothing"
    raise WrongAdapterError(
        f"{checkpoint} holds no weights. Expected {', '.join(WEIGHTS)} or {DEEPSPEED}; found "
        f"{found}."
    )


def convert(checkpoint: Path, output: Path, image_encoder: str, base_model: str) -> str:
    """Writes the inference file of a checkpoint.

    Args:
        checkpoint: see `find_weights`.
        output: the .safetensors file; it appears whole or not at all.
        image_encoder: what the adapter was trained on, for the metadata.
        base_model: likewise.

    Returns:
        What was converted, in words.

    Raises:
        WrongAdapterError: the checkpoint holds no IP-Adapter-Plus for SD v1.5 or a UNet like it.
    """
    source = find_weights(checkpoint)
    state_dict, metadata = read_adapter(source)
    resampler, _ = sizes_of({key: tuple(tensor.shape) for key, tensor in state_dict.items()})
    if not isinstance(resampler, ResamplerConfig) or resampler.output_dim == SDXL_TOKEN_WIDTH:
        raise WrongAdapterError(
            f"{source} is another IP-Adapter than Plus for SD v1.5, the one that is converted. "
            "Load AnimeSketchNet reads it as it is."
        )
    if metadata is None:
        training: dict[str, Any] = {"trainer": "tencent-ailab/IP-Adapter"}
        if numbered := [m for part in source.parts if (m := _STEP.fullmatch(part))]:
            training["steps"] = int(numbered[-1][1])
        metadata = AdapterMetadata(
            num_tokens=resampler.num_queries,
            image_encoder=image_encoder,
            base_model=base_model,
            preprocessing="centre crop",  # CLIPImageProcessor's, which that trainer uses
            training=training,
            title=output.stem,
        )
    write_adapter(output, state_dict, metadata)
    parameters = sum(tensor.numel() for tensor in state_dict.values())
    return f"{source}: {len(state_dict)} tensors, {parameters:,} parameters"


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; 0: written, 2: an input cannot be used, 130, 143: interrupted."""
    parser = argparse.ArgumentParser(
        prog="python -m training.convert",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("checkpoint", type=Path, help="a file, a checkpoint or a run")
    parser.add_argument("output", type=Path, help="the .safetensors file to write")
    parser.add_argument("--image-encoder", default="CLIP ViT-H/14", metavar="NAME")
    parser.add_argument("--base-model", default="SD v1.5", metavar="NAME")
    parser.add_argument("--force", action="store_true", help="replace an existing file")
    options = parser.parse_args(argv)

    def work() -> int:
        if options.output.suffix != ".safetensors":
            raise WrongAdapterError(f"{options.output} must end in .safetensors.")
        if options.output.exists() and not options.force:
            raise WrongAdapterError(f"{options.output} exists; --force replaces it.")
        told = convert(
            options.checkpoint, options.output, options.image_encoder, options.base_model
        )
        print(f"{told}\n-> {options.output}")
        return 0

    return run_program(work, (WrongAdapterError, OSError), "nothing was written")


if __name__ == "__main__":
    sys.exit(main())
