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
from .attention_patch import add_to_patches, chain_short_patches
from .reference import SketchReference
from .roles import Conds, sketch_gets
from .unet_call import CALL, REFERENCES, STEP, SamplingStep, prepare_call

KEY = "animesketchnet"  # of our wrappers, and of the sampling run in transformer_options


@dataclass(frozen=True, eq=False)
class SamplingRun:
    """One run of a sampler.

    Attributes:
        guider: ComfyUI's guider; it replaces its conds while it starts, so they are read late.
        ranges: by reference key, (sigma to start at, sigma to end at).
    """

    guider: Any
    ranges: Mapping[int, tuple[float, float]]

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
    schedule = guider.model_patcher.get_model_object("model_sampling")
    options[KEY] = SamplingRun(guider, sigma_ranges(references, schedule))
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
    """Around one evaluation for all conditionings: finds roles and active references.

    This is the only place that waits for the device, once, and only if a reference has a range.
    """
    options = model_options["transformer_options"]
    references: Sequence[SketchReference] = options.get(REFERENCES, ())
    run: SamplingRun | None = options.get(KEY)
    ranges = run.ranges if run else sigma_ranges(references, model.model_sampling)
    step = SamplingStep(
        gets_sketch=sketch_gets(conds, run.guider if run else None),
        active=_active(references, ranges, timestep),
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


def sigma_ranges(
    references: Iterable[SketchReference], schedule: Any
) -> dict[int, tuple[float, float]]:
    """Translates each reference's percent range to sigmas, which fall while sampling."""
    return {
        reference.key: (
            float(schedule.percent_to_sigma(reference.start_percent)),
            float(schedule.percent_to_sigma(reference.end_percent)),
        )
        for reference in references
    }


def _active(
    references: Sequence[SketchReference],
    ranges: Mapping[int, tuple[float, float]],
    timestep: Tensor,
) -> frozenset[int]:
    always = {reference.key for reference in references if reference.always_active}
    ranged = [reference.key for reference in references if reference.key not in always]
    if not ranged:
        return frozenset(always)
    sigma = float(timestep.flatten()[0])
    return frozenset(always.union(k for k in ranged if ranges[k][1] <= sigma <= ranges[k][0]))


def _check_batch(references: Sequence[SketchReference], latents: int) -> None:
    for reference in references:
        if reference.count > latents:
            raise ValueError(
                f"Apply AnimeSketchNet: the input sketch holds {reference.count} sketches, one "
                f"for each latent, but the latent batch has {latents}. Set batch_size to "
                f"{reference.count}, or encode {latents} of the sketches."
            )
