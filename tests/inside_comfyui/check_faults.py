"""Memory that is refused, and work that ends in the middle: what comes of it, and what stays.

What needs a running server is in ../test_faults_comfyui.py.
"""

from __future__ import annotations

import gc
import os
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import comfy.clip_vision
import comfy.model_management
import folder_paths
import pytest
import torch
from safetensors.torch import save_file

OOM = comfy.model_management.OOM_EXCEPTION
INTERRUPTED = comfy.model_management.InterruptProcessingException


def refused_by_a_device():
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


def refused_to_comfyui():
    raise OOM("Allocation on device")


def refused_by_the_processor():
    torch.empty(1 << 50, dtype=torch.uint8)


REFUSALS = [refused_by_a_device, refused_to_comfyui, refused_by_the_processor]


@pytest.fixture(params=REFUSALS, ids=lambda refuse: refuse.__name__)
def refuse(request):
    """Runs out of memory, each time with the exception that is raised there."""
    return request.param


@pytest.fixture
def tight(mini, monkeypatch, refuse):
    """CLIP with memory for only so many pictures at once; gives the sizes of the batches it saw."""

    def limit(most):
        forward, seen = type(mini.clip_vision.model).forward, []

        def limited(pixel_values, **options):
            seen.append(len(pixel_values))
            if len(pixel_values) > most:
                refuse()
            return forward(mini.clip_vision.model, pixel_values=pixel_values, **options)

        monkeypatch.setattr(mini.clip_vision.model, "forward", limited)
        return seen

    return limit


def test_encoding_goes_on_with_half_the_pictures(mini, picture, tight):
    pictures = torch.cat([picture(seed=seed) for seed in range(10)])
    expected = mini.encode(pictures)
    seen = tight(3)
    found = mini.encode(pictures)
    assert seen == [8, 4, 2, 2, 4, 2, 2, 3]  # the tenth picture, the ninth, and "no sketch"
    torch.testing.assert_close(found.tokens, expected.tokens)
    torch.testing.assert_close(found.unconditional, expected.unconditional)


def test_what_is_too_much_for_one_picture_is_comfyuis_to_deal_with(
    pack, mini, picture, tight, refuse
):
    """ComfyUI unloads its models at an exception of its type, which must stay that."""
    kind = RuntimeError if refuse is refused_by_the_processor else OOM
    pictures = torch.cat([picture(seed=1), picture(seed=2)])
    seen = tight(0)
    nodes = {key.removeprefix("AnimeSketchNet"): node.execute for key, node in pack.nodes.items()}
    for work in (
        lambda: nodes["Encode"](mini.adapter, mini.clip_vision, pictures),
        lambda: nodes["Encode"](mini.adapter, mini.clip_vision, pictures, tiles=2),
        lambda: nodes["Compare"](mini.clip_vision, pictures, pictures),
        lambda: nodes["Score"](pictures, mini.clip_vision, pictures),
    ):
        seen.clear()
        with pytest.raises(kind, match=r"llocat") as caught:
            work()
        assert type(caught.value) is kind
        assert caught.value.__cause__ is None
        assert seen[-1] == 1


def test_other_errors_are_not_tried_again(mini, picture, monkeypatch):
    seen = []

    def broken(pixel_values, **options):
        seen.append(len(pixel_values))
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    monkeypatch.setattr(mini.clip_vision.model, "forward", broken)
    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        mini.encode(picture(seed=1))
    assert seen == [2]


def test_the_sketch_model_goes_on_with_as_little_as_it_can(pack, monkeypatch, refuse):
    core = pack.module("animesketchnet_core.anime2sketch")
    torch.manual_seed(0)
    net = core.Anime2Sketch(base_width=4).requires_grad_(False)
    device = torch.device("cpu")
    patcher = pack.module("nodes.links").Patcher(net, load_device=device, offload_device=device)
    model = pack.module("nodes.sketch_model").LoadedSketchModel(patcher)
    image = torch.rand(1, 700, 500, 3, generator=torch.Generator().manual_seed(1))
    expected = model.draw(image, 512, lambda done, total: None)
    passages, most = [], [0]
    make = pack.module("animesketchnet_core.anime2sketch_strips")._Passage

    class Passage(make):
        def __init__(self, *arguments):
            super().__init__(*arguments)
            passages.append(self.kept)

        def _strokes_from_deeper(self):
            if self.kept < most[0]:
                refuse()
            return super()._strokes_from_deeper()

    monkeypatch.setattr(pack.module("animesketchnet_core.anime2sketch_strips"), "_Passage", Passage)
    most[0] = 3
    found = model.draw(image, 512, lambda done, total: None)
    assert passages == [0, 3]
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)
    most[0] = 4
    with pytest.raises(RuntimeError, match="llocat") as caught:
        model.draw(image, 512, lambda done, total: None)
    assert isinstance(caught.value, OOM) == (refuse is not refused_by_the_processor)


def test_an_encoder_too_large_for_the_memory_is_not_called_a_wrong_one(
    pack, mini, monkeypatch, tmp_path, refuse
):
    entry = ([str(tmp_path)], {".safetensors"})
    monkeypatch.setitem(folder_paths.folder_names_and_paths, "clip_vision", entry)
    mini_encoder = Path(os.environ["ANIMESKETCHNET_MINI"], "image_encoder", "model.safetensors")
    (tmp_path / "m.safetensors").symlink_to(mini_encoder)
    monkeypatch.setattr(comfy.clip_vision, "load", lambda path: refuse())
    with pytest.raises(RuntimeError, match="llocat") as caught:
        pack.nodes["AnimeSketchNetEncoderLoader"].execute(mini.adapter)
    assert isinstance(caught.value, OOM) == (refuse is not refused_by_the_processor)


