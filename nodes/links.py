"""What travels along the pack's own links."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import comfy.model_management
import comfy.model_patcher
import comfy.ops
from comfy_api.latest import io
from torch import Tensor

from ..animesketchnet_core.adapter import AnimeSketchAdapter
from ..animesketchnet_core.weight_file import AdapterMetadata

# ComfyUI from 0.16 on may keep weights on disk until they are needed; its patcher has this name.
Patcher: Any = getattr(comfy.model_patcher, "CoreModelPatcher", comfy.model_patcher.ModelPatcher)

AnimeSketchNetType = io.Custom("ANIMESKETCHNET")
SketchType = io.Custom("ANIMESKETCHNET_SKETCH")
CurveType = io.Custom("ANIMESKETCHNET_CURVE")  # an AlphaCurve
LayersType = io.Custom("ANIMESKETCHNET_LAYERS")  # a LayerAlphas


@dataclass(frozen=True, eq=False)
class LoadedAdapter:
    """An adapter in ComfyUI's care (link type ANIMESKETCHNET).

    Attributes:
        patcher: ComfyUI's handle on the adapter, which moves its weights between devices.
        metadata: what the file says of itself; None for files of other projects.
        name: the file's name, for messages.
    """

    patcher: Any
    metadata: AdapterMetadata | None
    name: str

    @classmethod
    def from_tensors(
        cls, tensors: dict[str, Tensor], metadata: AdapterMetadata | None, name: str
    ) -> LoadedAdapter:
        """Builds the adapter out of a weight file's tensors, which stay in their type."""
        load_device = comfy.model_management.text_encoder_device()
        offload_device = comfy.model_management.text_encoder_offload_device()
        adapter = AnimeSketchAdapter.from_state_dict(
            tensors, operations=comfy.ops.manual_cast, device=offload_device
        )
        patcher = Patcher(adapter.eval(), load_device=load_device, offload_device=offload_device)
        return cls(patcher, metadata, name)

    def ready(self) -> AnimeSketchAdapter:
        """Returns the adapter, its weights where they are computed with."""
        comfy.model_management.load_models_gpu([self.patcher])
        return self.patcher.model


@dataclass(frozen=True, eq=False)
class SketchOrigin:
    """Where the tokens of sketches came from.

    Attributes:
        seen: what CLIP saw of them, [n, s, s, 3].
        patches: share of each of the encoder's patches (the class token first) in each image
            token, [n, m, p].
    """

    seen: Tensor
    patches: Tensor


@dataclass(frozen=True, eq=False)
class EncodedSketch:
    """Sketches as image tokens (link type ANIMESKETCHNET_SKETCH).

    Attributes:
        adapter: the adapter that made the tokens and turns them into K' and V'.
        tokens: image tokens of each sketch, [n, m, t], float32.
        unconditional: image tokens of "no sketch", [1, m, t], float32.
        origin: where the tokens came from, None if that is not known.
    """

    adapter: LoadedAdapter
    tokens: Tensor
    unconditional: Tensor
    origin: SketchOrigin | None = None
