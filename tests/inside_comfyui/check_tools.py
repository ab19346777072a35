"""The nodes round the sketch: combining, files, sweeps, comparing, attention maps, info."""

from __future__ import annotations

from types import SimpleNamespace

import comfy.sample
import pytest
import torch


@pytest.fixture
def nodes(pack):
    """The nodes' execute functions by the end of their ids."""
    return SimpleNamespace(
        **{key.removeprefix("AnimeSketchNet"): node.execute for key, node in pack.nodes.items()}
    )


@pytest.fixture
def other(mini, picture):
    return mini.encode(picture(seed=2))


def test_an_average_lies_between_and_a_join_has_both(mini, nodes, other):
    one, two = mini.sketch, other
    for balance, expected in ((0, one.tokens), (1, two.tokens), (0.25, None)):
        mixed = nodes.Combine(one, two, "average", balance).args[0]
        expected = 0.75 * one.tokens + 0.25 * two.tokens if expected is None else expected
        torch.testing.assert_close(mixed.tokens, expected, rtol=0, atol=1e-5)
    joined = nodes.Combine(one, two, "join", 0.5).args[0]
    assert torch.equal(joined.tokens, torch.cat([one.tokens, two.tokens], 1))
    assert joined.unconditional.shape[1] == joined.tokens.shape[1]


def test_a_sketch_joined_with_itself_is_the_sketch(mini, nodes, apply, sample):
    joined = nodes.Combine(mini.sketch, mini.sketch, "join", 0.5).args[0]
    torch.testing.assert_close(sample(apply(sketch=joined)), sample(apply()), rtol=0, atol=1e-4)


def test_a_short_batch_starts_over_when_combined(mini, nodes):
    three = mini.encode(torch.rand(3, 31, 41, 3))
    mixed = nodes.Combine(three, mini.sketch, "average", 1.0).args[0]
    assert torch.equal(mixed.tokens, mini.sketch.tokens.expand(3, -1, -1))


def test_what_cannot_be_combined_is_told(pack, mini, nodes, other):
    joined = nodes.Combine(mini.sketch, other, "join", 0.5).args[0]
    with pytest.raises(ValueError, match=r"sketch_a has 32 tokens and sketch_b 16"):
        nodes.Combine(joined, other, "average", 0.5)
    again = pack.nodes["AnimeSketchNetMiniLoader"].execute().args
    foreign = nodes.Encode(again[4], again[3], torch.rand(1, 31, 41, 3)).args[0]
    with pytest.raises(ValueError, match="Connect one Load AnimeSketchNet to both"):
        nodes.Combine(mini.sketch, foreign, "average", 0.5)


@pytest.fixture
def output(tmp_path, monkeypatch):
    """ComfyUI's output folder, and the list of files in it, for one test."""
    import folder_paths

    monkeypatch.setattr(folder_paths, "output_directory", str(tmp_path))
    paths, extensions = folder_paths.folder_names_and_paths["animesketchnet_sketches"]
    folder = tmp_path / "animesketchnet"
    entry = ([str(folder)], extensions)
    monkeypatch.setitem(folder_paths.folder_names_and_paths, "animesketchnet_sketches", entry)
    assert len(paths) == 1
    return folder


def test_a_saved_sketch_is_listed_and_draws_the_same(pack, mini, nodes, apply, sample, output):
    nodes.SaveSketch(mini.sketch, "mine/girl")
    nodes.SaveSketch(mini.sketch, "mine/girl")
    names = sorted(path.relative_to(output).as_posix() for path in output.rglob("*.safetensors"))
    assert names == ["mine/girl_00001_.safetensors", "mine/girl_00002_.safetensors"]
    load = pack.nodes["AnimeSketchNetLoadSketch"]
    listed = next(i for i in load.define_schema().inputs if i.id == "sketch_name").options
    assert sorted(name.replace("\\", "/") for name in listed) == names
    assert load.validate_inputs(names[0]) is True
    loaded = load.execute(mini.adapter, names[0]).args[0]
    assert torch.equal(sample(apply(sketch=loaded)), sample(apply()))


def test_no_path_leaves_the_folder(pack, mini, nodes, output):
    with pytest.raises(Exception, match="outside the output folder"):
        nodes.SaveSketch(mini.sketch, "../../elsewhere/girl")
    outside = output.parent / "secret.safetensors"
    nodes.SaveSketch(mini.sketch, "girl")
    (output / "girl_00001_.safetensors").rename(outside)
    message = pack.nodes["AnimeSketchNetLoadSketch"].validate_inputs("../secret.safetensors")
    assert "is not in" in message


