"""Which alpha? Text alignment against fidelity to the reference, and the one to start from.

Both are put on a scale from chance to the best that there is: of the text, 0 is what pictures get
when they are held against other pairs' prompts, and 1 what they get at the least alpha; of the
reference, 0 is what they get at the least alpha, which hardly sees it, and 1 the most of all
alphas. Recommended is the alpha with the largest harmonic mean of the two, so that neither is given
up for the other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import mean

from animesketchnet_core.weight_file import WrongAdapterError, read_adapter, write_adapter


def balance(
    text: Mapping[float, float], fidelity: Mapping[float, float], chance: float
) -> dict[float, float]:
    """How well each alpha serves prompt and reference together, 0 to 1.

    Args:
        text: mean text alignment at each alpha.
        fidelity: mean fidelity to the reference at each alpha.
        chance: text alignment with other pairs' prompts.
    """
    least = min(text)
    best = max(fidelity.values())
    return {
        alpha: _harmonic(
            _share(text[alpha] - chance, text[least] - chance),
            _share(fidelity[alpha] - fidelity[least], best - fidelity[least]),
        )
        for alpha in sorted(text)
    }


def recommended(balances: Mapping[float, float]) -> float:
    """The alpha with the best balance; of equals the smallest."""
    return max(balances, key=lambda alpha: (balances[alpha], -alpha))


def write_recommendation(path: Path, alpha: float) -> None:
    """Writes the recommended alpha into the metadata of one of our weight files.

    Raises:
        WrongAdapterError: the file has no metadata of ours.
        StorageError: it cannot be written.
    """
    state_dict, metadata = read_adapter(path)
    if metadata is None:
        raise WrongAdapterError(
            f"{path} has no metadata of AnimeSketchNet, so no alpha is recommended in it. Set "
            "alpha.write = false, or convert it with `python -m training.convert`."
        )
    dtype = next(iter(state_dict.values())).dtype
    write_adapter(path, state_dict, replace(metadata, recommended_alpha=alpha), dtype)


def means(values: Mapping[float, Sequence[float]]) -> dict[float, float]:
    """Mean of each alpha's figures, without those that do not apply."""
    return {alpha: mean(v for v in found if v == v) for alpha, found in values.items()}


def _share(part: float, whole: float) -> float:
    return min(1.0, max(0.0, part / whole)) if whole > 0 else 0.0


def _harmonic(one: float, other: float) -> float:
    return 2 * one * other / (one + other) if one + other else 0.0
