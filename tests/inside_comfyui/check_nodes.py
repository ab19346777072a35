"""The nodes themselves: schemas, loading, encoding, messages."""

from __future__ import annotations

import os
from types import SimpleNamespace

import comfy.model_management
import comfy.utils
import folder_paths
import pytest
import torch


def test_ids_are_the_permanent_ones(pack):
    assert set(pack.nodes) == {
        "AnimeSketchNetLoader",
        "AnimeSketchNetEncoderLoader",
        "AnimeSketchNetEncode",
        "AnimeSketchNetApply",
        "AnimeSketchNetAlphaOverSteps",
        "AnimeSketchNetAlphaOverLayers",
        "AnimeSketchNetCombine",
        "AnimeSketchNetPrompt",
        "AnimeSketchNetSaveSketch",
        "AnimeSketchNetLoadSketch",
        "AnimeSketchNetAlphaSweep",
        "AnimeSketchNetAttentionMap",
        "AnimeSketchNetCompare",
        "AnimeSketchNetScore",
        "AnimeSketchNetInfo",
        "AnimeSketchNetSketchFromImage",
        "AnimeSketchNetSketchModelLoader",
        "AnimeSketchNetCleanSketch",
        "AnimeSketchNetMiniLoader",
    }


def test_every_input_and_output_has_a_tooltip_and_every_node_a_description(pack):
    for node in pack.nodes.values():
        info = node.GET_SCHEMA()
        assert info.description
        assert all(item.tooltip for item in (*info.inputs, *info.outputs)), info.node_id


def test_alpha_is_a_slider_from_zero_to_one(pack):
    options = pack.nodes["AnimeSketchNetApply"].INPUT_TYPES()["required"]["alpha"][1]
    assert (options["min"], options["max"], options["step"]) == (0.0, 1.0, 0.01)
    assert (options["default"], options["display"]) == (0.5, "slider")


def test_folders_take_weight_files_and_keep_what_was_there(pack, monkeypatch, tmp_path):
    names = {"ipadapter": (["/elsewhere"], {".pt"})}
    monkeypatch.setattr(folder_paths, "folder_names_and_paths", names)
    monkeypatch.setattr(folder_paths, "models_dir", str(tmp_path))
    register = pack.module("nodes.folders").register_folders
    register()
    register()
    assert names["ipadapter"][0] == ["/elsewhere", str(tmp_path / "ipadapter")]
    assert names["ipadapter"][1] == {".pt", ".bin", ".safetensors"}
    assert names["animesketchnet"] == (
        [str(tmp_path / "animesketchnet")],
        {".bin", ".safetensors"},
    )


@pytest.fixture
def models(monkeypatch, tmp_path):
    """Two empty model folders."""
    for name in ("animesketchnet", "ipadapter"):
        (tmp_path / name).mkdir()
        entry = ([str(tmp_path / name)], {".safetensors", ".bin"})
        monkeypatch.setitem(folder_paths.folder_names_and_paths, name, entry)
    return tmp_path


@pytest.fixture
def mini_file():
    return os.path.join(os.environ["ANIMESKETCHNET_MINI"], "adapter.safetensors")


def test_loads_a_file_of_either_folder(pack, mini, models, mini_file):
    (models / "ipadapter" / "b.safetensors").symlink_to(mini_file)
    (models / "animesketchnet" / "a.bin").symlink_to(mini_file)  # the name does not matter
    loader = pack.nodes["AnimeSketchNetLoader"]
    options = loader.INPUT_TYPES()["required"]["adapter_name"][1]["options"]
    assert options == ["a.bin", "b.safetensors"]
    for name in options:
        assert loader.validate_inputs(adapter_name=name) is True
        loaded = loader.execute(name).args[0]
        assert loaded.metadata == mini.adapter.metadata
        assert loaded.metadata.num_tokens == 16
        first, second = loaded.patcher.model.state_dict(), mini.adapter.patcher.model.state_dict()
        assert all(torch.equal(first[key], second[key]) for key in second)


