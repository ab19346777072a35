"""The node Adapter Info: what a weight file says of itself."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from comfy_api.latest import io, ui

from ..animesketchnet_core.weight_file import AdapterMetadata
from .links import AnimeSketchNetType, LoadedAdapter
from .schema import schema


class AdapterInfo(io.ComfyNode):
    """Adapter in, text out."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describes the node."""
        return schema(
            node_id="AnimeSketchNetInfo",
            display_name="Adapter Info",
            category="AnimeSketchNet",
            description="Shows what an adapter is: its sizes, the encoder and model that it is "
            "for, and what its file tells about the training.",
            search_aliases=["metadata", "model info", "inspect"],
            is_output_node=True,
            inputs=[
                AnimeSketchNetType.Input("animesketchnet", tooltip="From Load AnimeSketchNet.")
            ],
            outputs=[io.String.Output("info", display_name="info", tooltip="The same as text.")],
        )

    @classmethod
    def execute(cls, animesketchnet: LoadedAdapter) -> io.NodeOutput:
        """Writes the text."""
        text = describe(animesketchnet)
        return io.NodeOutput(text, ui=ui.PreviewText(text))


def describe(animesketchnet: LoadedAdapter) -> str:
    """Says what an adapter is, one fact a line."""
    adapter = animesketchnet.patcher.model
    config = adapter.image_proj.config
    widths = [layer.to_k_ip.weight.shape[0] for layer in adapter.ip_adapter.values()]
    facts = {
        "file": animesketchnet.name,
        "image projection": type(adapter.image_proj).__name__,
        "reads": f"{adapter.reads.value} of width {config.embedding_dim}",
        "image tokens": f"{config.num_tokens} of width {config.output_dim}",
        "layers": f"{len(widths)}, {min(widths)} to {max(widths)} wide",
        "parameters": f"{sum(p.numel() for p in adapter.parameters()):,}",
        **own_words(animesketchnet.metadata),
    }
    return "\n".join(f"{name}: {value}" for name, value in facts.items())


def own_words(metadata: AdapterMetadata | None) -> dict[str, Any]:
    """What the file's metadata says, under readable names."""
    if metadata is None:
        return {"metadata": "none that AnimeSketchNet knows"}
    values = asdict(metadata)
    training = values.pop("training")
    return {
        **{name.replace("_", " "): value for name, value in values.items()},
        **{f"training, {name.replace('_', ' ')}": value for name, value in training.items()},
    }