# ------------------------------------------------------------------------------ while sampling


def stop_by_the_user():
    comfy.model_management.interrupt_current_processing()  # the next layer sees it


@pytest.fixture
def workers(pack, mini, apply, sample):
    """What samples with sketches: each takes a model with a sketch and gives a tensor."""
    latent = {"samples": torch.zeros(1, 4, 16, 16)}
    arguments = ("0.5, 1", 7, 2, 5.0, "ddim", "ddim_uniform")
    prompts = (mini.positive, mini.negative)
    sweep = pack.nodes["AnimeSketchNetAlphaSweep"].execute
    look = pack.nodes["AnimeSketchNetAttentionMap"].execute
    return {
        "sampler": sample,
        "Alpha Sweep": lambda model: sweep(
            mini.model, mini.sketch, *prompts, latent, mini.vae, *arguments
        ).args[1],
        "Attention Map": lambda model: look(model, prompts[0], latent, mini.vae, 0.5, 1).args[0],
    }


@pytest.mark.parametrize("worker", ["sampler", "Alpha Sweep", "Attention Map"])
@pytest.mark.parametrize(
    ("end", "kind"),
    [(refused_by_a_device, OOM), (stop_by_the_user, INTERRUPTED)],
    ids=["memory", "interruption"],
)
def test_what_ends_in_the_middle_leaves_nothing_behind(
    pack, mini, apply, workers, monkeypatch, worker, end, kind
):
    work, model = workers[worker], apply(alpha=0.5)
    undisturbed = work(model)
    plain = workers["sampler"](mini.model)
    before = state_of(pack, mini.model, model)

    patches = pack.module("nodes.attention_patch")
    attention, calls = patches.optimized_attention, []

    def ending(*arguments, **options):
        calls.append(None)
        if len(calls) == 5:
            end()
        return attention(*arguments, **options)

    for _ in range(2):
        calls.clear()
        with monkeypatch.context() as patched:
            patched.setattr(patches, "optimized_attention", ending)
            with pytest.raises(kind) as caught:
                work(model)
        assert type(caught.value) is kind
        assert len(calls) <= 6  # the layer ends whose other branch was to come
        if kind is OOM:
            comfy.model_management.unload_all_models()  # what ComfyUI does then
        del caught
        assert state_of(pack, mini.model, model) == before
    assert not comfy.model_management.processing_interrupted()
    assert torch.equal(work(model), undisturbed)
    assert torch.equal(workers["sampler"](mini.model), plain)


def state_of(pack, *models):
    """What a run that ended could leave behind: options, patches, hooks, objects."""
    gc.collect()
    reference = pack.module("nodes.reference").SketchReference
    run = pack.module("nodes.sampling").SamplingRun
    alive = Counter(type(thing) for thing in gc.get_objects())
    return [alive[kind] for kind in (reference, run, torch.Tensor)], [
        (
            sorted(model.model_options["transformer_options"]),
            sorted(model.model_options["transformer_options"].get("patches_replace", {})),
            sorted(model.patches),
            sorted(model.object_patches_backup),
            {kind: sorted(keys) for kind, keys in model.wrappers.items()},
            model.is_injected,
            sum(len(m._forward_hooks) for m in model.model.modules()),
            "forward" in vars(model.model.diffusion_model),
        )
        for model in models
    ]


# ------------------------------------------------------------------------------ files


def test_a_copy_with_the_time_of_the_file_it_replaces_is_another(pack, tmp_path):
    stamp = pack.module("nodes.folders").file_stamp
    path, other = tmp_path / "a.safetensors", tmp_path / "b"
    save_file({"x": torch.zeros(3)}, path)
    first = stamp(path)
    assert stamp(path) == first
    save_file({"x": torch.ones(3)}, other)
    os.utime(other, ns=(path.stat().st_atime_ns, path.stat().st_mtime_ns))
    other.replace(path)
    assert stamp(path) != first


def test_a_preview_on_a_full_disk_is_told_with_the_fix(pack, mini, picture, monkeypatch, tmp_path):
    from PIL import Image

    def full(self, path, **options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(folder_paths, "temp_directory", str(tmp_path / "temp"))
    monkeypatch.setattr(Image.Image, "save", full)
    with pytest.raises(OSError, match=r"temp cannot be written \(.*No space left.*Make room on"):
        mini.encode(picture(seed=1))
    assert list((tmp_path / "temp").iterdir()) == []


def test_an_interruption_between_pictures_of_a_score(pack, picture, monkeypatch):
    told = []

    def update(value):
        told.append(value)
        comfy.model_management.interrupt_current_processing()

    bar = SimpleNamespace(update_absolute=update)
    monkeypatch.setattr(comfy.utils, "ProgressBar", lambda total: bar)
    pictures = torch.cat([picture(seed=seed) for seed in range(4)])
    with pytest.raises(INTERRUPTED):
        pack.nodes["AnimeSketchNetScore"].execute(pictures)
    assert told == [1000]