def test_a_replaced_file_changes_the_fingerprint(pack, models, mini_file):
    path = models / "ipadapter" / "b.safetensors"
    fingerprint = pack.nodes["AnimeSketchNetLoader"].fingerprint_inputs
    path.write_bytes(b"one")
    before = fingerprint(adapter_name="b.safetensors")
    assert fingerprint(adapter_name="b.safetensors") == before
    path.write_bytes(b"other")
    assert fingerprint(adapter_name="b.safetensors") != before


def test_a_missing_file_is_named_with_the_folders(pack, models):
    message = pack.nodes["AnimeSketchNetLoader"].validate_inputs(adapter_name="gone.safetensors")
    assert "'gone.safetensors' is not in models/animesketchnet or models/ipadapter" in message
    assert "https://huggingface.co/h94/IP-Adapter" in message


def test_a_wrong_file_is_named_before_anything_runs(pack, models):
    unet = os.path.join(os.environ["ANIMESKETCHNET_MINI"], "unet", "model.safetensors")
    (models / "ipadapter" / "w.safetensors").symlink_to(unet)
    message = pack.nodes["AnimeSketchNetLoader"].validate_inputs(adapter_name="w.safetensors")
    assert message.startswith("Load AnimeSketchNet: w.safetensors: This is a diffusion UNet")
    assert "needed is an IP-Adapter weight file for SD v1.5 or SDXL" in message


def test_what_clip_sees_is_the_whole_sketch_on_white(pack, mini):
    encode = pack.nodes["AnimeSketchNetEncode"].execute
    black = torch.zeros(1, 90, 30, 3)
    output = encode(mini.adapter, mini.clip_vision, black)
    seen = output.args[1]
    assert seen.shape == (1, 112, 112, 3)
    assert seen[0, :, 0].min() == 1.0  # white left and right
    assert seen[0, 0, 56].max() == 0.0  # not cut at the top
    assert output.ui.as_dict()["images"][0]["type"] == "temp"


def test_tokens_are_the_cores_own(pack, mini, picture):
    core = pack.module("animesketchnet_core.clip_input")
    image = picture(seed=1)
    sketch = mini.encode(image)
    adapter = mini.adapter.patcher.model
    for pixels, tokens in (
        (core.pixel_values(core.fit_sketch(image, 112)), sketch.tokens),
        (core.unconditional_pixel_values(112), sketch.unconditional),
    ):
        states = mini.clip_vision.model(pixel_values=pixels, intermediate_output=-2)[1]
        torch.testing.assert_close(tokens, adapter.tokens(states), rtol=0, atol=1e-5)
    assert not torch.allclose(sketch.tokens, sketch.unconditional, atol=1e-3)


def test_clip_visions_own_preparation_changes_nothing_more(pack, mini, picture):
    core = pack.module("animesketchnet_core.clip_input")
    seen = core.fit_sketch(picture(seed=1), 112)
    own = mini.clip_vision.encode_image(seen)
    encode = pack.module("nodes.encode").encode
    reads = pack.module("animesketchnet_core.image_features").ImageFeatures
    ours = encode(mini.clip_vision, core.pixel_values(seen), reads.HIDDEN_STATES)
    torch.testing.assert_close(ours, own["penultimate_hidden_states"], rtol=0, atol=1e-5)
    ours = encode(mini.clip_vision, core.pixel_values(seen), reads.IMAGE_EMBEDDING)
    torch.testing.assert_close(ours, own["image_embeds"], rtol=0, atol=1e-5)


def random_adapter(pack, mini, kind, **sizes):
    """Another kind of file for the mini UNet, as Load AnimeSketchNet gives it."""
    core = pack.module("animesketchnet_core.image_projection")
    unet = pack.module("animesketchnet_core.unet_layers")
    projection = getattr(core, kind)(output_dim=128, **sizes)
    shape = unet.UNetShape.from_comfy(mini.model.model.model_config.unet_config)
    torch.manual_seed(13)
    adapter = pack.module("animesketchnet_core.adapter").AnimeSketchAdapter.from_unet(
        shape, projection
    )
    loaded = pack.module("nodes.links").LoadedAdapter
    return loaded.from_tensors(dict(adapter.state_dict()), None, "random.safetensors")


