from __future__ import annotations

import re
from xml.etree import ElementTree as ET

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nver.report.colours import COLOURS, SHAPES, ink, luminance, shade, shortened, text_width
from nver.report.confusions import confusion_svg, most_confused
from nver.report.projection import MAP_CLIPS, project, stratified
from nver.report.run_figures import file_name
from nver.report.scatter import map_svg

COUNTS = np.array([[8, 2, 0], [5, 5, 0], [0, 0, 0]], dtype=np.int64)
LABELS = ["joy", "fear", "awe"]

# Machado, Oliveira and Fernandes 2009, Table 1, severity 1: what linear RGB looks like to people
# with protanopia, deuteranopia and tritanopia.
DEFICIENCIES = {
    "none": np.eye(3),
    "protanopia": np.array(
        [
            [0.152286, 1.052583, -0.204868],
            [0.114503, 0.786281, 0.099216],
            [-0.003882, -0.048116, 1.051998],
        ]
    ),
    "deuteranopia": np.array(
        [
            [0.367322, 0.860646, -0.227968],
            [0.280085, 0.672501, 0.047413],
            [-0.011820, 0.042940, 0.968881],
        ]
    ),
    "tritanopia": np.array(
        [
            [1.255528, -0.076749, -0.178779],
            [-0.078411, 0.930809, 0.147602],
            [0.004733, 0.691367, 0.303900],
        ]
    ),
}


def blobs(clips, dim=20, classes=3, seed=0):
    rng = np.random.default_rng(seed)
    labels = np.arange(clips) % classes
    centres = 8 * rng.normal(size=(classes, dim))
    X = (centres[labels] + rng.normal(size=(clips, dim))).astype(np.float32)
    return X, [f"class {label}" for label in labels]


def contrast(one, other):
    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def parsed(svg):
    return ET.fromstring(str(svg))  # noqa: S314 - what we drew ourselves


def texts(svg):
    return [e.text for e in parsed(svg).iter() if e.tag.endswith("text")]


# the map


def test_clips_of_one_class_lie_together_on_the_map():
    X, labels = blobs(90)
    found = project(X, labels)
    names = np.array(labels)[found.indices]
    distances = np.linalg.norm(found.coordinates[:, None] - found.coordinates[None], axis=-1)
    np.fill_diagonal(distances, np.inf)
    assert (names[distances.argmin(axis=1)] == names).mean() == 1.0


def test_the_map_is_the_same_twice_and_another_with_another_seed():
    X, labels = blobs(40)
    first, second = project(X, labels), project(X, labels)
    np.testing.assert_array_equal(first.coordinates, second.coordinates)
    assert not np.array_equal(
        first.coordinates, project(X + np.float32(0.01) * X[::-1], labels, seed=1).coordinates
    )


@pytest.mark.parametrize("clips", [0, 1, 4])
def test_fewer_than_five_clips_have_no_map(clips):
    X, labels = blobs(clips)
    found = project(X, labels)
    assert found.indices.size == 0
    assert found.coordinates.shape == (0, 2)


@pytest.mark.parametrize(("clips", "dim"), [(5, 20), (6, 1), (7, 2)])
def test_few_clips_and_few_dimensions_have_a_finite_map(clips, dim):
    found = project(*blobs(clips, dim=dim))
    assert found.coordinates.shape == (clips, 2)
    assert np.isfinite(found.coordinates).all()


def test_equal_embeddings_lie_in_one_point():
    found = project(np.ones((8, 3), dtype=np.float32), ["a"] * 8)
    np.testing.assert_array_equal(found.coordinates, np.zeros((8, 2)))


def test_a_constant_dimension_does_no_harm():
    X, labels = blobs(20)
    X[:, 3] = 7
    assert np.isfinite(project(X, labels).coordinates).all()


def test_of_many_clips_a_stratified_part_is_on_the_map():
    X, labels = blobs(60)
    found = project(X, labels, limit=30)
    kept = np.array(labels)[found.indices]
    assert found.indices.size == 30
    assert (np.diff(found.indices) > 0).all()
    assert np.unique(kept, return_counts=True)[1].tolist() == [10, 10, 10]


def test_the_default_limit_is_the_one_that_the_report_states():
    labels = ["a"] * 3000 + ["b"] * 1000
    kept = np.array(labels)[stratified(labels, MAP_CLIPS, np.random.default_rng(0))]
    assert np.unique(kept, return_counts=True)[1].tolist() == [1500, 500]


@given(
    sizes=st.lists(st.integers(1, 40), min_size=1, max_size=6),
    limit=st.integers(6, 60),
    seed=st.integers(0, 2**32 - 1),
)
def test_no_class_is_lost_and_every_class_keeps_its_share(sizes, limit, seed):
    labels = np.repeat([f"class {i}" for i in range(len(sizes))], sizes)
    indices = stratified(labels.tolist(), limit, np.random.default_rng(seed))
    assert indices.size == min(limit, labels.size)
    assert set(labels[indices]) == set(labels)
    for i, size in enumerate(sizes):
        kept = int((labels[indices] == f"class {i}").sum())
        assert abs(kept - size * min(1, limit / labels.size)) <= len(sizes)


