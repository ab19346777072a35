"""A real ComfyUI draws the cases of a workflow, from the noise of all other methods."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from comfyui_server import ComfyUIError, ComfyUIServer, free_port
from comfyui_workflow import WorkflowError
from training.evaluation.cases import Case, Pair
from training.evaluation.methods.comfyui import ComfyUIMethod
from training.evaluation.noise import noise
from training.models import load_base
from training.sample import ddim_sample
from training.settings import ConfigError

ROOT = Path(__file__).resolve().parents[1]
QUICKSTART = json.loads((ROOT / "workflows/api/mini_quickstart.json").read_text("utf-8"))
SAMPLER, APPLY, LATENT, SAVE = "8", "4", "7", "10"
STEPS, GUIDANCE = 4, 3.0


def write(folder: Path, **changes: dict[str, Any]) -> Path:
    """Writes the shipped workflow with few steps and other inputs, by the node's id."""
    workflow = copy.deepcopy(QUICKSTART)
    for node, inputs in {f"n{SAMPLER}": {"steps": STEPS}, **changes}.items():
        workflow[node[1:]]["inputs"].update(inputs)
    path = folder / "workflow.json"
    path.write_text(json.dumps(workflow), encoding="utf-8")
    return path


def case(folder: Path, seed: int = 3, prompt: str = "anime sketch of a sad face") -> Case:
    return Case(Pair("wink", prompt, folder / "reference.png"), seed)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a reference: black strokes on a transparent ground that is black beneath."""
    with Image.open(ROOT / "workflows/animesketchnet_reference.png") as picture:
        opacity = Image.eval(picture.convert("L"), lambda tone: 255 - tone)
    Image.merge("LA", (Image.new("L", opacity.size), opacity)).save(tmp_path / "reference.png")
    return tmp_path


def test_without_the_sketch_it_draws_what_our_sampler_draws(
    comfyui: ComfyUIServer, folder: Path
) -> None:
    method = ComfyUIMethod(write(folder, n4={"alpha": 0.0}), comfyui.url)
    [drawn] = method.draw([case(folder)])
    base = load_base("mini")
    noises = torch.cat([noise(case(folder, seed), 4, 16, 16) for seed in (3, 4)])
    noises *= (1 - base.alphas_cumprod[751]).sqrt()  # ComfyUI's, as some of the picture is there
    latents = ddim_sample(
        base, None, 2 * [case(folder).pair.prompt], None, None, 0.0, noises,
        steps=STEPS, guidance=GUIDANCE,
    )  # fmt: skip
    ours, other = base.decode_latents(latents).movedim(1, -1)
    assert drawn.shape == (128, 128, 3)
    assert drawn.dtype == torch.float32
    # ComfyUI's last step goes to no noise at all, ours to what SD v1 has left at its step 0.
    assert (drawn - ours).abs().mean() < 0.005
    assert (drawn - other).abs().mean() > 0.03


def test_seed_prompt_and_reference_count_and_neighbours_do_not(
    comfyui: ComfyUIServer, folder: Path
) -> None:
    method = ComfyUIMethod(write(folder, n4={"alpha": 1.0}), comfyui.url)
    first, seed, prompt = method.draw(
        [case(folder), case(folder, seed=4), case(folder, prompt="anime sketch of a beard")]
    )
    [again] = method.draw([case(folder)])
    assert torch.equal(again, first)
    with Image.open(folder / "reference.png") as picture:  # the same on white, opaque
        white = Image.new("LA", picture.size, (255, 255))
        Image.alpha_composite(white.convert("RGBA"), picture.convert("RGBA")).save(
            folder / "reference.png"
        )
    [opaque] = method.draw([case(folder)])
    assert torch.equal(opaque, first)
    with Image.open(ROOT / "workflows/animesketchnet_reference_2.png") as picture:
        picture.save(folder / "reference.png")
    [reference] = method.draw([case(folder)])
    for other in (seed, prompt, reference):
        assert (other - first).abs().max() > 0.05


def test_a_failing_node_is_told_in_the_servers_words(comfyui: ComfyUIServer, folder: Path) -> None:
    refused = ComfyUIMethod(write(folder, n7={"width": 0}), comfyui.url)
    with pytest.raises(ComfyUIError, match=r"node 7 \(EmptyLatentImage\).*smaller than min"):
        refused.draw([case(folder)])
    failing = ComfyUIMethod(write(folder, n10={"filename_prefix": "../../out"}), comfyui.url)
    with pytest.raises(ComfyUIError, match=r"node 10 \(SaveImage\) failed: .*outside"):
        failing.draw([case(folder)])


def test_several_pictures_for_a_case_are_an_error(comfyui: ComfyUIServer, folder: Path) -> None:
    method = ComfyUIMethod(write(folder, n7={"batch_size": 2}), comfyui.url)
    with pytest.raises(ComfyUIError, match="saved 2 pictures for wink-003, needed is one"):
        method.draw([case(folder)])


def test_no_server_is_an_error(folder: Path) -> None:
    method = ComfyUIMethod(write(folder), f"http://127.0.0.1:{free_port()}/")
    with pytest.raises(
        ComfyUIError, match=r"ComfyUI at http://127\.0\.0\.1:\d+ gives no answer.*r"
    ):
        method.draw([case(folder)])


def test_a_pair_without_a_reference_is_an_error(folder: Path) -> None:
    with pytest.raises(ValueError, match="pair wink has no reference"):
        ComfyUIMethod(write(folder)).draw([Case(Pair("wink", "a girl"), 0)])


@pytest.mark.parametrize("kind", ["KSampler", "LoadImage", "SaveImage"])
def test_a_workflow_that_lacks_a_node_is_refused(tmp_path: Path, kind: str) -> None:
    left = {key: node for key, node in QUICKSTART.items() if node["class_type"] != kind}
    (tmp_path / "workflow.json").write_text(json.dumps(left))
    with pytest.raises(WorkflowError, match=f"has no {kind} node"):
        ComfyUIMethod(tmp_path / "workflow.json")


@pytest.mark.parametrize("address", ["127.0.0.1:8188", "https://a:1", "http://a:port", "", "http:"])
def test_an_address_that_is_none_is_refused(folder: Path, address: str) -> None:
    with pytest.raises(ConfigError, match=r"expected one such as http://127\.0\.0\.1:8188"):
        ComfyUIMethod(write(folder), address)


def test_the_recipe_is_the_workflow(folder: Path) -> None:
    recipe = ComfyUIMethod(write(folder)).recipe
    assert ComfyUIMethod(write(folder), "http://localhost:1").recipe == recipe
    assert ComfyUIMethod(write(folder, n8={"cfg": 5.0})).recipe != recipe
