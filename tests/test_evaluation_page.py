"""The report of a comparison (training/evaluation/page.py), also in a real browser."""

from __future__ import annotations

import csv
import math
import os
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from PIL import Image

from animesketchnet_core.files import StorageError
from tests.evaluation_demo import COLUMNS, ITM, METHODS, report
from training.evaluation.markup import Table
from training.evaluation.page import GALLERY, WIDEST, Report, best_and_worst, page, write_page
from training.evaluation.scored import Scored
from training.sources import DataError

if TYPE_CHECKING:
    from playwright.sync_api import Browser

PICTURES = os.environ.get("ANIMESKETCHNET_PICTURES")  # a folder to draw the documentation's into
MOST_BYTES = 600_000
VOID = ("img", "meta", "br", "!doctype")


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Report]:
    """A folder with a written report; only to be read."""
    folder = tmp_path_factory.mktemp("demo")
    told = report(folder)
    assert write_page(folder, told) == folder / "report.html"
    return folder, told


def empty(**others: Any) -> Report:
    return replace(Report("t", (), (), (), {}), **others)


class Outline(HTMLParser):
    """Checks that elements are closed in order, and keeps headings and images."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.headings: list[str] = []
        self.images: list[dict[str, str | None]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "img":
            self.images.append(dict(attrs))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        pass  # of SVG

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "h2":
            self.headings.append(data)


def test_the_page_tells_everything_in_order(demo: tuple[Path, Report]) -> None:
    text = (demo[0] / "report.html").read_text(encoding="utf-8")
    outline = Outline(text)
    assert outline.open == []
    assert outline.headings == [
        "Table 1", "Where ours loses", "Table 2", "Figure 3: methods and pairs",
        "Figure 4: prompts for one reference", "Alpha: the text against the reference",
        "What each column means", "Best and worst pictures", "How it was made",
    ]  # fmt: skip
    assert len(outline.images) == 2 + 2 * GALLERY * len(METHODS)
    assert all(image["alt"] for image in outline.images)
    assert text.count("ControlNet wins all three columns") == 2  # beside both of the paper's tables
    assert "<b>97.68%</b>" in text
    assert all(f"<dt>{column.label}" in text for column in COLUMNS)
    assert 'class="n worse"' in text
    assert 'class="n better"' in text
    assert "<code>measures.dino</code> names no folder" in text
    assert "<details><summary>settings</summary><pre>" in text
    links = re.findall(r'<a href="#(\w+)"', text)
    assert links == re.findall(r'<h2 id="(\w+)"', text)
    assert len(links) == 9


def test_the_page_needs_no_scripts_and_no_other_file(demo: tuple[Path, Report]) -> None:
    text = (demo[0] / "report.html").read_text(encoding="utf-8")
    assert "<script" not in text
    assert not re.findall(r'(?:src|href)="(?!#|data:)', text)
    assert len(text) < MOST_BYTES


def test_all_texts_are_escaped() -> None:
    bad = "<i>&\"'"
    table = Table(bad, [bad, bad], [[bad, bad]], bad)
    told = page(
        empty(title=bad, headline=[bad], warnings=[bad], losses=[bad], recommended=bad,
              columns=[replace(ITM, label=bad, meaning=bad)], table1={"t": table},
              provenance={bad: bad, bad + "2": bad + "\n2"})
    )  # fmt: skip
    assert "<i>&" not in told
    assert told.count("&lt;i&gt;&amp;&quot;&#x27;") == 18  # the title is there twice
    Outline(told)


def test_tables_figures_and_pictures_lie_beside_the_page(demo: tuple[Path, Report]) -> None:
    folder, told = demo
    tables = [f"{name}.{suffix}" for name in (*told.table1, *told.table2)
              for suffix in ("md", "csv", "tex")]  # fmt: skip
    others = ["alpha.png", "alpha.svg", "figure3.png", "figure4.png", "pictures", "pictures.csv",
              "report.html"]  # fmt: skip
    assert sorted(path.name for path in folder.iterdir()) == sorted(tables + others)
    with Image.open(folder / "figure3.png") as figure:
        assert told.figure3 is not None
        assert figure.tobytes() == told.figure3.tobytes()
    with (folder / "pictures.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(told.scored)
    assert float(rows[3]["clip"]) == told.scored[3].values["clip"]
    assert all((folder / row["picture"]).is_file() for row in rows)


def test_writing_again_gives_the_same_bytes(demo: tuple[Path, Report], tmp_path: Path) -> None:
    folder, told = demo
    write_page(tmp_path, told)
    for name in ("report.html", "figure3.png", "alpha.svg", "table1.tex"):
        assert (tmp_path / name).read_bytes() == (folder / name).read_bytes()


def test_what_was_not_made_is_not_on_the_page(tmp_path: Path) -> None:
    write_page(tmp_path, empty(headline=["Nothing yet."]))
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert Outline(text).headings == []
    assert "Nothing yet." in text
    assert sorted(path.name for path in tmp_path.iterdir()) == ["pictures.csv", "report.html"]


def test_large_figures_are_made_smaller_in_the_page_alone(tmp_path: Path) -> None:
    write_page(tmp_path, empty(figure4=Image.new("RGB", (2 * WIDEST, 50), "white")))
    with Image.open(tmp_path / "figure4.png") as figure:
        assert figure.size == (2 * WIDEST, 50)
    (image,) = Outline((tmp_path / "report.html").read_text(encoding="utf-8")).images
    assert (image["width"], image["height"]) == (str(WIDEST), "25")


def entry(method: str, value: float, seed: int, part: str = "table1") -> Scored:
    return Scored(method, part, "a", "p", None, seed, 0.5, Path("p.png"), {"itm": value})


def test_best_and_worst_share_no_picture() -> None:
    values = (0.3, 0.9, math.nan, 0.1, 0.5, 0.7)
    scored = [entry("ours", value, seed) for seed, value in enumerate(values)]
    scored += [entry("theirs", 0.2, 0), entry("ours", 1.0, 9, part="alpha")]
    picked = best_and_worst(scored, ITM, 3)
    assert [[e.values["itm"] for e in end] for end in picked["ours"]] == [[0.9, 0.7, 0.5],
                                                                         [0.1, 0.3]]  # fmt: skip
    assert [len(end) for end in picked["theirs"]] == [1, 0]
    less = best_and_worst(scored, replace(ITM, better=-1), 2)["ours"]
    assert [[e.values["itm"] for e in end] for end in less] == [[0.1, 0.3], [0.9, 0.7]]
    alone = best_and_worst([entry("ours", 1.0, 9, part="alpha")], ITM)
    assert len(alone["ours"][0]) == 1


def test_errors_name_the_file(demo: tuple[Path, Report], tmp_path: Path) -> None:
    gone = [replace(e, picture=tmp_path / "gone.png") for e in demo[1].scored[:1]]
    with pytest.raises(DataError, match=r"gone\.png cannot be read"):
        write_page(tmp_path, replace(demo[1], scored=gone))
    (tmp_path / "new" / "report.html").mkdir(parents=True)
    with pytest.raises(StorageError, match=r"report\.html cannot be written"):
        write_page(tmp_path / "new", empty())


@pytest.mark.parametrize(("name", "width", "columns"), [("wide", 1280, 6), ("narrow", 390, 3)])
def test_in_a_browser(
    demo: tuple[Path, Report], browser: Browser, name: str, width: int, columns: int
) -> None:
    faults: list[str] = []
    tab = browser.new_page(viewport={"width": width, "height": 844})
    tab.on("pageerror", lambda error: faults.append(str(error)))
    tab.on("console", lambda message: faults.append(message.text))
    tab.goto((demo[0] / "report.html").as_uri())
    assert tab.title() == "Comparison <demo>"
    loaded = "() => [...document.images].filter(i => i.complete && i.naturalWidth > 100).length"
    assert tab.evaluate(loaded) == 2 + 2 * GALLERY * len(METHODS)
    for place in (".sheet img", ".chart svg", "table", ".grid img"):
        box = tab.locator(place).first.bounding_box()
        assert box is not None
        assert box["width"] > 80
        assert box["height"] > 80
    assert tab.evaluate("document.documentElement.scrollWidth") == width  # tables scroll alone
    grid = tab.locator(".grid").first.evaluate("e => getComputedStyle(e).gridTemplateColumns")
    assert len(grid.split()) == columns
    tab.get_by_role("link", name="How it was made").click()
    tab.get_by_text("settings", exact=True).click()
    assert tab.get_by_text("seed = 1").is_visible()
    assert tab.get_by_role("cell", name="minus IP-Adapter").is_visible()
    if PICTURES:
        tab.screenshot(path=Path(PICTURES) / f"comparison-{name}.png", full_page=True)
    tab.close()
    assert faults == []
