"""Tables, differences and pictures.csv (training/evaluation/{markup,tables,paper}.py)."""

from __future__ import annotations

import csv
import io
import math
import re
from dataclasses import replace
from pathlib import Path

import pytest

from animesketchnet_core.files import StorageError
from training.evaluation.markup import Cell, Table, number, write_tables
from training.evaluation.measures.measure import Column
from training.evaluation.paper import PAPER_TABLE_1, PAPER_TABLE_2
from training.evaluation.scored import Scored
from training.evaluation.statistics import Estimate
from training.evaluation.tables import (
    better,
    comparison,
    differences,
    pictures_csv,
    spread,
    where_it_loses,
    worse,
)

NAN = math.nan
MATCH = Column("itm", "ITM", 1, "", percent=True, digits=1)
DISTANCE = Column("far", "Distance", -1, "", digits=2)
INK = Column("ink", "Ink", 0, "", digits=2)
COLUMNS = (MATCH, DISTANCE, INK)


def picture(method: str, pair: str, seed: int, **values: float) -> Scored:
    return Scored(method, "table1", pair, f"prompt of {pair}", Path(f"/r/{pair}.png"), seed, 0.5,
                  Path(f"/out/pictures/{method}/{pair}-{seed}.png"), values)  # fmt: skip


def pictures() -> list[Scored]:
    """Theirs matches better by exactly 0.1, ours is nearer by 0.02 or farther by 0.02."""
    entries = []
    for pair, match in (("a", 0.5), ("b", 0.7)):
        for seed in (0, 1):
            off = 0.02 if pair == "a" else -0.02
            entries.append(picture("theirs", pair, seed, itm=match + 0.1, far=0.3 + off, ink=0.1))
            entries.append(picture("ours", pair, seed, itm=match, far=0.3, ink=0.5))
            entries.append(picture("blind", pair, seed, itm=0.0, far=NAN, ink=0.1 * seed))
    return entries


def texts(table: Table) -> list[list[str]]:
    return [[cell if isinstance(cell, str) else f"{cell.mean} {cell.rest}".strip() for cell in row]
            for row in table.rows]  # fmt: skip


def test_a_row_for_each_method_with_ours_first() -> None:
    table = comparison("t", pictures(), COLUMNS, "ours")
    assert table.header == ("Method", "ITM ↑", "Distance ↓", "Ink", "n")
    assert texts(table) == [
        ["ours", "60.0% [50.0, 70.0]", "0.30 [0.30, 0.30]", "0.50 [0.50, 0.50]", "4"],
        ["blind", "0.0% [0.0, 0.0]", "n/a", "0.05 [0.05, 0.05]", "4"],
        ["theirs", "70.0% [60.0, 80.0]", "0.30 [0.28, 0.32]", "0.10 [0.10, 0.10]", "4"],
    ]
    best = {(row[0], cell.column.key) for row in table.rows for cell in row
            if isinstance(cell, Cell) and cell.best}  # fmt: skip
    # Both distances are written 0.30; of ink neither more nor less is better.
    assert best == {("theirs", "itm"), ("ours", "far"), ("theirs", "far")}
    assert "bootstrap over 2 pairs. Of so few pairs they are too narrow" in table.note


def test_less_is_better_where_the_column_says_so() -> None:
    entries = [picture("ours", "a", 0, far=0.5), picture("theirs", "a", 0, far=0.25)]
    table = comparison("t", entries, [DISTANCE], "ours")
    assert [row[1].best for row in table.rows if isinstance(row[1], Cell)] == [False, True]
    assert table.note == "One pair alone: no intervals."
    assert texts(table) == [["ours", "0.50", "1"], ["theirs", "0.25", "1"]]


def test_a_column_that_counts_other_pictures_says_so() -> None:
    entries = [*pictures(), picture("ours", "c", 0, itm=0.6)]
    assert texts(comparison("t", entries, [MATCH, DISTANCE], "ours"))[0] == [
        "ours", "60.0% [50.0, 70.0]", "0.30 [0.30, 0.30] (n = 4)", "5",
    ]  # fmt: skip


def test_nobody_is_best_alone() -> None:
    alone = [entry for entry in pictures() if entry.method == "ours"]
    assert "**" not in comparison("t", alone, [MATCH], "ours").markdown().split("\n", 1)[1]


