import json

import numpy as np
import pytest
import torch
from dataset_networks import write_blip2, write_blip2_itm, write_tagger
from dataset_work import add_picture, open_work

from animesketchnet_core.prompt_keywords import KEYWORDS
from training.dataset import caption
from training.dataset.caption import CaptionStage
from training.dataset.captions.author import Author
from training.dataset.captions.check import check_captions
from training.dataset.captions.clip_tokens import estimate_tokens, token_counter
from training.dataset.captions.template import Template, words_of_name
from training.dataset.captions.wd14 import Tags
from training.dataset.config import CaptionSettings
from training.dataset.ledger import Picture, Source
from training.dataset.stages import pending_for
from training.loading import ModelError
from training.settings import ConfigError


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def pixels(seed=0, height=24, width=40):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def texts(work, name):
    return {picture: text.text for picture, text in work.ledger.texts(name).items()}


def verdicts(work, picture):
    return {
        d.check: d.verdict for _, stage, d in work.ledger.decisions(picture) if stage == "caption"
    }


def picture(width=40, height=24, **provenance):
    return Picture("p", "s", 0, width, height, provenance)


class TestTemplate:
    def test_formats_and_kinds(self):
        film = Template(CaptionSettings(), [Source("s", "a/e1.mkv", "film")])
        folder = Template(CaptionSettings(), [Source("s", "a/art", "folder")])
        assert film.write(picture()) == "a wide frame of a film"
        assert folder.write(picture()) == "a wide picture"
        assert folder.write(picture(24, 40)) == "a tall picture"
        assert folder.write(picture(24, 20)) == "a square picture"

    @pytest.mark.parametrize("name", ["e1", "e1.mkv", "s"])
    def test_texts_of_sources(self, name):
        given = CaptionSettings(texts=(f"{name}: a girl: with green hair.",))
        template = Template(given, [Source("s", "a/e1.mkv", "film")])
        assert template.write(picture()) == "a girl: with green hair, a wide frame of a film"

    def test_a_text_for_no_source(self):
        with pytest.raises(ConfigError, match=r"for 'e2', which is no source.*e1"):
            Template(CaptionSettings(texts=("e2: a girl",)), [Source("s", "e1.mkv", "film")])
        with pytest.raises(ConfigError, match=r"caption\.texts has 'a girl'; expected"):
            Template(CaptionSettings(texts=("a girl",)), [])

    def test_names_of_files_in_folders_only(self):
        given = CaptionSettings(from_names=True)
        shown = picture(file="Class Room/SylvieSmile_02.png")
        folder = Template(given, [Source("s", "a/art", "folder")])
        film = Template(given, [Source("s", "a/e1.mkv", "film")])
        assert folder.write(shown) == "sylvie smile, class room, a wide picture"
        assert film.write(shown) == "a wide frame of a film"

    @pytest.mark.parametrize(
        ("name", "expected"),
        [
            ("IMG_20240101_123456", ""), ("Screenshot 12", ""), ("0a1b2c3d4e5f", ""),
            ("girl_in-garden (2)", "girl in garden"), ("facade", "facade"), ("untitled-cat", "cat"),
        ],
    )  # fmt: skip
    def test_words_of_names(self, name, expected):
        assert words_of_name(name) == expected