def test_a_sketch_of_another_adapter_is_refused(pack, mini, nodes, output):
    nodes.SaveSketch(mini.sketch, "girl")
    path = next(output.rglob("*.safetensors"))
    module = pack.module("animesketchnet_core.sketch_file")
    stored = module.SketchFile.read(path)
    module.SketchFile(stored.tokens, stored.unconditional, "other", "theirs.bin").write(path)
    with pytest.raises(ValueError, match=r"was encoded with theirs.bin, but .* mini adapter"):
        nodes.LoadSketch(mini.adapter, path.name)


def test_a_broken_file_is_named_before_anything_runs(pack, output):
    output.mkdir()
    (output / "bad.safetensors").write_bytes(b"no")
    message = pack.nodes["AnimeSketchNetLoadSketch"].validate_inputs("bad.safetensors")
    assert "bad.safetensors is damaged" in message


def _latent(batch=1):
    return {"samples": torch.zeros(batch, 4, 16, 16)}


def test_a_sweep_draws_what_the_nodes_draw_one_by_one(mini, nodes, apply):
    arguments = ("0, 0.5, 1", 7, 2, 5.0, "ddim", "ddim_uniform")
    output = nodes.AlphaSweep(
        mini.model, mini.sketch, mini.positive, mini.negative, _latent(), mini.vae, *arguments
    )
    grid, images = output.args
    assert images.shape == (3, 128, 128, 3)
    assert grid.shape[0] == 1
    assert grid.shape[2] == 3 * 128
    noise = comfy.sample.prepare_noise(_latent()["samples"], 7)
    for number, alpha in enumerate((0.0, 0.5, 1.0)):
        latent = comfy.sample.sample(
            apply(alpha=alpha),
            noise,
            2,
            5.0,
            "ddim",
            "ddim_uniform",
            mini.positive,
            mini.negative,
            _latent()["samples"],
            disable_pbar=True,
            seed=7,
        )
        assert torch.equal(images[number], mini.vae.decode(latent)[0])
    assert torch.allclose(grid[0, -128:, :128], images[0], atol=0.5 / 255 + 1e-6)


@pytest.mark.parametrize("alphas", ["", "a", "0, 2", "0.5, -1", ", ".join(["0.5"] * 17)])
def test_wrong_alphas_are_named(pack, alphas):
    node = pack.nodes["AnimeSketchNetAlphaSweep"]
    assert str(node.validate_inputs(alphas or " ")).startswith("Alpha Sweep, input alphas: ")
    assert node.validate_inputs("0, 1") is True


def test_a_picture_is_most_like_itself(mini, nodes, picture):
    pictures = torch.cat([picture(seed=1), picture(seed=2)])
    grid, mean = nodes.Compare(mini.clip_vision, picture(seed=1), pictures[:1]).args
    assert mean == pytest.approx(1, abs=1e-4)
    assert nodes.Compare(mini.clip_vision, picture(seed=1), pictures).args[1] < 1 - 1e-4
    assert grid.shape[2] == 61


def test_references_go_one_to_a_picture_when_compared(mini, nodes, picture):
    pictures = torch.cat([picture(seed=1), picture(seed=2)])
    grid, mean = nodes.Compare(mini.clip_vision, pictures, pictures.repeat(2, 1, 1, 1)).args
    assert mean == pytest.approx(1, abs=1e-4)
    assert grid.shape[2] == 4 * 61
    assert nodes.Compare(mini.clip_vision, pictures, pictures.flip(0)).args[1] < 1 - 1e-4


def test_info_tells_the_sizes(mini, nodes):
    text = nodes.Info(mini.adapter).args[0]
    assert "image tokens: 16 of width 128" in text
    assert "layers: 10, 64 to 192 wide" in text
    assert "reads: penultimate hidden states of width" in text


def test_attention_maps_are_shares_of_the_sketch(pack, mini, nodes, apply, sample):
    module = pack.module("nodes.attention_map")
    model = apply(model=apply(alpha=0.3))
    reference = module.chosen_reference(model, 2)
    latent = sample(model)
    places = module.watch(model, reference, mini.positive, latent, 0.5)
    assert places.shape == (16, 16, 16)
    torch.testing.assert_close(places.sum(0), torch.ones(16, 16), rtol=0, atol=1e-4)
    patches = reference.origin.patches
    torch.testing.assert_close(patches.sum(-1), torch.ones(1, 16), rtol=0, atol=1e-5)
    assert len(reference.origin.seen) == 1