def test_differences_are_paired_signed_and_marked() -> None:
    table = differences("t", pictures(), COLUMNS, "ours")
    assert table.header[0] == "ours"
    assert texts(table) == [
        ["minus blind", "+60.0% [+50.0, +70.0]*", "n/a", "+0.45 [+0.45, +0.45]*", "4"],
        ["minus theirs", "-10.0% [-10.0, -10.0]*", "+0.00 [-0.02, +0.02]",
         "+0.40 [+0.40, +0.40]*", "4"],
    ]  # fmt: skip
    cells = [cell for cell in table.rows[1] if isinstance(cell, Cell)]
    assert [worse(cell) for cell in cells] == [True, False, False]
    assert [better(cell) for cell in cells] == [False] * 3  # more ink is neither
    assert better(next(cell for cell in table.rows[0] if isinstance(cell, Cell)))


def test_many_intervals_come_with_a_warning() -> None:
    theirs = [entry for entry in pictures() if entry.method == "theirs"]
    others = [replace(entry, method=f"theirs {k}") for k in range(5) for entry in theirs]
    note = differences("t", [*pictures(), *others], COLUMNS, "ours").note
    assert "Of 21 intervals about 1 exclude 0 by chance alone" in note  # 7 methods x 3 columns
    assert "by chance" not in differences("t", pictures(), COLUMNS, "ours").note


def test_sentences_of_where_it_loses() -> None:
    entries = pictures()
    assert where_it_loses(differences("t", entries, COLUMNS, "ours"), "ours") == [
        "theirs is better than ours in ITM by 10.0 points [10.0, 10.0], n = 4.",
        "Undecided, ours minus theirs: Distance (+0.00 [-0.02, +0.02]).",
    ]
    turned = where_it_loses(differences("t", entries, COLUMNS, "theirs"), "theirs")
    assert turned == [
        "No method is better than theirs in any column with an interval that excludes 0.",
        "Undecided, theirs minus ours: Distance (+0.00 [-0.02, +0.02]).",
    ]


def test_a_distance_is_lost_by_a_positive_number() -> None:
    entries = [picture(method, pair, 0, far=far + (pair == "b") * 0.1)
               for method, far in (("ours", 0.5), ("theirs", 0.2)) for pair in "ab"]  # fmt: skip
    assert where_it_loses(differences("t", entries, [DISTANCE], "ours"), "ours") == [
        "theirs is better than ours in Distance by 0.30 [0.30, 0.30], n = 2."
    ]


def test_spread_tells_median_and_share_of_percentages() -> None:
    entries = [picture("ours", "a", k, itm=value, far=0.0)
               for k, value in enumerate((0.999, 0.99, 0.1))]  # fmt: skip
    table = spread("t", entries, [MATCH, DISTANCE], "ours")
    assert table.header == ["Method", "ITM, median", "ITM, above 50%"]
    assert texts(table) == [["ours", "99.0%", "66.7%"]]


def test_pictures_that_cannot_be_compared_are_errors() -> None:
    with pytest.raises(ValueError, match=r"no picture of 'mine' .* of: blind, ours, theirs"):
        comparison("t", pictures(), COLUMNS, "mine")
    twice = [*pictures(), replace(picture("blind", "a", 1), part="alpha")]
    with pytest.raises(ValueError, match="blind has 2 pictures for the pair a and seed 1"):
        differences("t", twice, COLUMNS, "ours")


def test_numbers_have_their_columns_digits() -> None:
    assert number(0.93951, Column("", "", 1, "", True, 2)) == "93.95%"
    assert number(-0.0001, DISTANCE) == "0.00"
    assert number(-0.0001, DISTANCE, signed=True) == "+0.00"
    assert number(NAN, MATCH) == "n/a"


HOSTILE = Table(
    "50% of a_b & <c>",
    ["Method", "x_1 ↓", "n"],
    [
        ["[a] ~ \\ $1 #2 {3} ^ | *b* `c` -5", Cell(Estimate(-0.25, -0.5, 0.25, 2), DISTANCE, True),
         "2"],
        ["line\nbreak", "plain", "2"],
    ],
)  # fmt: skip


def test_markdown_is_escaped_and_aligned() -> None:
    lines = HOSTILE.markdown().splitlines()
    assert lines[0] == r"**50% of a\_b & \<c>**"
    rows = [line for line in lines if line.startswith("|")]
    assert len(rows) == 4
    assert len({len(row) for row in rows}) == 1
    assert re.fullmatch(r"\|-+\|-+:\|-+:\|", rows[1])
    assert rows[2].startswith(r"| [a] ~ \\ $1 #2 {3} ^ \| \*b\* \`c\` -5 | **-0.25** [-0.50, 0.25]")
    assert rows[3].startswith("| line break ")
    for row in rows:  # bars that are no part of a text
        assert len(re.findall(r"(?<!\\)\|", row)) == 4


