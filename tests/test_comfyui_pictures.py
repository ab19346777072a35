"""From sketch and prompt to picture, through a running ComfyUI and its HTTP API.

The models are the embedded ones; ANIMESKETCHNET_MINI names another bundle.
"""

from __future__ import annotations

import copy
import io
import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from animesketchnet_core.mini import MINI_FOLDER, adapter_path
from comfyui_server import ComfyUIError, ComfyUIServer
from tests import tiny_world
from training import train

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "web" / "docs"
QUICKSTART = json.loads((ROOT / "workflows/api/mini_quickstart.json").read_text(encoding="utf-8"))
REFERENCE, ENCODE, APPLY, SAMPLER = "2", "3", "4", "8"
EMPTY = {
    "class_type": "EmptyImage",
    "inputs": {"width": 8, "height": 8, "batch_size": 1, "color": 0},
}
SAVE = {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "empty"}}

Workflow = dict[str, dict[str, Any]]


@pytest.fixture(scope="module")
def quickstart(comfyui: ComfyUIServer) -> Workflow:
    """The shipped workflow with three steps."""
    return changed(QUICKSTART, {SAMPLER: {"steps": 3}})


def changed(workflow: Workflow, changes: dict[str, dict[str, Any]]) -> Workflow:
    """A copy of the workflow with other inputs."""
    workflow = copy.deepcopy(workflow)
    for node, inputs in changes.items():
        workflow[node]["inputs"].update(inputs)
    return workflow


def without_our_nodes(workflow: Workflow) -> Workflow:
    """The same graph with its sampler on the loader's own model."""
    workflow = changed(workflow, {SAMPLER: {"model": workflow[APPLY]["inputs"]["model"]}})
    return {key: node for key, node in workflow.items() if key not in (REFERENCE, ENCODE, APPLY)}


def draw(comfyui: ComfyUIServer, workflow: Workflow) -> np.ndarray:
    """Runs a workflow and returns its picture's pixels."""
    [content] = comfyui.images(comfyui.run(workflow)).values()
    return np.asarray(Image.open(io.BytesIO(content)))


def forget_results(comfyui: ComfyUIServer) -> None:
    """Runs a graph that shares nothing with the others: ComfyUI keeps the last graph's results."""
    comfyui.run({"1": EMPTY, "2": SAVE})


def test_a_picture_comes_back_with_what_clip_saw(
    comfyui: ComfyUIServer, quickstart: Workflow
) -> None:
    entry = comfyui.run(quickstart)
    [content] = comfyui.images(entry).values()
    picture = Image.open(io.BytesIO(content))
    assert (picture.size, picture.mode) == ((128, 128), "RGB")
    assert np.asarray(picture).std() > 1
    [preview] = entry["outputs"][ENCODE]["images"]
    seen = Image.open(io.BytesIO(comfyui.get("/view", **preview)))
    assert seen.size == (112, 112)


def test_alpha_zero_gives_the_bits_of_the_graph_without_our_nodes(
    comfyui: ComfyUIServer, quickstart: Workflow
) -> None:
    without = draw(comfyui, without_our_nodes(quickstart))
    zero, half = (
        draw(comfyui, changed(quickstart, {APPLY: {"alpha": alpha}})) for alpha in (0.0, 0.5)
    )
    assert np.array_equal(zero, without)
    assert not np.array_equal(half, without)


def test_the_same_graph_gives_the_same_bits(comfyui: ComfyUIServer, quickstart: Workflow) -> None:
    first = draw(comfyui, quickstart)
    forget_results(comfyui)
    assert np.array_equal(
        draw(comfyui, changed(quickstart, {"10": {"filename_prefix": "b"}})), first
    )


def test_a_second_apply_does_not_pile_up(comfyui: ComfyUIServer, quickstart: Workflow) -> None:
    """ComfyUI keeps the first node's model while the second one runs again and again."""
    twice = changed(quickstart, {SAMPLER: {"model": ["20", 0]}})
    twice["20"] = copy.deepcopy(twice[APPLY])
    twice["20"]["inputs"]["model"] = [APPLY, 0]
    pictures = [
        draw(comfyui, changed(twice, {"20": {"alpha": alpha}})) for alpha in (0.3, 0.7, 0.3, 0.0)
    ]
    assert np.array_equal(pictures[0], pictures[2])
    assert not np.array_equal(pictures[0], pictures[1])
    assert np.array_equal(pictures[3], draw(comfyui, quickstart))


