import json
import shutil
from typing import Any

import numpy as np
import pytest
import torch
from dataset_networks import (
    QUERIES,
    SIDE,
    TAGS,
    write_blip2,
    write_blip2_itm,
    write_blip_itm,
    write_tagger,
)
from safetensors.torch import load_file, save_file
from transformers import AutoProcessor, Blip2ForConditionalGeneration, Blip2Processor

from training.dataset.captions import blip2
from training.dataset.captions.blip2 import asked, open_captioner
from training.dataset.captions.itm import open_matcher
from training.dataset.captions.wd14 import is_useful, mcut, open_tagger, prepare
from training.dataset.config import CaptionSettings, DatasetConfig
from training.loading import ModelError
from training.networks import check_memory, check_sight, dtype_for, fingerprint, weights_in
from training.settings import ConfigError, from_mapping

CPU = torch.device("cpu")
PROMPT = CaptionSettings().prompt


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A captioner, two matchers and a tagger; read only."""
    folder = tmp_path_factory.mktemp("networks")
    models = {
        "blip2": write_blip2(folder / "blip2"),
        "itm": write_blip2_itm(folder / "itm"),
        "blip": write_blip_itm(folder / "blip"),
        "tagger": write_tagger(folder / "tagger"),
    }
    return folder, models


def settings(folder, **more):
    return CaptionSettings(blip2=str(folder), **{"samples": 4, "max_new_tokens": 10, **more})


def picture(seed=0):
    return np.random.default_rng(seed).integers(0, 256, (37, 53, 3), dtype=np.uint8)


class TestCaptioner:
    def test_a_folder_that_does_not_look_is_caught_and_cured(self, tmp_path):
        folder = tmp_path / "blind"
        write_blip2(folder, knows_queries=False)
        processor = Blip2Processor.from_pretrained(folder)
        model: Any = Blip2ForConditionalGeneration.from_pretrained(folder)
        assert processor.num_query_tokens is None

        def logits(tone):
            side = np.full((SIDE, SIDE, 3), 255 * tone, dtype=np.uint8)
            inputs = processor(images=side, text=PROMPT, return_tensors="pt")
            start = torch.zeros(1, 1, dtype=torch.long)
            return model(**inputs, decoder_input_ids=start).logits[0, -1]

        with torch.no_grad():
            assert torch.equal(logits(0), logits(1))  # transformers says nothing
            with pytest.raises(ModelError, match="gives the same for every picture"):
                check_sight(logits, "caption.blip2", folder)
        captioner = open_captioner(settings(folder), CPU, 0)
        assert captioner.candidates(picture(), "p", PROMPT)

    def test_image_tokens_are_counted_in_every_input(self, folders):
        captioner = open_captioner(settings(folders[0] / "blip2"), CPU, 0)
        captioner._processor.num_query_tokens = QUERIES - 1
        with pytest.raises(ModelError, match="makes 3 image tokens where the model expects 4"):
            captioner.candidates(picture(), "p", PROMPT)

    def test_weights_that_ignore_the_picture_are_refused(self, folders, tmp_path):
        folder = shutil.copytree(folders[0] / "blip2", tmp_path / "b")
        weights = load_file(folder / "model.safetensors")
        weights["language_projection.weight"] *= 0
        save_file(weights, folder / "model.safetensors", {"format": "pt"})
        with pytest.raises(ModelError, match=r"caption\.blip2 .* does not look at"):
            open_captioner(settings(folder), CPU, 0)

    def test_an_image_token_beyond_the_vocabulary_gets_a_row_and_is_never_written(self, tmp_path):
        model: Any = write_blip2(tmp_path / "b", room=False)
        rows = model.get_input_embeddings().weight.shape[0]
        captioner = open_captioner(settings(tmp_path / "b"), CPU, 0)
        assert captioner._model.get_input_embeddings().weight.shape[0] == rows + 1
        assert captioner._silent == [rows]
        first = captioner.candidates(picture(), "p", PROMPT)
        again = open_captioner(settings(tmp_path / "b"), CPU, 0)
        assert again.candidates(picture(), "p", PROMPT) == first
        assert not any("<image>" in text for text in first)

    def test_the_likeliest_caption_is_that_of_a_beam_search(self, folders):
        folder, models = folders
        captioner = open_captioner(settings(folder / "blip2", samples=0, beams=3), CPU, 0)
        found = captioner.candidates(picture(), "p", PROMPT)
        processor = Blip2Processor.from_pretrained(folder / "blip2")
        inputs = processor(images=picture(), text=PROMPT, return_tensors="pt")
        ids = models["blip2"].generate(
            **inputs, num_beams=3, do_sample=False, max_new_tokens=10, min_new_tokens=8,
            repetition_penalty=1.5, suppress_tokens=[models["blip2"].config.image_token_id],
        )  # fmt: skip
        text = processor.batch_decode(ids, skip_special_tokens=True)[0]
        assert found == [blip2.clean_caption(text, PROMPT)]

    def test_chance_follows_from_the_pictures_id_and_nothing_else(self, folders):
        given = settings(folders[0] / "blip2")
        one = open_captioner(given, CPU, 0)
        torch.manual_seed(1)
        a, b = (one.candidates(picture(), name, PROMPT) for name in ("a", "b"))
        other = open_captioner(given, CPU, 0)
        torch.manual_seed(2)
        assert other.candidates(picture(), "b", PROMPT) == b
        assert other.candidates(picture(), "a", PROMPT) == a
        assert a[0] == b[0]  # the likeliest is no chance
        assert set(a[1:]).isdisjoint(b[1:])
        assert open_captioner(given, CPU, 1).candidates(picture(), "a", PROMPT)[1:] != a[1:]
        assert len(a) == 5

    def test_chance_outside_is_left_as_it_was(self, folders):
        captioner = open_captioner(settings(folders[0] / "blip2"), CPU, 0)
        torch.manual_seed(3)
        expected = torch.rand(1)
        torch.manual_seed(3)
        captioner.candidates(picture(), "a", PROMPT)
        assert torch.equal(torch.rand(1), expected)

    def test_a_narrow_nucleus_leaves_nothing_to_chance(self, folders):
        given = settings(folders[0] / "blip2", top_p=0.01, beams=1)
        greedy, *samples = open_captioner(given, CPU, 0).candidates(picture(), "a", PROMPT)
        assert samples == []  # all the same as the likeliest
        assert greedy

    def test_the_picture_is_encoded_once_for_all_prompts(self, folders, monkeypatch):
        captioner = open_captioner(settings(folders[0] / "blip2"), CPU, 0)
        looks = []
        captioner._model.vision_model.encoder.register_forward_hook(lambda *_: looks.append(1))
        for prompt in (PROMPT, *(asked(q)[0] for q in CaptionSettings().questions)):
            captioner.candidates(picture(), "p", prompt)
        captioner.candidates(picture(1), "q", PROMPT)
        assert len(looks) == 2

    def test_it_answers_in_bfloat16(self, folders):
        given = settings(folders[0] / "blip2", precision="bfloat16")
        captioner = open_captioner(given, CPU, 0)
        assert {weight.dtype for weight in captioner._model.parameters()} == {torch.bfloat16}
        assert captioner.candidates(picture(), "p", PROMPT)

    def test_an_output_layer_of_its_own_is_not_tied(self, folders):
        folder, models = folders
        weights = load_file(folder / "blip2" / "model.safetensors")
        name = "language_model.lm_head.weight"
        assert not torch.equal(weights[name], weights["language_model.shared.weight"])
        captioner = open_captioner(settings(folder / "blip2"), CPU, 0)
        assert torch.equal(captioner._model.language_model.lm_head.weight, weights[name])
        assert weights_in(folder / "blip2") == sum(w.numel() for w in models["blip2"].parameters())

    def test_questions_have_a_prompt_and_a_phrase(self):
        question = "What clothes are worn? wearing {}"
        assert asked(question) == ("Question: What clothes are worn? Answer:", "wearing {}")
        with pytest.raises(ConfigError, match=r"caption\.questions has 'Who is it\?'"):
            from_mapping(CaptionSettings, {"questions": ["Who is it?"]})


class TestFolders:
    def test_none_is_set(self):
        with pytest.raises(ModelError, match=r"caption\.blip2 is empty.*blip2-flan-t5-xl"):
            open_captioner(CaptionSettings(), CPU, 0)

    def test_it_is_not_there(self, tmp_path):
        with pytest.raises(ModelError, match=r"caption\.itm is .*no config\.json.*blip2-itm-vit-g"):
            open_matcher(CaptionSettings(itm=str(tmp_path)), CPU)

    def test_another_network(self, folders):
        with pytest.raises(ModelError, match="holds a 'blip' network"):
            open_captioner(settings(folders[0] / "blip"), CPU, 0)

    def test_a_captioner_is_no_matcher(self, folders):
        given = CaptionSettings(itm=str(folders[0] / "blip2"))
        with pytest.raises(ModelError, match=r"lacks \d+ weights of Blip2ForImageTextRetrieval"):
            open_matcher(given, CPU)

    def test_a_weight_is_missing(self, folders, tmp_path):
        folder = shutil.copytree(folders[0] / "blip2", tmp_path / "b")
        weights = load_file(folder / "model.safetensors")
        del weights["qformer.layernorm.weight"]
        save_file(weights, folder / "model.safetensors", {"format": "pt"})
        with pytest.raises(ModelError, match=r"lacks 1 weights .*qformer\.layernorm\.weight"):
            open_captioner(settings(folder), CPU, 0)

    @pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json", "config.json"])
    def test_a_file_is_damaged(self, folders, tmp_path, name):
        folder = shutil.copytree(folders[0] / "blip2", tmp_path / "b")
        (folder / name).write_bytes(b"{ nothing")
        with pytest.raises(ModelError, match=r"caption\.blip2 is .*cannot be loaded"):
            open_captioner(settings(folder), CPU, 0)

    def test_pickled_weights_are_not_read(self, folders, tmp_path):
        folder = shutil.copytree(folders[0] / "blip2", tmp_path / "b")
        torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
        (folder / "model.safetensors").unlink()
        with pytest.raises(ModelError, match="safetensors"):
            open_captioner(settings(folder), CPU, 0)

    def test_weights_that_are_not_finite(self, folders, tmp_path):
        folder = shutil.copytree(folders[0] / "blip", tmp_path / "b")
        weights = load_file(folder / "model.safetensors")
        weights["itm_head.weight"][0, 0] = float("nan")
        save_file(weights, folder / "model.safetensors", {"format": "pt"})
        with pytest.raises(ModelError, match="not finite"):
            open_matcher(CaptionSettings(itm=str(folder)), CPU)

    def test_fingerprints_tell_folders_apart_wherever_they_lie(self, folders, tmp_path):
        folder = shutil.copytree(folders[0] / "blip2", tmp_path / "moved")
        before = fingerprint(str(folder))
        assert before == fingerprint(str(folders[0] / "blip2"))
        (folder / "generation_config.json").write_text("{}")
        assert fingerprint(str(folder)) != before
        assert fingerprint("") == ""

    def test_numbers_are_never_half_precision(self):
        assert dtype_for("auto", CPU) == torch.float32
        assert dtype_for("bfloat16", CPU) == torch.bfloat16
        with pytest.raises(ConfigError, match="precision"):
            from_mapping(DatasetConfig, {"caption": {"precision": "float16"}})

    def test_a_network_that_does_not_fit_says_how_much_it_needs(self, folders, monkeypatch):
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (1000, 2000))
        with pytest.raises(ModelError, match=r"weights take 0\.0 GB as torch\.bfloat16"):
            check_memory(
                folders[0] / "blip2", "caption.blip2", torch.bfloat16, torch.device("cuda")
            )


class TestMatcher:
    def test_blip2s_probability_is_that_of_its_logits(self, folders):
        folder, models = folders
        matcher = open_matcher(CaptionSettings(itm=str(folder / "itm")), CPU)
        sentences = ["a girl", "the boy holds a red hat in the garden"]
        processor = AutoProcessor.from_pretrained(folder / "itm")
        for sentence, found in zip(
            sentences, matcher.probabilities(picture(), sentences), strict=True
        ):
            inputs = processor(images=picture(), text=sentence, return_tensors="pt")
            with torch.no_grad():
                out = models["itm"](**inputs, use_image_text_matching_head=True)
            no, yes = out.logits_per_image[0].double().tolist()
            assert found == pytest.approx(1 / (1 + np.exp(no - yes)), abs=1e-6)

    def test_blips_probability_is_that_of_its_logits(self, folders):
        folder, models = folders
        matcher = open_matcher(CaptionSettings(itm=str(folder / "blip")), CPU)
        sentences = ["a girl", "a dog sits in the room"]
        processor = AutoProcessor.from_pretrained(folder / "blip")
        for sentence, found in zip(
            sentences, matcher.probabilities(picture(), sentences), strict=True
        ):
            inputs = processor(images=picture(), text=sentence, return_tensors="pt")
            with torch.no_grad():
                no, yes = models["blip"](**inputs).itm_score[0].double().tolist()
            assert found == pytest.approx(1 / (1 + np.exp(no - yes)), abs=1e-6)

    def test_a_sentence_is_scored_alike_in_any_company(self, folders):
        matcher = open_matcher(CaptionSettings(itm=str(folders[0] / "itm")), CPU)
        sentences = ["a girl", "a boy with a cat on the street", "a dog"]
        together = matcher.probabilities(picture(), sentences)
        assert together == [matcher.probabilities(picture(), [s])[0] for s in sentences]
        assert matcher.probabilities(picture(), []) == []

    def test_a_processor_that_has_sentences_beheaded_is_mended(self, folders, tmp_path):
        folder = tmp_path / "old"
        write_blip2_itm(folder, knows_queries=False)
        # As transformers leaves it, four tokens of the sentence are cut off instead of the image's.
        processor = AutoProcessor.from_pretrained(folder)
        assert processor.num_query_tokens is None
        old = open_matcher(CaptionSettings(itm=str(folder)), CPU)
        new = open_matcher(CaptionSettings(itm=str(folders[0] / "itm")), CPU)
        sentences = ["a girl in a room", "a dog in a room"]
        assert old.probabilities(picture(), sentences) == new.probabilities(picture(), sentences)

    def test_a_matcher_that_does_not_read_is_refused(self, folders, tmp_path):
        folder = shutil.copytree(folders[0] / "blip", tmp_path / "b")
        weights = load_file(folder / "model.safetensors")
        for name in ("word_embeddings.weight", "position_embeddings.weight"):
            weights[f"text_encoder.embeddings.{name}"] *= 0
        save_file(weights, folder / "model.safetensors", {"format": "pt"})
        with pytest.raises(ModelError, match="gives the same for every sentence"):
            open_matcher(CaptionSettings(itm=str(folder)), CPU)

    def test_grey_pictures_and_long_sentences(self, folders):
        matcher = open_matcher(CaptionSettings(itm=str(folders[0] / "itm")), CPU)
        grey = picture()[..., 0]
        assert matcher.probabilities(grey, ["a girl " * 400]) == pytest.approx([0.5], abs=0.5)


class TestTagger:
    def test_probabilities_are_those_of_the_padded_bgr_picture(self, folders):
        folder, models = folders
        matrix, bias = models["tagger"]
        tagger = open_tagger(CaptionSettings(tagger=str(folder / "tagger")), CPU, 1)
        wide = np.zeros((8, 16, 3), dtype=np.uint8)
        wide[...] = (200, 100, 50)  # half of the square is white
        means = (np.array([50, 100, 200]) + 255) / 2
        expected = 1 / (1 + np.exp(-(means @ matrix + bias)))
        assert tagger.probabilities(wide) == pytest.approx(expected, abs=1e-5)

    def test_prepared_pictures(self):
        prepared = prepare(np.full((10, 5, 3), (1, 2, 3), dtype=np.uint8), 10)
        assert prepared.shape == (1, 10, 10, 3)
        assert prepared.dtype == np.float32
        assert prepared[0, :, 2:7].reshape(-1, 3).tolist() == [[3, 2, 1]] * 50
        assert (prepared[0, :, :2] == 255).all()
        assert prepare(np.zeros((30, 30), dtype=np.uint8), 10).max() == 0

    def test_tags_by_thresholds(self, folders):
        folder, _ = folders
        grey = np.full((16, 16, 3), 128, dtype=np.uint8)
        tagger = open_tagger(CaptionSettings(tagger=str(folder / "tagger")), CPU, 1)
        p = dict(zip([tag[0] for tag in TAGS], tagger.probabilities(grey), strict=True))
        tags = tagger.tags(grey)
        general = {n.replace("_", " "): p[n] for n, kind, _ in TAGS if kind == 0 and p[n] > 0.35}
        general.pop("^ ^", None)  # says nothing to CLIP
        assert tags.general == pytest.approx(general, abs=1e-6)
        assert list(tags.general.values()) == sorted(tags.general.values(), reverse=True)
        names = {n.replace("_", " ") for n, kind, _ in TAGS if kind == 4 and p[n] > 0.85}
        assert set(tags.characters) == names
        assert tags.rating == max(TAGS[:3], key=lambda tag: p[tag[0]])[0]

    def test_names_can_be_left_out_and_tags_limited(self, folders):
        given = CaptionSettings(
            tagger=str(folders[0] / "tagger"), character_threshold=1.1, tag_threshold=0, most_tags=2
        )
        tags = open_tagger(given, CPU, 1).tags(np.full((16, 16, 3), 128, dtype=np.uint8))
        assert tags.characters == {}
        assert len(tags.general) == 2

    def test_maximum_cut(self, folders):
        assert mcut(np.array([0.1, 0.9, 0.2, 0.8])) == pytest.approx(0.5)
        assert mcut(np.array([0.3, 0.25, 0.9])) == pytest.approx(0.6)
        given = CaptionSettings(tagger=str(folders[0] / "tagger"), mcut=True)
        tagger = open_tagger(given, CPU, 1)
        grey = np.full((16, 16, 3), 128, dtype=np.uint8)
        p = tagger.probabilities(grey)
        general = [x for x, tag in zip(p, TAGS, strict=True) if tag[1] == 0]
        cut = mcut(np.array(general))
        wanted = {
            name.replace("_", " ")
            for x, (name, kind, _) in zip(p, TAGS, strict=True)
            if kind == 0 and x > cut and is_useful(name)
        }
        assert set(tagger.tags(grey).general) == wanted

    def test_files_that_do_not_belong_together(self, folders, tmp_path):
        folder = shutil.copytree(folders[0] / "tagger", tmp_path / "t")
        with (folder / "selected_tags.csv").open("a") as file:
            file.write("99,another,0,1\n")
        with pytest.raises(ModelError, match="gives 10 values for the 11 tags"):
            open_tagger(CaptionSettings(tagger=str(folder)), CPU, 1)

    @pytest.mark.parametrize("name", ["model.onnx", "selected_tags.csv"])
    def test_files_that_are_missing_or_damaged(self, folders, tmp_path, name):
        folder = shutil.copytree(folders[0] / "tagger", tmp_path / "t")
        (folder / name).write_bytes(b"\xff\xfe nothing")
        with pytest.raises(ModelError, match=r"cannot be read|cannot open"):
            open_tagger(CaptionSettings(tagger=str(folder)), CPU, 1)
        (folder / name).unlink()
        with pytest.raises(ModelError, match=f"there is no {name}"):
            open_tagger(CaptionSettings(tagger=str(folder)), CPU, 1)


def test_the_tiny_networks_have_the_real_names(folders):
    """Names and order of dimensions as in the published files, without their sizes."""
    keys = set(load_file(folders[0] / "blip2" / "model.safetensors"))
    assert {
        "query_tokens", "language_projection.weight", "language_model.lm_head.weight",
        "qformer.encoder.layer.0.crossattention.attention.query.weight",
        "vision_model.embeddings.class_embedding", "language_model.shared.weight",
        "language_model.encoder.block.0.layer.1.DenseReluDense.wi_0.weight",
    } <= keys  # fmt: skip
    assert json.loads((folders[0] / "itm" / "config.json").read_text())["model_type"] == "blip-2"