def test_a_plain_adapter_gets_the_image_embedding_and_zeros_for_no_sketch(pack, mini, picture):
    plain = random_adapter(pack, mini, "EmbeddingProjectionConfig", embedding_dim=128)
    sketch, seen = (
        pack.nodes["AnimeSketchNetEncode"]
        .execute(plain, mini.clip_vision, torch.cat([picture(seed=1), picture(seed=2)]))
        .args
    )
    adapter = plain.patcher.model
    embedding = mini.clip_vision.encode_image(seen)["image_embeds"]
    assert embedding.shape == (2, 128)
    assert sketch.tokens.shape == (2, 4, 128)
    torch.testing.assert_close(sketch.tokens, adapter.tokens(embedding), rtol=0, atol=1e-5)
    none = adapter.tokens(torch.zeros(1, 128))
    torch.testing.assert_close(sketch.unconditional, none, rtol=0, atol=1e-6)
    grey = pack.module("animesketchnet_core.clip_input").unconditional_pixel_values(112)
    of_grey = adapter.tokens(mini.clip_vision.model(grey, intermediate_output=-2)[2])
    assert not torch.allclose(sketch.unconditional, of_grey, atol=1e-3)  # not a grey picture's


def test_a_full_face_adapter_gets_hidden_states_and_grey_for_no_sketch(pack, mini, picture):
    full = random_adapter(pack, mini, "PatchProjectionConfig", embedding_dim=192)
    sketch, seen = (
        pack.nodes["AnimeSketchNetEncode"].execute(full, mini.clip_vision, picture(seed=1)).args
    )
    adapter = full.patcher.model
    states = mini.clip_vision.encode_image(seen)["penultimate_hidden_states"]
    assert sketch.tokens.shape == (1, 65, 128)  # 8 x 8 patches and the class token
    torch.testing.assert_close(sketch.tokens, adapter.tokens(states), rtol=0, atol=1e-5)
    grey = pack.module("animesketchnet_core.clip_input").unconditional_pixel_values(112)
    states = mini.clip_vision.model(grey, intermediate_output=-2)[1]
    torch.testing.assert_close(sketch.unconditional, adapter.tokens(states), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("kind", "sizes"),
    [
        ("EmbeddingProjectionConfig", {"embedding_dim": 128}),
        ("PatchProjectionConfig", {"embedding_dim": 192}),
    ],
)
def test_other_kinds_draw_with_the_same_nodes(pack, mini, apply, sample, picture, kind, sizes):
    adapter = random_adapter(pack, mini, kind, **sizes)
    encode = pack.nodes["AnimeSketchNetEncode"].execute
    drawn = [
        sample(apply(sketch=encode(adapter, mini.clip_vision, picture(seed=seed)).args[0]))
        for seed in (1, 2)
    ]
    assert not torch.allclose(drawn[0], sample(mini.model), atol=1e-2)
    assert not torch.equal(drawn[0], drawn[1])


def test_an_encoder_of_another_embedding_is_told_by_its_embedding(pack, mini, picture):
    """1280 is the width of ViT-H's hidden states, too; a plain adapter must not take those."""
    plain = random_adapter(pack, mini, "EmbeddingProjectionConfig", embedding_dim=1280)
    with pytest.raises(ValueError, match="input clip_vision") as caught:
        pack.nodes["AnimeSketchNetEncode"].execute(plain, mini.clip_vision, picture(seed=1))
    message = str(caught.value)
    assert "random.safetensors" in message
    assert "image embedding of CLIP ViT-bigG/14 (width 1280)" in message
    assert "gives image embedding of width 128 (the mini image encoder)" in message
    assert "/sdxl_models/image_encoder/model.safetensors" in message


