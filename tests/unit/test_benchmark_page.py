"""The page of benchmarks: a section that is measured again leaves the others as they are."""

from __future__ import annotations

import pytest
import torch
from bench import training
from bench.page import Options, machine, paragraph, put, table
from bench.plain_networks import PlainMata

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


def test_a_paragraph_has_even_lines():
    said = paragraph("A *line*\nthat was `broken - here`", "too early. " * 20)
    lines = said.splitlines()
    assert all(85 < len(line) <= 100 for line in lines[:-1])
    assert " ".join(lines).startswith("A *line* that was `broken - here` too early. too early.")


def test_a_table_is_markdown():
    assert table(["a", "b"], [["1", "2"]]) == "| a | b |\n| --- | --- |\n| 1 | 2 |"


DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]


@pytest.mark.parametrize("device", DEVICES)
def test_all_sides_of_the_training_section_train_on_the_device(device):
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("torch finds no CUDA device here")

    def make():
        return PlainMata(training.VIEWS, training.CLASSES, iterations=2)

    sides = {
        "naive": training.naive(make, 1, device),
        "careful": training.careful(make, 2, device),
        "nver": training.engine("concat", "fcn", 1, members=1, device=device),
    }
    found = training.measure(sides, 1, device)
    assert {name: steps for name, (_, steps) in found.items()} == {
        "naive": 1,
        "careful": 2,
        "nver": 25,
    }
    assert all(ms > 0 for ms, _ in found.values())