def test_latex_is_escaped_and_balanced() -> None:
    text = HOSTILE.latex()
    assert r"\caption{50\% of a\_b \& \textless{}c\textgreater{}.}" in text
    assert r"Method & x\_1 $\downarrow$ & n \\" in text
    row = next(line for line in text.splitlines() if "textbackslash" in line)
    assert row.startswith(r"{}[a] \textasciitilde{} \textbackslash{} \$1 \#2 \{3\}")
    assert r"$-$5 & \textbf{$-$0.25} [$-$0.50, 0.25] & 2 \\" in row
    bare = re.sub(r"\\[\\&%$#_{}]", "", text)  # without what is escaped
    assert bare.count("$") % 2 == 0
    assert not re.search(r"[%#_~^]", bare)
    depth = 0
    for letter in bare:
        depth += (letter == "{") - (letter == "}")
        assert depth >= 0
    assert depth == 0
    for kind in re.findall(r"\\begin{(\w+)}", text):
        assert text.count(rf"\begin{{{kind}}}") == text.count(rf"\end{{{kind}}}") == 1
    assert [line.count(" & ") for line in text.splitlines() if line.endswith(r" \\")] == [2] * 3


def test_csv_holds_estimates_unrounded() -> None:
    rows = list(csv.reader(io.StringIO(HOSTILE.csv())))
    assert rows[0] == ["Method", "x_1", "x_1 low", "x_1 high", "x_1 n", "n"]
    assert rows[1][1:] == ["-0.25", "-0.5", "0.25", "2", "2"]
    assert rows[2] == ["line\nbreak", "plain", "", "", "", "2"]
    assert {len(row) for row in rows} == {6}


def test_tables_are_written_in_three_languages(tmp_path: Path) -> None:
    write_tables(tmp_path / "out", {"table1": HOSTILE})
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == ["table1.csv", "table1.md", "table1.tex"]
    assert (tmp_path / "out" / "table1.tex").read_text(encoding="utf-8") == HOSTILE.latex()
    (tmp_path / "out" / "table2.md").mkdir()
    with pytest.raises(StorageError, match=r"table2\.md cannot be written"):
        write_tables(tmp_path / "out", {"table2": HOSTILE})


def test_the_papers_tables_are_as_printed() -> None:
    header = ("Method", "BLIP-ITM ↑", "BLIP-Cosine ↑", "CLIP Score ↑")
    assert PAPER_TABLE_1.header == PAPER_TABLE_2.header == header
    assert texts(PAPER_TABLE_1) == [
        ["AnimeSketchNet", "93.95%", "0.4207", "30.66"],
        ["ControlNet", "97.68%", "0.4362", "31.03"],
        ["IP-Adapter", "71.54%", "0.4292", "30.97"],
        ["StableDiffusion3", "79.93%", "0.4294", "28.68"],
    ]
    assert texts(PAPER_TABLE_2) == [texts(PAPER_TABLE_1)[0], texts(PAPER_TABLE_1)[2]]
    bold = [cell.mean for row in PAPER_TABLE_1.rows for cell in row
            if isinstance(cell, Cell) and cell.best]  # fmt: skip
    assert bold == ["97.68%", "0.4362", "31.03"]
    assert "ControlNet wins all three columns" in PAPER_TABLE_1.note


def test_every_picture_with_all_figures_comes_back_from_csv() -> None:
    entries = [
        replace(picture("ours", "a", 3, itm=1 / 3), prompt='a "girl",\nä; =1+1', reference=None),
        replace(picture("blind", "b", 0, itm=0.5, far=NAN, ink=0.25), alpha=NAN),
    ]
    text = pictures_csv(entries, COLUMNS, Path("/out"))
    first, second = csv.DictReader(io.StringIO(text))
    assert first == {
        "method": "ours", "part": "table1", "pair": "a", "seed": "3", "alpha": "0.5",
        "prompt": 'a "girl",\nä; =1+1', "reference": "", "picture": "pictures/ours/a-3.png",
        "itm": repr(1 / 3), "far": "", "ink": "",
    }  # fmt: skip
    assert (second["alpha"], second["far"], second["ink"]) == ("", "", "0.25")
    assert second["reference"] == "/r/b.png"  # it lies elsewhere