def test_many_sketches_are_encoded_a_few_at_a_time(mini, picture, monkeypatch):
    told = []
    bar = SimpleNamespace(update=told.append)
    monkeypatch.setattr(comfy.utils, "ProgressBar", lambda total: told.append(total) or bar)
    pictures = torch.cat([picture(seed=seed) for seed in range(10)])
    tokens = mini.encode(pictures).tokens
    assert told == [11, 8, 3]  # "no sketch" is the last
    alone = torch.cat([mini.encode(each).tokens for each in pictures.split(1)])
    torch.testing.assert_close(tokens, alone)


def test_a_wrong_encoder_is_named_with_both_widths(pack, mini, picture):
    class WrongEncoder:
        image_size = 14
        load_device = torch.device("cpu")
        patcher = mini.clip_vision.patcher

        @staticmethod
        def model(pixel_values, intermediate_output):
            return None, torch.zeros(len(pixel_values), 5, 1024)

    with pytest.raises(ValueError, match="input clip_vision") as caught:
        pack.nodes["AnimeSketchNetEncode"].execute(mini.adapter, WrongEncoder(), picture(seed=1))
    message = str(caught.value)
    assert "penultimate hidden states of the mini image encoder (width 192)" in message
    assert "width 1024 (CLIP ViT-L/14)" in message
    assert "connect that node's output clip_vision" in message


def _model_with(unet_config):
    return SimpleNamespace(
        model=SimpleNamespace(model_config=SimpleNamespace(unet_config=unet_config))
    )


def test_a_model_of_another_kind_is_refused(apply, mini):
    with pytest.raises(ValueError, match=r"input model.*not a Stable Diffusion UNet"):
        apply(model=_model_with({"image_model": "flux", "depth": 19}))
    config = {**mini.model.model.model_config.unet_config, "context_dim": 768}
    with pytest.raises(ValueError, match=r"input model.*made for the mini.*MODEL is SD v1\.5"):
        apply(model=_model_with(config))
    with pytest.raises(ValueError, match=r"MODEL is SDXL.*ip-adapter-plus_sdxl_vit-h"):
        apply(model=_model_with({**config, "context_dim": 2048}))


def test_a_range_that_ends_before_it_starts_is_refused(apply):
    with pytest.raises(ValueError, match=r"start_percent 0\.8 comes after end_percent 0\.2"):
        apply(start_percent=0.8, end_percent=0.2)


def test_mini_models_are_comfyuis_own_classes(mini):
    import comfy.clip_vision
    import comfy.model_base
    import comfy.sd

    assert type(mini.model.model) is comfy.model_base.BaseModel
    assert isinstance(mini.clip, comfy.sd.CLIP)
    assert isinstance(mini.vae, comfy.sd.VAE)
    assert isinstance(mini.clip_vision, comfy.clip_vision.ClipVisionModel)


def test_the_mini_vae_gives_128_pixels(mini):
    assert mini.vae.decode(torch.randn(1, 4, 16, 16)).shape == (1, 128, 128, 3)
    assert mini.vae.encode(torch.rand(1, 128, 128, 3)).shape == (1, 4, 16, 16)


def test_sketch_from_image_draws_dark_lines_on_white(pack):
    image = torch.ones(2, 96, 128, 3)
    image[0, :, 64:] = torch.tensor([0.8, 0.3, 0.3])  # one vertical edge
    draw = pack.nodes["AnimeSketchNetSketchFromImage"].execute
    sketch = draw(image, line_width=1.0, detail=0.5).args[0]
    assert sketch.shape == image.shape
    assert sketch[1].min() > 0.99  # nothing to draw
    dark = (sketch[0, 48, :, 0] < 0.5).nonzero().flatten()
    assert len(dark) > 0
    assert (dark - 64).abs().max() <= 6


def test_old_graphs_keep_their_widgets_and_old_prompts_their_inputs(pack):
    """The first inputs, in this order, are in the graphs that people saved."""
    types = pack.nodes["AnimeSketchNetSketchFromImage"].INPUT_TYPES()
    assert list(types["required"]) == ["image", "line_width", "detail"]
    assert list(types["optional"]) == ["method", "sketch_model"]
    assert types["optional"]["method"][1]["default"] == "lines"


