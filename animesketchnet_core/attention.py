"""Decoupled cross-attention, the method's one equation (Ye et al. 2023, arXiv:2308.06721, eq. 5).

    Z = softmax(Q K^T / sqrt(d)) V + alpha * softmax(Q K'^T / sqrt(d)) V'

K, V come from the text and are the frozen UNet's; K', V' come from the sketch and are the
adapter's. ComfyUI nodes and trainer both call the function below.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Attend = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Multi-head attention of (query, key, value), each [b, n, c] with heads not yet split.

Its result is a new tensor, which may be overwritten.
"""


def decoupled_attention(
    query: Tensor, text: Tensor, key: Tensor, value: Tensor, alpha: float | Tensor, attend: Attend
) -> Tensor:
    """Adds the sketch's branch to the text's.

    The text's branch arrives computed, so that a node can chain what another patch made of it, and
    each side brings the attention backend that it uses for text.

    Args:
        query: Q, [b, n, c].
        text: the finished text branch, [b, n, c].
        key: K', [b, m, c].
        value: V', [b, m, c].
        alpha: strength of the sketch, usually 0 to 1 (1 is how it was trained); a number, or a
            tensor that broadcasts to [b, n, 1] (a mask over the picture, one value per sample).
        attend: the attention backend.

    Returns:
        Z, [b, n, c], before the layer's output projection.
    """
    image = attend(query, key, value)
    # Either way it is one pass over memory; on a CPU new memory costs as much as the attention.
    out = None if torch.is_grad_enabled() or image.dtype != text.dtype else image
    if isinstance(alpha, Tensor):  # a float32 mask must not widen a half-precision UNet
        return torch.addcmul(text, image, alpha.to(text), out=out)
    return torch.add(text, image, alpha=alpha, out=out)
