"""The page of benchmarks: a section that is measured again leaves the others as they are."""

from __future__ import annotations

from bench.page import Options, machine, put, table

NAMES = ["first", "second", "first-gpu"]


def test_sections_keep_their_place_and_each_other(tmp_path):
    page = tmp_path / "page.md"
    for name, text in (("second", "old"), ("first-gpu", "card"), ("second", "new\n\n| a |")):
        put(page, name, text, NAMES, NAMES[:2])
    put(page, "first", "one", NAMES, NAMES[:2])
    written = page.read_text(encoding="utf-8")
    assert written.startswith("# Benchmarks\n")
    assert "`first`, `second`" in written
    places = [written.index(text) for text in ("\none\n", "\nnew\n\n| a |\n", "\ncard\n")]
    assert places == sorted(places)
    assert "old" not in written


def test_the_machine_is_stated():
    said = machine(Options(quick=True, device="cpu", threads=1), 0.5)
    for part in ("UTC", "cores", "GiB", "torch ", "load average 0.5 before", "--quick"):
        assert part in said


def test_a_table_is_markdown():
    assert table(["a", "b"], [["1", "2"]]) == "| a | b |\n| --- | --- |\n| 1 | 2 |"
