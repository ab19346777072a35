"""How a sketch gets into ComfyUI's sampling: patches in the layers, three wrappers around them.

Each wrapper sees what the next one cannot: the guider knows the roles of the conditionings and the
noise schedule, the call for all conditionings knows their lists, the call of the UNet its batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from comfy.patcher_extension import WrappersMP
from torch import Tensor

from ..animesketchnet_core.unet_layers import CrossAttentionLayer
from .alpha_mask import Area
from .attention_patch import add_to_patches, chain_short_patches
from .reference import SketchReference
from .roles import Conds, own_entries, sketch_gets
from .strength import NoiseSchedule
from .unet_call import CALL, REFERENCES, STEP, Prompt, SamplingStep, prepare_call

KEY = "animesketchnet"  # of our wrappers, and of the sampling run in transformer_options
MARKS = "animesketchnet"  # in a conditioning: keys of the references that are for it


@dataclass(frozen=True, eq=False)
class SamplingRun:
    """One run of a sampler.

    Attributes:
        guider: ComfyUI's guider; it replaces its conds while it starts, so they are read late.
        schedule: the model's noise schedule.
    """

    guider: Any
    schedule: NoiseSchedule

    def __deepcopy__(self, memo: dict[int, Any]) -> SamplingRun:
        return self  # whoever copies the options must not copy the model that the guider holds


def install(model: Any, layers: Iterable[CrossAttentionLayer], reference: SketchReference) -> None:
    """Puts a reference into a ModelPatcher that nobody else holds yet, that is, a fresh clone."""
    options = dict(model.model_options["transformer_options"])
    replace = dict(options.get("patches_replace", {}))
    replace["attn2"] = add_to_patches(replace.get("attn2", {}), layers, reference)
    options["patches_replace"] = replace
    options[REFERENCES] = (*options.get(REFERENCES, ()), reference)
    model.model_options["transformer_options"] = options
    for kind, wrapper in _WRAPPERS.items():
        if not model.get_wrappers(kind, KEY):
            model.add_wrapper_with_key(kind, KEY, wrapper)


def start_run(executor: Any, noise: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """Around the whole sampling: keeps the guider in reach and finds the sigma ranges."""
    guider = executor.class_obj
    options = guider.model_options["transformer_options"]  # ComfyUI's guider: its own for this run
    references: Sequence[SketchReference] = options.get(REFERENCES, ())
    _check_batch(references, len(noise))
    model_sampling = guider.model_patcher.get_model_object("model_sampling")
    options[KEY] = SamplingRun(guider, NoiseSchedule(model_sampling))
    try:
        return executor(noise, *args, **kwargs)
    finally:
        options.pop(KEY, None)  # some guiders keep their options, and with them the guider itself


def start_step(
    executor: Any,
    model: Any,
    conds: Sequence[Conds | None],
    x: Tensor,
    timestep: Tensor,
    model_options: Mapping[str, Any],
) -> Any:
    """Around one evaluation for all conditionings: finds roles, prompts and active references.

    This is the only place that waits for the device, once, and only if alpha changes over steps.
    """
    options = model_options["transformer_options"]
    references: Sequence[SketchReference] = options.get(REFERENCES, ())
    run: SamplingRun | None = options.get(KEY)
    guider = run.guider if run else None
    schedule = run.schedule if run else NoiseSchedule(model.model_sampling)
    step = SamplingStep(
        gets_sketch=sketch_gets(conds, guider),
        prompts=_prompts(conds, guider),
        alphas=_alphas(references, schedule, timestep),
        latent=(x.shape[-2], x.shape[-1]),
    )
    model_options = {**model_options, "transformer_options": {**options, STEP: step}}
    return executor(model, conds, x, timestep, model_options)


def start_call(
    executor: Any,
    x: Tensor,
    t: Tensor,
    c_concat: Tensor | None = None,
    c_crossattn: Tensor | None = None,
    control: Any = None,
    transformer_options: Mapping[str, Any] | None = None,
    **kwargs: Any,
) -> Tensor:
    """Around one call of the UNet: lays out K' and V', and chains patches of the short form."""
    options = dict(transformer_options or {})
    base_model = executor.class_obj
    dtype = base_model.manual_cast_dtype or base_model.get_dtype()
    options[CALL] = prepare_call(options, len(x), x.device, dtype)
    replace = options.get("patches_replace", {})
    attn2 = chain_short_patches(replace.get("attn2", {}))
    options["patches_replace"] = {**replace, "attn2": attn2}
    return executor(x, t, c_concat, c_crossattn, control, options, **kwargs)


_WRAPPERS: dict[str, Callable[..., Any]] = {
    WrappersMP.OUTER_SAMPLE: start_run,
    WrappersMP.CALC_COND_BATCH: start_step,
    WrappersMP.APPLY_MODEL: start_call,
}


def _prompts(conds: Sequence[Conds | None], guider: Any) -> dict[tuple[int, Any], Prompt]:
    own = own_entries(conds, guider)
    return {
        (number, entry.get("uuid")): Prompt(
            marks=frozenset(entry.get(MARKS, ()) if mine else ()), area=_area(entry)
        )
        for number, entry, mine in own
    }


def _area(entry: Mapping[str, Any]) -> Area | None:
    area = entry.get("area")
    if area is None or len(area) != 4:  # of a video: (frames, height, width, ...)
        return None
    height, width, top, left = area
    return height, width, top, left


def _alphas(
    references: Sequence[SketchReference], schedule: NoiseSchedule, timestep: Tensor
) -> dict[int, float]:
    """Alpha of each reference that acts in this step, by its key."""
    constant = all(reference.strength.constant for reference in references)
    sigma = 0.0 if constant else float(timestep.flatten()[0])
    alphas = {
        r.key: r.strength.alpha if r.strength.constant else schedule.alpha(r.strength, sigma)
        for r in references
    }
    return {key: alpha for key, alpha in alphas.items() if alpha != 0}


def _check_batch(references: Sequence[SketchReference], latents: int) -> None:
    for reference in references:
        if reference.count > latents:
            raise ValueError(
                f"Apply AnimeSketchNet: the input sketch holds {reference.count} sketches, one "
                f"for each latent, but the latent batch has {latents}. Set batch_size to "
                f"{reference.count}, or encode {latents} of the sketches."
            )
        if reference.mask is not None and reference.mask.count > latents:
            raise ValueError(
                f"Apply AnimeSketchNet: the input mask holds {reference.mask.count} masks, one for "
                f"each latent, but the latent batch has {latents}. Give one mask for all, or set "
                f"batch_size to {reference.mask.count}."
            )