def test_a_region_is_followed_back_to_the_sketch(pack):
    """Two places, two tokens, four patches: the left half of the picture comes from patch 2."""
    module = pack.module("nodes.attention_map")
    links = pack.module("nodes.links")
    uses = torch.tensor([[1.0, 0.0], [0.0, 1.0]])  # [tokens, places]
    patches = torch.zeros(1, 2, 5)
    patches[0, 0, 2] = 1.0  # the class token is patch 0
    patches[0, 1, 3] = 1.0
    origin = links.SketchOrigin(torch.ones(1, 8, 8, 3), patches)
    weights = module.region_weights(torch.tensor([[1.0, 0.0]]), (1, 2))
    drawn = module.region_overlay(origin, uses, weights, 8)[0]
    redness = drawn[..., 0] - drawn[..., 2]
    assert redness[0, 7] > 0.5  # patch 2: upper right
    assert redness[0, 0] < 0.1
    assert redness[7, 0] < 0.1


def test_the_attention_map_node_shows_tokens_and_region(mini, nodes, apply, sample):
    model = apply(alpha=1.0)
    samples = {"samples": sample(model)}
    region = torch.zeros(1, 40, 40)
    region[:, :20] = 1
    tokens, sketch = nodes.AttentionMap(
        model, mini.positive, samples, mini.vae, 0.5, 1, region
    ).args
    assert tokens.shape[2] == 16 * 128
    assert sketch.shape == (1, 128, 128, 3)
    assert sketch.std() > 0
    whole = nodes.AttentionMap(model, mini.positive, samples, mini.vae, 0.5, 1).args[1]
    assert not torch.allclose(sketch, whole, atol=1e-3)


def test_attention_maps_leave_the_model_alone(mini, nodes, apply, sample):
    model = apply()
    before = sample(model)
    nodes.AttentionMap(model, mini.positive, {"samples": before}, mini.vae, 0.5, 1)
    assert torch.equal(sample(model), before)


def test_what_cannot_be_mapped_is_told(mini, nodes, apply, sample):
    latent = {"samples": torch.zeros(1, 4, 16, 16)}
    with pytest.raises(ValueError, match=r"reference is 1, but 0 sketches act"):
        nodes.AttentionMap(mini.model, mini.positive, latent, mini.vae, 0.5, 1)
    with pytest.raises(ValueError, match=r"rests at percent 0.9"):
        nodes.AttentionMap(apply(end_percent=0.5), mini.positive, latent, mini.vae, 0.9, 1)
    with pytest.raises(ValueError, match="region is empty"):
        nodes.AttentionMap(apply(), mini.positive, latent, mini.vae, 0.5, 1, torch.zeros(1, 8, 8))


def test_a_curve_is_a_preset_or_its_points(pack, nodes):
    curve = nodes.AlphaOverSteps("custom", "0:1, 0.5:2, 1:0").args[0]
    assert curve.at(0.25) == 1.5
    assert nodes.AlphaOverSteps("fade out", "nonsense").args[0].at(0.5) == 0.5
    node = pack.nodes["AnimeSketchNetAlphaOverSteps"]
    assert "'nonsense' is no point" in node.validate_inputs("custom", "nonsense")
    assert node.validate_inputs("fade out", "nonsense") is True


def test_tiles_stand_beside_the_whole_sketch(mini, nodes, apply, sample):
    image = torch.rand(2, 60, 90, 3, generator=torch.Generator().manual_seed(4))
    sketch, seen = nodes.Encode(mini.adapter, mini.clip_vision, image, 2).args
    whole = nodes.Encode(mini.adapter, mini.clip_vision, image).args[0]
    corner = nodes.Encode(mini.adapter, mini.clip_vision, image[:, :30, :30]).args[0]
    assert sketch.tokens.shape == (2, 7 * 16, 128)
    assert len(seen) == 7 * 2
    torch.testing.assert_close(sketch.tokens[:, :16], whole.tokens, rtol=0, atol=1e-4)
    torch.testing.assert_close(sketch.tokens[:, 16:32], corner.tokens, rtol=0, atol=1e-4)
    assert torch.isfinite(sample(apply(sketch=sketch), batch=2)).all()