def test_each_method_draws_with_its_own_function(pack, picture):
    draw = pack.nodes["AnimeSketchNetSketchFromImage"].execute
    image = picture(seed=1)
    lines = pack.module("animesketchnet_core.sketch_extraction").extract_lines(image, 2.0, 0.8)
    ink = pack.module("animesketchnet_core.ink").extract_ink(image, 2.0, 0.8)
    assert not torch.allclose(lines, ink, atol=0.1)
    assert torch.equal(draw(image, 2.0, 0.8).args[0], lines)
    assert torch.equal(draw(image, 2.0, 0.8, "lines").args[0], lines)
    assert torch.equal(draw(image, 2.0, 0.8, "ink").args[0], ink)


@pytest.fixture
def sketchers(pack, monkeypatch, tmp_path):
    """A folder of sketch models with a small random generator, netG.pth, in it."""
    name = pack.module("nodes.folders").SKETCHERS
    entry = ([str(tmp_path)], {".safetensors", ".pth"})
    monkeypatch.setitem(folder_paths.folder_names_and_paths, name, entry)
    monkeypatch.setitem(folder_paths.folder_names_and_paths, "custom_nodes", ([], set()))
    monkeypatch.delenv("AUX_ANNOTATOR_CKPTS_PATH", raising=False)
    torch.manual_seed(0)
    core = pack.module("animesketchnet_core.anime2sketch")
    keys = pack.module("animesketchnet_core.anime2sketch_file").original_keys()
    net = core.Anime2Sketch(base_width=4)
    tensors = {keys[name]: 0.15 * torch.randn(p.shape) for name, p in net.named_parameters()}
    torch.save(tensors, tmp_path / "netG.pth")
    return tmp_path


def test_a_sketch_model_draws_as_the_core_does(pack, sketchers, picture):
    loader = pack.nodes["AnimeSketchNetSketchModelLoader"]
    assert loader.INPUT_TYPES()["required"]["model_name"][1]["options"] == ["netG.pth"]
    assert loader.validate_inputs(model_name="netG.pth") is True
    loaded = loader.execute("netG.pth").args[0]
    assert type(loaded.patcher.model.down[0]).__module__ == "comfy.ops"
    image = torch.cat([picture(seed=1), picture(seed=2)])
    draw = pack.nodes["AnimeSketchNetSketchFromImage"].execute
    sketch = draw(image, 2.0, 0.0, "neural", loaded).args[0]  # 512 pixels / 2
    read = pack.module("animesketchnet_core.anime2sketch_file").read_anime2sketch
    core = pack.module("animesketchnet_core.anime2sketch")
    expected = core.draw_with(read(sketchers / "netG.pth"), image, resolution=256)
    torch.testing.assert_close(sketch, expected, rtol=0, atol=1e-4)
    assert sketch.std() > 0.02


def test_detail_and_line_width_are_the_size_that_the_network_sees(pack):
    resolution = pack.module("nodes.sketch_from_image").neural_resolution
    assert resolution(1.0, 0.0) == 512  # what it was trained at
    assert resolution(1.0, 0.5) == 1024
    assert resolution(1.0, 1.0) == 2048
    assert resolution(2.0, 0.5) == 512


def test_neural_without_a_model_says_what_to_connect(pack, picture):
    draw = pack.nodes["AnimeSketchNetSketchFromImage"].execute
    with pytest.raises(ValueError, match="Connect Load Sketch Model to the input sketch_model"):
        draw(picture(seed=1), 1.0, 0.5, "neural")


def test_a_wrong_or_missing_sketch_model_is_named_before_anything_runs(pack, sketchers):
    validate = pack.nodes["AnimeSketchNetSketchModelLoader"].validate_inputs
    torch.save({"conv.weight": torch.ones(1)}, sketchers / "w.pth")
    message = validate(model_name="w.pth")
    assert message.startswith("Load Sketch Model: w.pth: This is a file of 1 tensors (conv.weight)")
    assert "lllyasviel/Annotators" in message
    message = validate(model_name="gone.pth")
    assert "'gone.pth' is not in models/animesketchnet_sketchers, which has netG.pth" in message