class TestStage:
    def test_templates_offline(self, tmp_path):
        with open_work(tmp_path) as work:
            work.ledger.add_source(Source("source", "films/e1.mkv", "film"))
            add_picture(work, "p1", pixels())
            add_picture(work, "p2", pixels(height=60), 1)
            assert caption.run(work) == {"review": 2}
            assert texts(work, "caption_color") == {
                "p1": "a wide frame of a film", "p2": "a tall frame of a film",
            }  # fmt: skip
            assert texts(work, "caption_sketch")["p1"] == f"{KEYWORDS}, a wide frame of a film"
            assert caption.run(work) == {}

    def test_templates_need_no_review_if_so_set(self, tmp_path):
        with open_work(tmp_path, caption={"review_templates": False}) as work:
            add_picture(work, "p1", pixels())
            assert caption.run(work) == {"keep": 1}

    def test_captions_that_came_along(self, tmp_path):
        with open_work(tmp_path, caption={"writer": "sidecar"}) as work:
            add_picture(work, "p1", pixels(), caption="A picture of a girl with red hair.")
            add_picture(work, "p2", pixels(1), 1)
            add_picture(work, "p3", pixels(2), 2, caption="red, blue, lineart")
            assert caption.run(work) == {"keep": 1, "review": 2}
            assert texts(work, "caption_color") == {
                "p1": "a girl with red hair", "p2": "a wide picture", "p3": "red, blue",
            }  # fmt: skip
            assert texts(work, "caption_sketch") == {
                "p1": f"{KEYWORDS}, a girl with hair",
                "p2": f"{KEYWORDS}, a wide picture",
                "p3": f"{KEYWORDS}, a wide picture",
            }
            assert verdicts(work, "p2") == {"writer": "review"}
            assert verdicts(work, "p3") == {"colours": "review"}

    def test_only_a_changed_caption_is_taken_again(self, tmp_path):
        with open_work(tmp_path, caption={"writer": "sidecar"}) as work:
            for number in range(3):
                add_picture(work, f"p{number}", pixels(number), number, caption="a girl")
            caption.run(work)
            add_picture(work, "p1", pixels(1), 1, caption="a boy")
            assert [item.id for item, _ in pending_for(CaptionStage(), work)] == ["p1"]
            assert caption.run(work) == {"keep": 1}
            assert texts(work, "caption_color")["p1"] == "a boy"

    def test_all_networks_together_whatever_the_order(self, tmp_path):
        write_blip2(tmp_path / "b")
        write_blip2_itm(tmp_path / "i")
        write_tagger(tmp_path / "t")
        given = {
            "writer": "blip2", "blip2": str(tmp_path / "b"), "itm": str(tmp_path / "i"),
            "tagger": str(tmp_path / "t"), "samples": 2, "max_new_tokens": 10, "beams": 2,
        }  # fmt: skip
        told = []
        for order in ((0, 1, 2), (2, 0, 1)):
            with open_work(tmp_path / f"work{order[0]}", caption=given) as work:
                for place, number in enumerate(order):
                    add_picture(work, f"p{number}", pixels(number), place)
                caption.run(work)
                told.append(
                    [(texts(work, name), work.ledger.texts(name)["p0"].details)
                     for name in ("caption_color", "caption_sketch")]
                )  # fmt: skip
                sketches = texts(work, "caption_sketch")
                assert check_captions(["p0", "p1", "p2"], sketches, work.config.caption) == []
                scored = next(d for _, _, d in work.ledger.decisions("p0") if d.check == "itm")
        assert told[0] == told[1]
        details = told[0][0][1]
        best = max(score for _, score in details["candidates"])
        assert scored.score == best
        assert scored.threshold == 0.5
        assert (scored.verdict == "keep") == (best >= 0.5)
        taken = next(text for text, score in details["candidates"] if score == best)
        assert told[0][0][0]["p0"].startswith(taken)
        assert len(details["answers"]) == 4
        assert "red hair" in told[0][0][0]["p0"]
        assert "red hair" not in told[0][1][0]["p0"]
        assert "1girl, hair" in told[0][1][0]["p0"]

    def test_nothing_is_loaded_when_nothing_is_pending(self, tmp_path, monkeypatch):
        write_blip2(tmp_path / "b")
        given = {
            "writer": "blip2", "blip2": str(tmp_path / "b"), "samples": 0, "beams": 1,
            "questions": [], "max_new_tokens": 8,
        }  # fmt: skip
        with open_work(tmp_path / "w", caption=given) as work:
            add_picture(work, "p1", pixels())
            assert caption.run(work) == {"review": 1}
            assert verdicts(work, "p1") == {"itm": "review"}  # nobody has compared it
            monkeypatch.setattr(caption, "open_captioner", None)
            assert caption.run(work) == {}

    def test_other_keywords_do_not_cost_another_look(self, tmp_path, monkeypatch):
        given = {"writer": "sidecar", "tagger": str(tmp_path / "t")}
        write_tagger(tmp_path / "t")
        with open_work(tmp_path / "w", caption=given) as work:
            add_picture(work, "p1", pixels(), caption="a boy, ink")
            add_picture(work, "p2", pixels(1), 1, caption="red")
            assert caption.run(work) == {"keep": 1, "review": 1}
            first = texts(work, "caption_color"), verdicts(work, "p1")
        looks = []
        monkeypatch.setattr(Author, "_written", lambda *_: looks.append(1))
        other = {**given, "keywords": "ink", "place": "end"}
        with open_work(tmp_path / "w", caption=other) as work:
            assert caption.run(work) == {"keep": 1, "review": 1}
            assert looks == []
            assert texts(work, "caption_sketch")["p1"].endswith(", ink")
            assert texts(work, "caption_color")["p1"] == first[0]["p1"].replace(", ink", "")
            assert verdicts(work, "p1") == first[1]

    def test_a_missing_network_is_told_and_noted(self, tmp_path):
        with open_work(tmp_path, caption={"writer": "blip2", "blip2": "nowhere"}) as work:
            add_picture(work, "p1", pixels())
            with pytest.raises(ModelError, match=r"caption\.blip2 is nowhere"):
                caption.run(work)
            assert verdicts(work, "p1") == {"input": "failed"}

    def test_an_unreadable_picture_is_noted_and_the_rest_goes_on(self, tmp_path):
        with open_work(tmp_path) as work:
            add_picture(work, "p1", pixels())
            add_picture(work, "p2", pixels(1), 1)
            (tmp_path / work.path("p1", "colour")).write_bytes(b"nothing")
            assert caption.run(work) == {"failed": 1, "review": 1}

    def test_keywords_that_cannot_be_there_once(self, tmp_path):
        with open_work(tmp_path, caption={"keywords": "sketch, anime sketch"}) as work:
            add_picture(work, "p1", pixels())
            with pytest.raises(ConfigError, match="exactly once"):
                caption.run(work)