def from_file(quickstart: Workflow, name: str) -> Workflow:
    """The quickstart with its adapter from a file."""
    workflow = changed(quickstart, {ENCODE: {"animesketchnet": ["12", 0]}})
    workflow["12"] = {"class_type": "AnimeSketchNetLoader", "inputs": {"adapter_name": name}}
    return workflow


@pytest.fixture
def model_folder(comfyui: ComfyUIServer) -> Path:
    folder = comfyui.base / "models" / "ipadapter"  # type: ignore[attr-defined]
    folder.mkdir(exist_ok=True)
    return folder


def test_an_adapter_from_a_file_is_the_embedded_one(
    comfyui: ComfyUIServer, quickstart: Workflow, model_folder: Path
) -> None:
    bundle = Path(os.environ.get("ANIMESKETCHNET_MINI", MINI_FOLDER))
    shutil.copyfile(adapter_path(bundle), model_folder / "mini.safetensors")
    picture = draw(comfyui, from_file(quickstart, "mini.safetensors"))
    assert np.array_equal(picture, draw(comfyui, quickstart))


def test_what_the_trainer_writes_draws_as_it_is(
    comfyui: ComfyUIServer, quickstart: Workflow, model_folder: Path, tmp_path: Path
) -> None:
    """A few steps on the mini base; the file goes to ComfyUI unchanged."""
    pictures = tiny_world.write_sketches(tmp_path / "sketches", count=6, size=128)
    steps = ("--run.max_steps", "2", "--run.batch_size", "2", "--preview.every", "0")
    data = ("--data.folders", str(pictures), "--run.output", str(tmp_path / "run"))
    config = str(ROOT / "training/configs/mini.toml")
    assert train.main(["--config", config, *data, *steps]) == 0
    shutil.copyfile(tmp_path / "run/adapter.safetensors", model_folder / "trained.safetensors")
    trained = from_file(quickstart, "trained.safetensors")
    picture = draw(comfyui, trained)
    assert picture.std() > 1
    assert not np.array_equal(picture, draw(comfyui, quickstart))
    without = draw(comfyui, without_our_nodes(quickstart))
    assert np.array_equal(draw(comfyui, changed(trained, {APPLY: {"alpha": 0.0}})), without)
    assert not np.array_equal(picture, without)


def test_a_wrong_file_is_named_before_anything_runs(
    comfyui: ComfyUIServer, quickstart: Workflow, model_folder: Path
) -> None:
    save_file({"lora_unet_mid.lora_down.weight": torch.zeros(2, 3)}, model_folder / "l.safetensors")
    with pytest.raises(ComfyUIError, match=r"(?s)node 12.*This is a LoRA.*needed is an IP-Adapter"):
        comfyui.run(from_file(quickstart, "l.safetensors"))


def test_a_missing_file_is_named_with_where_to_get_one(
    comfyui: ComfyUIServer, quickstart: Workflow
) -> None:
    with pytest.raises(ComfyUIError, match=r"(?s)'gone.safetensors' is not in models/.*https://"):
        comfyui.run(from_file(quickstart, "gone.safetensors"))


def test_alpha_above_one_is_refused(comfyui: ComfyUIServer, quickstart: Workflow) -> None:
    with pytest.raises(ComfyUIError, match=r"node 4 .*bigger than max.*alpha"):
        comfyui.run(changed(quickstart, {APPLY: {"alpha": 1.5}}))


def test_an_error_while_running_names_node_and_input(
    comfyui: ComfyUIServer, quickstart: Workflow
) -> None:
    backwards = {"start_percent": 0.8, "end_percent": 0.2}
    with pytest.raises(ComfyUIError, match=r"AnimeSketchNetApply.*start_percent 0\.8 comes after"):
        comfyui.run(changed(quickstart, {APPLY: backwards}))


