"""The learning rate as a function of the step."""

from __future__ import annotations

import math

from .config import OptimizerSettings


def learning_rate(settings: OptimizerSettings, step: int, max_steps: int) -> float:
    """Computes the rate of a step.

    Args:
        settings: peak, warm-up, kind, and where the cosine ends.
        step: counts from 0.
        max_steps: the run's length; the cosine reaches its end there.
    """
    peak, warmup = settings.learning_rate, settings.warmup_steps
    if step < warmup:
        return peak * (step + 1) / (warmup + 1)
    if settings.schedule == "constant":
        return peak
    done = min(1.0, (step - warmup) / max(1, max_steps - warmup))
    share = 0.5 * (1 + math.cos(math.pi * done))  # 1 falling to 0
    return peak * (settings.final_rate + (1 - settings.final_rate) * share)
