"""The node Alpha Sweep: the same picture at rising alpha, side by side."""

from __future__ import annotations

import re
from typing import Any

import comfy.sample
import comfy.samplers
import comfy.utils
import torch
from comfy_api.latest import io

from ..animesketchnet_core.contact_sheet import contact_sheet, to_tensor
from .apply import ApplyAnimeSketchNet
from .links import EncodedSketch, SketchType
from .pictures import preview
from .schema import schema

MOST = 16  # values of alpha


class AlphaSweep(io.ComfyNode):
    """Everything that a sampler needs in, labelled grid out."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describes the node."""
        return schema(
            node_id="AnimeSketchNetAlphaSweep",
            display_name="Alpha Sweep",
            category="AnimeSketchNet",
            description="Draws the same picture, from the same noise, at several alphas, and lays "
            "them side by side: the quick way to the alpha that you want.",
            search_aliases=["xy plot", "grid", "compare weights", "alpha grid"],
            is_output_node=True,  # it shows what it made
            inputs=[
                io.Model.Input("model", tooltip="Without this sketch; the node applies it."),
                SketchType.Input("sketch", tooltip="From Encode Sketch."),
                io.Conditioning.Input("positive", tooltip="What to draw."),
                io.Conditioning.Input("negative", tooltip="What not to draw."),
                io.Latent.Input("latent_image", tooltip="Its size is drawn; usually empty."),
                io.Vae.Input("vae", tooltip="Decodes the pictures."),
                io.String.Input(
                    "alphas",
                    default="0, 0.25, 0.5, 0.75, 1",
                    tooltip=f"Values from 0 to 1 with commas between, at most {MOST}.",
                ),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=0xFFFFFFFFFFFFFFFF,
                    control_after_generate=True,
                    tooltip="Of the noise, the same for all pictures.",
                ),
                io.Int.Input(
                    "steps", default=50, min=1, max=1000, tooltip="Sampling steps of each picture."
                ),
                io.Float.Input(
                    "cfg", default=7.0, min=0.0, max=100.0, step=0.1, tooltip="As in KSampler."
                ),
                io.Combo.Input(
                    "sampler_name",
                    options=comfy.samplers.KSampler.SAMPLERS,
                    default="ddim",
                    tooltip="As in KSampler; the adapter's paper uses ddim.",
                ),
                io.Combo.Input(
                    "scheduler",
                    options=comfy.samplers.KSampler.SCHEDULERS,
                    default="ddim_uniform",
                    tooltip="As in KSampler.",
                ),
            ],
            outputs=[
                io.Image.Output("grid", display_name="grid", tooltip="One row, labelled."),
                io.Image.Output("images", display_name="images", tooltip="One for each alpha."),
            ],
        )

    @classmethod
    def validate_inputs(cls, alphas: str | None) -> bool | str:
        """Names a wrong value before anything runs."""
        try:
            parse_alphas(alphas or "0")
        except ValueError as error:
            return f"Alpha Sweep, input alphas: {error}"
        return True

    @classmethod
    def execute(
        cls,
        model: Any,
        sketch: EncodedSketch,
        positive: Any,
        negative: Any,
        latent_image: dict[str, Any],
        vae: Any,
        alphas: str,
        seed: int,
        steps: int,
        cfg: float,
        sampler_name: str,
        scheduler: str,
    ) -> io.NodeOutput:
        """Draws one alpha after the other; the progress bar covers all of them."""
        values = parse_alphas(alphas)
        latent = comfy.sample.fix_empty_latent_channels(model, latent_image["samples"])
        noise = comfy.sample.prepare_noise(latent, seed, latent_image.get("batch_index"))
        progress = comfy.utils.ProgressBar(steps * len(values))
        columns = []
        for alpha in values:
            samples = comfy.sample.sample(
                ApplyAnimeSketchNet.execute(model, sketch, alpha, 0.0, 1.0).args[0],
                noise,
                steps,
                cfg,
                sampler_name,
                scheduler,
                positive,
                negative,
                latent,
                noise_mask=latent_image.get("noise_mask"),
                callback=lambda *_: progress.update(1),
                disable_pbar=not comfy.utils.PROGRESS_BAR_ENABLED,
                seed=seed,
            )
            columns.append(vae.decode(samples))  # [b, h, w, 3]
        rows = torch.stack(columns, 1)  # [b, alphas, h, w, 3]
        sheet = contact_sheet([f"alpha {alpha:g}" for alpha in values], [("", rows)])
        grid = to_tensor(sheet)[None]
        return io.NodeOutput(grid, rows.transpose(0, 1).flatten(0, 1), ui=preview(grid))


def parse_alphas(text: str) -> list[float]:
    """Reads numbers with commas between.

    Raises:
        ValueError: says which one is none, or out of range.
    """
    pieces = [piece.strip() for piece in re.split(r"[,;\n]", text) if piece.strip()]
    try:
        values = [float(piece) for piece in pieces]
    except ValueError as error:
        raise ValueError(f"{error}; write values from 0 to 1 with commas between.") from None
    wrong = [value for value in values if not 0 <= value <= 1]
    if wrong or not 0 < len(values) <= MOST:
        raise ValueError(
            f"needed are 1 to {MOST} values from 0 to 1 with commas between, got {text!r}."
        )
    return values