def test_odd_sizes_are_drawn_and_what_is_refused_stops_nothing(
    comfyui: ComfyUIServer, quickstart: Workflow
) -> None:
    """A sketch of one pixel, a mask of another size and shape than the latent, of 2 x 3 places."""
    latent, mask = "7", {"value": 1.0, "width": 17, "height": 5}
    workflow = changed(
        quickstart, {latent: {"width": 24, "height": 16}, APPLY: {"mask": ["21", 0]}}
    )
    workflow["21"] = {"class_type": "SolidMask", "inputs": mask}
    workflow[REFERENCE] = copy.deepcopy(EMPTY)
    workflow[REFERENCE]["inputs"].update(width=1, height=1)
    refused = changed(workflow, {ENCODE: {"tiles": 2}})
    with pytest.raises(ComfyUIError, match=r"node 3 .*1 x 1 pixels, cannot be cut into 2 tiles"):
        comfyui.run(refused)
    assert draw(comfyui, workflow).ndim == 3


def test_each_node_has_a_help_page_and_three_languages(comfyui: ComfyUIServer) -> None:
    """What is served fits the definitions; test_node_texts.py reads the same from the source."""
    info = {k: v for k, v in comfyui.object_info().items() if k.startswith("AnimeSketchNet")}
    assert set(info) == {page.stem for page in DOCS.glob("*.md")}
    languages = json.loads(comfyui.get("/api/i18n"))
    for node, definition in info.items():
        page = comfyui.get(f"/extensions/AnimeSketchNet/docs/{node}.md").decode()
        assert page.startswith(f"# {definition['display_name']}\n")
        inputs = [
            *definition["input"].get("required", {}),
            *definition["input"].get("optional", {}),
        ]
        assert all(f"| {name} |" in page for name in inputs), node
        for language in ("en", "zh", "ja"):
            words = languages[language]["nodeDefs"][node]
            assert list(words["inputs"]) == inputs
            assert len(words["outputs"]) == len(definition["output"])


def test_the_pictures_of_help_pages_are_served_with_their_licence(comfyui: ComfyUIServer) -> None:
    """The frontend puts /extensions/<pack's folder>/docs/ before a page's relative addresses."""
    pictures = {
        name
        for page in DOCS.glob("*.md")
        for name in re.findall(r"!\[[^]]*\]\(([^)]*)\)", page.read_text(encoding="utf-8"))
    }
    assert pictures >= {f"{page.stem}.webp" for page in DOCS.glob("*.md")}
    assert pictures == {path.name for path in DOCS.glob("*.webp")} - {"mini_quickstart.webp"}
    for name in pictures:
        content = comfyui.get(f"/extensions/AnimeSketchNet/docs/{name}")
        assert content == (DOCS / name).read_bytes()
        assert len(content) < 150_000
    licence = comfyui.get("/extensions/AnimeSketchNet/docs/pictures.LICENSE.txt").decode()
    assert "Permission is hereby granted" in licence


def test_english_is_what_the_nodes_say(comfyui: ComfyUIServer) -> None:
    english = json.loads(comfyui.get("/api/i18n"))["en"]["nodeDefs"]
    for node, words in english.items():
        definition = comfyui.object_info(node)[node]
        assert words["display_name"] == definition["display_name"]
        assert words["description"] == definition["description"]
        for name, texts in words["inputs"].items():
            inputs = {**definition["input"]["required"], **definition["input"].get("optional", {})}
            assert texts["tooltip"] == inputs[name][1]["tooltip"]
        tooltips = [output["tooltip"] for output in words["outputs"].values()]
        assert tooltips == definition["output_tooltips"]


@pytest.mark.parametrize(
    ("name", "size"),
    [("mini_alpha_over_steps", (128, 128)), ("mini_alpha_sweep", (5 * 128, 14 + 128))],
)
def test_the_other_mini_graphs_draw(
    comfyui: ComfyUIServer, quickstart: Workflow, name: str, size: tuple[int, int]
) -> None:
    path = ROOT / "workflows/api" / f"{name}.json"
    workflow = json.loads(path.read_text(encoding="utf-8"))
    workflow[REFERENCE] = quickstart[REFERENCE]
    [sampler] = (node for node in workflow.values() if "steps" in node["inputs"])
    sampler["inputs"]["steps"] = 2
    drawn = draw(comfyui, workflow)
    assert drawn.shape == (size[1], size[0], 3)
    assert drawn.std() > 5