def test_every_clip_is_drawn_within_the_picture():
    svg = str(map_svg(np.array([[-900.0, 3.0], [40.0, 700.0], [5.0, 5.0]]), list("aba"), "ab", "x"))
    drawn = parsed(svg)
    paths = [e for e in drawn.iter() if "data-class" in e.attrib]
    points = [
        tuple(map(float, point.groups()))
        for path in paths
        for point in re.finditer(r"M(-?[\d.]+) (-?[\d.]+)", path.attrib["d"])
    ]
    assert [path.attrib["d"].count("M") for path in paths] == [2, 1]
    assert len(points) == 3
    assert all(0 < value < float(drawn.attrib["width"]) for point in points for value in point)


def test_a_map_of_one_point_can_be_drawn():
    assert "nan" not in map_svg(np.zeros((5, 2)), ["a"] * 5, ["a"], "x")


def test_the_map_says_what_it_shows_and_names_every_label():
    svg = map_svg(np.eye(2), ["a <b>", "c"], ["a <b>", "c"], "byol-s & co")
    root = parsed(svg)
    assert root.attrib["role"] == "img"
    assert root.attrib["aria-label"] == (
        "t-SNE map of 2 clips as byol-s & co hears them, marked by label."
    )
    assert texts(svg)[-2:] == ["a <b>", "c"]


def test_thirty_classes_look_different():
    looks = {(COLOURS[i % len(COLOURS)], SHAPES[i % len(SHAPES)]) for i in range(30)}
    assert len(looks) == 30


# the confusion matrix


def test_cells_hold_the_percentage_of_the_row_and_the_count():
    svg = confusion_svg(COUNTS, LABELS, "lda")
    groups = [
        (e.attrib.get("class"), [(t.attrib["x"], t.attrib["y"], t.text) for t in e])
        for e in parsed(svg).iter()
        if e.attrib.get("class")
    ]
    shares = [cell for kind, cells in groups if kind == "share" for cell in cells]
    counts = [cell for kind, cells in groups if kind == "count" for cell in cells]
    assert sorted(shares) == [
        ("19", "18", "80"),
        ("19", "56", "50"),
        ("57", "18", "20"),
        ("57", "56", "50"),
    ]
    assert sorted(counts) == [
        ("19", "31", "8"),
        ("19", "69", "5"),
        ("57", "31", "2"),
        ("57", "69", "5"),
    ]


def test_cells_of_one_share_are_drawn_as_one():
    drawn = [
        e
        for e in parsed(confusion_svg(COUNTS, LABELS, "lda")).iter()
        if e.attrib.get("fill") == shade(0.5)
    ]
    assert [path.attrib["d"].count("M") for path in drawn] == [2]


def test_rows_are_labelled_with_their_number_of_clips():
    found = texts(confusion_svg(COUNTS, LABELS, "lda"))
    assert found.count("joy") == 2
    assert found[-11:-8] == ["10", "10", "0"]


def test_the_matrix_says_what_it_shows():
    root = parsed(confusion_svg(COUNTS, LABELS, "lda (a + b)"))
    assert root.attrib["aria-label"] == (
        "Confusion matrix of lda (a + b). "
        "Most frequent confusions: fear taken for joy (50 %), joy taken for fear (20 %)."
    )


def test_a_perfect_matrix_has_no_confusions():
    assert most_confused(np.eye(2, dtype=np.int64), ["a", "b"]) == "No confusions."


def test_nothing_in_a_label_becomes_markup():
    nasty = ['</svg><script>alert("1")</script>', "a&b", "\x00\x1b\ud800"]
    svg = str(confusion_svg(COUNTS, nasty, nasty[0]))
    assert "<script" not in svg
    assert "</svg><" not in svg
    assert "a&amp;b" in svg
    parsed(svg)
    svg.encode()


def test_long_labels_are_cut():
    assert shortened("x" * 24) == "x" * 24
    assert shortened("x" * 25) == "x" * 23 + "…"
    assert text_width("怒り") > text_width("ab")


# colours


def test_the_text_in_every_cell_can_be_read():
    for percentage in range(101):
        fill = shade(percentage / 100)
        assert contrast(fill, "#000000" if ink(fill) == "#000" else "#ffffff") >= 4.5


def test_more_is_darker():
    shades = [luminance(shade(share)) for share in np.linspace(0, 1, 101)]
    assert (np.diff(shades) < 0).all()


@pytest.mark.parametrize("colour", COLOURS)
def test_marks_stand_out_against_white(colour):
    assert contrast(colour, "#ffffff") >= 3.0


@pytest.mark.parametrize("name", DEFICIENCIES)
def test_colours_differ_for_every_eye(name):
    seen = [_lab(DEFICIENCIES[name] @ _linear(colour)) for colour in COLOURS]
    distances = [np.linalg.norm(one - other) for i, one in enumerate(seen) for other in seen[:i]]
    assert min(distances) > 25  # CIE 1976 difference; about 2.3 is just noticeable


def _linear(colour):
    values = np.array([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


def _lab(linear):
    matrix = np.array(
        [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]
    )
    xyz = matrix @ np.clip(linear, 0, 1) / np.array([0.9505, 1.0, 1.089])
    f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


# file names


def test_names_of_files_are_safe_and_stay_different():
    names = ["a/b", "a_b", "a b", "A_B", "../../etc", "x" * 300, "x" * 299]
    files = [file_name("map", name) for name in names]
    assert len(set(files)) == len(names)
    assert all(re.fullmatch(r"map-[a-z0-9.+_-]{1,89}\.svg", file) for file in files)