class Says:
    """Stands for the networks: says what it is told to."""

    def __init__(self, captions=(), answers=(), scores=None, tags=()):
        self._said = [captions, answers]
        self._scores = scores or {}
        self._tags = tags

    def candidates(self, pixels, picture, prompt):
        return list(self._said[prompt.startswith("Question")])

    def probabilities(self, pixels, sentences):
        return [self._scores.get(sentence, 0.1) for sentence in sentences]

    def tags(self, pixels):
        return Tags(dict.fromkeys(self._tags, 0.9), {}, "general")


def written(says, matched=True, tagged=False, **more):
    settings = CaptionSettings(
        writer="blip2", **{"questions": ("What clothes are worn? wearing {}",), **more}
    )
    author = Author(
        settings, Template(settings, []), says, says if matched else None,  # type: ignore[arg-type]
        says if tagged else None, estimate_tokens, False,
    )  # fmt: skip
    outcome = author.outcome(picture(), author.draft(picture(), pixels()), "")
    found = {decision.check: decision for decision in outcome.decisions}
    return outcome.texts["caption_color"], outcome.texts["caption_sketch"].text, found


class TestChoice:
    def test_the_best_candidate_and_a_fitting_answer(self):
        says = Says(
            ["a boy", "a girl in a red hat"],
            ["a hat", "a blue coat"],
            {"a girl in a red hat": 0.8, "wearing a blue coat": 0.7, "wearing a hat": 0.2},
        )
        colour, sketch, found = written(says)
        assert colour.text == "a girl in a red hat, wearing a blue coat"
        assert sketch == f"{KEYWORDS}, a girl in a hat, wearing a coat"
        assert (found["itm"].verdict, found["itm"].score) == ("keep", 0.8)
        assert colour.details["candidates"] == [["a boy", 0.1], ["a girl in a red hat", 0.8]]
        assert colour.details["answers"] == {
            "What clothes are worn? wearing {}": [
                ["wearing a hat", 0.2], ["wearing a blue coat", 0.7],
            ],
        }  # fmt: skip

    def test_an_answer_that_does_not_fit_is_left_out(self):
        colour, _, found = written(Says(["a girl"], ["a coat"], {"a girl": 0.6}))
        assert colour.text == "a girl"
        assert found["itm"].verdict == "keep"

    def test_a_poor_best_candidate_goes_to_review(self):
        colour, _, found = written(Says(["a girl"], [], {"a girl": 0.49}))
        assert colour.text == "a girl"
        assert (found["itm"].verdict, found["itm"].threshold) == ("review", 0.5)

    def test_without_a_matcher_the_likeliest_is_taken(self):
        colour, _, found = written(Says(["a girl", "a boy"], ["no", "a coat"]), matched=False)
        assert colour.text == "a girl, wearing a coat"
        assert found["itm"].verdict == "review"
        *_, found = written(Says(["a girl"]), matched=False, review_unfiltered=False)
        assert "itm" not in found

    def test_answers_that_say_nothing_new(self):
        scores = {"a girl in a coat": 0.9, "wearing coat": 0.9}
        assert (
            written(Says(["a girl in a coat"], ["unknown"], scores))[0].text == "a girl in a coat"
        )
        says = Says(["a girl in a coat"], ["a coat"], {**scores, "a coat": 0.9})
        assert written(says, questions=("What is worn? {}",))[0].text == "a girl in a coat"

    def test_tags_are_added_and_contradict(self):
        says = Says(["a boy with green eyes"], [], {}, ["1girl", "green eyes", "hat"])
        colour, sketch, found = written(says, tagged=True)
        assert colour.text == "a boy with green eyes, 1girl, hat"
        assert sketch == f"{KEYWORDS}, a boy with eyes, 1girl, hat"
        assert found["agreement"].verdict == "review"
        assert found["agreement"].reason == "sex: the caption says male, the tags say female"

    def test_a_network_that_says_nothing(self):
        colour, sketch, found = written(Says())
        assert colour.text == "a wide picture"
        assert sketch == f"{KEYWORDS}, a wide picture"
        assert found["writer"].verdict == "review"

    def test_long_captions_are_cut_between_phrases(self):
        says = Says([", ".join(f"{word} red house" for word in "abcdefghijklmnopqrstuvwxyz")])
        colour, sketch, _ = written(says)
        assert estimate_tokens(colour.text) <= 75
        assert estimate_tokens(sketch) <= 75
        assert sketch.endswith(" house")
        assert check_captions(["p"], {"p": sketch}, CaptionSettings()) == []


