"""Entry point of the node pack: ComfyUI imports this folder by its path and calls the function.

Nothing is imported until ComfyUI asks for the nodes, so tools may import the folder without it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .nodes import AnimeSketchNetExtension

WEB_DIRECTORY = "./web"  # docs/<node id>.md is the help page of a node

__all__ = ["WEB_DIRECTORY", "comfy_entrypoint"]


async def comfy_entrypoint() -> AnimeSketchNetExtension:
    """Returns the pack's nodes (ComfyUI's V3 interface)."""
    from .nodes import AnimeSketchNetExtension

    return AnimeSketchNetExtension()
