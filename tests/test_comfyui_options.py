"""Every node under the options that ComfyUI is started with: caches, types, attention, memory."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from conftest import Server
from numpy.typing import NDArray
from PIL import Image
from test_faults_comfyui import write_models

from comfyui_server import ComfyUIError
from tests.every_node import every_node, saving_a_sketch

pytestmark = [pytest.mark.comfyui, pytest.mark.slow]

CACHES = ("--cache-none", "--cache-lru 3", "--cache-classic", "--cache-ram 4")
ATTENTION = (
    "--use-split-cross-attention", "--use-quad-cross-attention", "--use-pytorch-cross-attention",
    "--force-upcast-attention",
)  # fmt: skip
MEMORY = ("--disable-smart-memory", "--disable-dynamic-vram", "--mmap-torch-files")
OTHERS = ("--fast", "--force-channels-last", "--deterministic", "--preview-method latent2rgb")
# By how many levels of 255 a picture may differ from one without options, on the mean.
TYPES = {"--fp16-unet": 0.1, "--bf16-unet": 1, "--fp8_e4m3fn-unet": 5, "--fp16-vae": 0.1,
         "--fp16-text-enc": 0.1, "--force-fp16": 0.1}  # fmt: skip


def drawn(comfyui: Path, base: Path, options: str) -> list[NDArray[np.float64]]:
    """The sampled picture of two runs of a graph with every node, in levels of 255."""
    graph = every_node(steps=4)
    shown = next(n for n, entry in graph.items() if entry["class_type"] == "PreviewImage")
    with Server(comfyui, base, *options.split()) as server:
        write_models(base / "models")
        server.run(saving_a_sketch(graph, "example"))
        outputs = [server.run(graph)["outputs"][shown]["images"][0] for _ in range(2)]
        pictures = [Image.open(BytesIO(server.get("/view", **output))) for output in outputs]
    return [np.asarray(picture.convert("RGB"), float) for picture in pictures]


@pytest.fixture(scope="module")
def plain(comfyui_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> NDArray[np.float64]:
    first, again = drawn(comfyui_folder, tmp_path_factory.mktemp("plain"), "")
    assert first.std() > 10
    assert np.array_equal(first, again)
    return first


@pytest.mark.parametrize("options", [*CACHES, *ATTENTION, *MEMORY, *OTHERS, *TYPES])
def test_all_nodes_draw_the_same(
    options: str, plain: NDArray[np.float64], comfyui_folder: Path, tmp_path: Path
) -> None:
    try:
        first, again = drawn(comfyui_folder, tmp_path, options)
    except ComfyUIError as error:
        if "error: unrecognized arguments" not in str(error):
            raise
        pytest.skip(f"this ComfyUI has no {options}")
    assert np.array_equal(first, again)
    difference = np.abs(first - plain)
    print(f"\n  {options}: {difference.mean():.2f} of 255 levels on the mean")  # noqa: T201
    assert difference.mean() <= TYPES.get(options, 0.01)