class TestCheck:
    @pytest.mark.parametrize(
        ("text", "fault"),
        [
            (f"{KEYWORDS}, a girl", None),
            ("", "no caption"),
            (KEYWORDS, "nothing besides"),
            ("anime sketch, lineart, a girl", "'monochrome' is there 0 times"),
            (f"{KEYWORDS}, a girl, line art", "'lineart' is there 2 times"),
            (f"a girl, {KEYWORDS}", "do not stand at its front"),
            ("lineart, anime sketch, monochrome, a girl", "do not stand at its front"),
            (f"{KEYWORDS}, a girl with red hair", "no colours, and it says 'red'"),
            (f"{KEYWORDS}, a girl with white hair", "'white'"),
            (f"{KEYWORDS}, {'umbrella ' * 90}", "tokens, and CLIP reads 75"),
            (f"{KEYWORDS}, a girl\x07", "cannot be seen"),
            (f"{KEYWORDS}, a girl\n", "cannot be seen"),
        ],
    )
    def test_faults(self, text, fault):
        faults = check_captions(["p1"], {"p1": text}, CaptionSettings())
        if fault is None:
            assert faults == []
        else:
            assert any(found.startswith("p1: ") and fault in found for found in faults)

    def test_the_end_and_tones_if_so_set(self):
        given = CaptionSettings(place="end", keep_tones=True)
        assert check_captions(["p"], {"p": f"a girl with white hair, {KEYWORDS}"}, given) == []

    def test_one_fault_among_many(self):
        captions = {f"p{number}": f"{KEYWORDS}, a girl" for number in range(50)}
        captions["p7"] = f"{KEYWORDS}, a pink girl"
        assert len(check_captions(captions, captions, CaptionSettings())) == 1
        assert check_captions(["absent"], captions, CaptionSettings()) == [
            "absent: it has no caption"
        ]
        assert check_captions([], {}, CaptionSettings()) == []


def test_details_can_be_read_back(tmp_path):
    with open_work(tmp_path, caption={"writer": "sidecar"}) as work:
        add_picture(work, "p1", pixels(), caption="a girl")
        caption.run(work)
        details = work.ledger.texts("caption_color")["p1"].details
        assert json.loads(json.dumps(details)) == {
            "writer": "sidecar",
            "candidates": [["a girl", None]],
            "draft": "a girl",
            "origin": details["origin"],
        }
        tokens = token_counter()[0](f"{KEYWORDS}, a girl")
        assert work.ledger.texts("caption_sketch")["p1"].details["tokens"] == tokens