def test_controlnet_auxs_download_is_listed_and_read(pack, sketchers, monkeypatch, tmp_path):
    loader = pack.nodes["AnimeSketchNetSketchModelLoader"]
    listed = "comfyui_controlnet_aux/netG.pth"
    assert "is not in" in loader.validate_inputs(model_name=listed)
    for packs, setting in (
        (tmp_path / "packs", None),
        (tmp_path / "nowhere", tmp_path / "packs" / "comfyui_controlnet_aux" / "ckpts"),
    ):
        folder = tmp_path / "packs" / "comfyui_controlnet_aux" / "ckpts/lllyasviel/Annotators"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "netG.pth").write_bytes((sketchers / "netG.pth").read_bytes())
        entry = ([str(packs)], set())
        monkeypatch.setitem(folder_paths.folder_names_and_paths, "custom_nodes", entry)
        if setting:
            monkeypatch.setenv("AUX_ANNOTATOR_CKPTS_PATH", str(setting))
        assert pack.module("nodes.folders").sketcher_files()[-1] == listed
        assert loader.validate_inputs(model_name=listed) is True


def test_clean_sketch_cleans_as_the_core_does(pack):
    image = torch.full((2, 100, 120, 3), 0.7)
    image[0, 50, 20:100] = 0.1  # a stroke
    image[1, 50:52, 50:52] = 0.1  # a speck
    execute = pack.nodes["AnimeSketchNetCleanSketch"].execute
    cleaned = execute(image, whiten_paper=1.0, remove_specks=20.0, line_weight=0.0, ink=1.0).args[0]
    assert cleaned[1].min() == 1.0
    assert cleaned[0, 50, 20:100].max() < 0.05
    assert cleaned[0, :48].min() > 0.97
    core = pack.module("animesketchnet_core.sketch_cleaning").clean_sketch
    settings = {"whiten_paper": 0.3, "remove_specks": 4.0, "line_weight": 3.0, "ink": 0.2}
    assert torch.equal(execute(image, **settings).args[0], core(image, **settings))


def test_progress_runs_to_the_end_over_pictures_and_strips(pack, monkeypatch):
    seen = []
    bar = SimpleNamespace(update_absolute=seen.append)
    monkeypatch.setattr(comfy.utils, "ProgressBar", lambda total: seen.append(total) or bar)

    def work(picture, on_progress):
        on_progress(1, 2)
        return picture

    pack.module("nodes.pictures").picture_by_picture(torch.ones(2, 3, 3, 3), work)
    assert seen == [2000, 0, 500, 1000, 1500, 2000]


def test_the_work_stops_between_strips_when_interrupted(pack, sketchers, picture):
    loaded = pack.nodes["AnimeSketchNetSketchModelLoader"].execute("netG.pth").args[0]
    comfy.model_management.interrupt_current_processing(False)
    told = []

    def work(image, on_progress):
        def on_each(done, total):
            told.append(done)
            comfy.model_management.interrupt_current_processing()
            on_progress(done, total)

        return loaded.draw(image, 256, on_each)

    with pytest.raises(comfy.model_management.InterruptProcessingException):
        pack.module("nodes.pictures").picture_by_picture(picture(seed=1), work)
    assert told == [1]


def test_a_replaced_file_of_the_mini_bundle_changes_the_fingerprint(pack, monkeypatch, tmp_path):
    monkeypatch.setenv("ANIMESKETCHNET_MINI", str(tmp_path))
    weights = tmp_path / "unet" / "model.safetensors"
    weights.parent.mkdir()
    weights.write_bytes(b"old")
    fingerprint = pack.nodes["AnimeSketchNetMiniLoader"].fingerprint_inputs
    before = fingerprint()
    assert fingerprint() == before
    (tmp_path / "new").write_bytes(b"new")
    (tmp_path / "new").replace(weights)
    assert fingerprint() != before
