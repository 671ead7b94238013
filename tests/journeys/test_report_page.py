"""The page in a real browser: offline, from its file, on a desk and on a phone, and on paper."""

from __future__ import annotations

import contextlib
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile

from contracts.full_record import enrich
from nver.report import write_report
from unit.report.fake_run import FakeRun

playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright")

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--autoplay-policy=no-user-gesture-required",
)
DESK, PHONE = {"width": 1280, "height": 900}, {"width": 390, "height": 844}
DURATION = """() => new Promise((done) => {
  const player = document.getElementById("player");
  if (player.duration > 0) done(player.duration);
  player.addEventListener("durationchange", () => done(player.duration));
})"""
HOSTILE = '</script><img src=x onerror="window.hurt=1">\'"&'


@pytest.fixture(scope="module")
def browser():
    """Return a Chromium, or skip."""
    path = next((found for name in BROWSERS if (found := shutil.which(name))), None)
    if path is None:
        pytest.skip("needs a Chromium on the PATH: make browser")
    with playwright.sync_playwright() as started:
        chromium = started.chromium.launch(executable_path=path, args=list(FLAGS))
        yield chromium
        chromium.close()


@pytest.fixture
def visit(browser):
    """Return what opens a page offline; at the end it must have asked for nothing but itself."""
    with contextlib.ExitStack() as stack:

        def open_page(path: Path, viewport=DESK, **options):
            context = browser.new_context(viewport=viewport, offline=True, **options)
            stack.callback(context.close)
            page = context.new_page()
            page.heard = []
            page.on("console", lambda message: page.heard.append(message.text))
            page.on("pageerror", lambda error: page.heard.append(str(error)))
            page.asked = []
            page.on("request", lambda request: page.asked.append(request.url))
            page.goto(path.as_uri())
            return page

        yield open_page


def tone(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, 0.1 * np.sin(np.arange(800) / 9), 8000)


@pytest.fixture(scope="module")
def report(tmp_path_factory) -> Path:
    """Return the page of a run that recorded everything, with its clips beside it."""
    folder = tmp_path_factory.mktemp("browser")
    run = FakeRun().write(folder / "run")
    enrich(run)
    for file in pd.read_parquet(run / "clips.parquet")["path"]:
        tone(Path(file))
    return write_report(run)


def alone(page, report: Path) -> None:
    """Check that a page asked for nothing but itself, and that the browser had no complaint."""
    assert page.asked == [report.as_uri()]
    assert page.heard == []


@pytest.mark.parametrize(
    ("viewport", "scheme"), [(DESK, "light"), (PHONE, "dark")], ids=["desk", "phone"]
)
def test_the_page_opens_offline_and_fits(visit, report, viewport, scheme) -> None:
    page = visit(report, viewport, color_scheme=scheme)
    widths = page.evaluate("[document.documentElement.scrollWidth, innerWidth]")
    assert widths[0] == widths[1] == viewport["width"]
    assert page.locator("section").count() == 16
    empty = "sections => sections.filter((one) => one.innerText.trim().length < 12).length"
    assert page.locator("section").evaluate_all(empty) == 0
    alone(page, report)


def test_the_page_is_small(report) -> None:
    assert report.stat().st_size < 5e6


def test_choices_and_switches(visit, report) -> None:
    page = visit(report)
    panels = page.locator("[data-panel=emotion]")
    assert [panels.nth(i).is_visible() for i in range(2)] == [True, False]
    page.select_option("#choose-emotion", "1")
    assert [panels.nth(i).is_visible() for i in range(2)] == [False, True]
    assert not page.locator("#pane-a .count").first.is_visible()
    page.click("#confusions button[data-value=count]")
    assert page.locator("#pane-a .count").first.is_visible()
    assert not page.locator("#pane-a .share").first.is_visible()
    before = page.locator("#pane-a").inner_html()
    page.select_option("#choose-pane-a", "3")
    assert page.locator("#pane-a").inner_html() != before
    page.click("#maps button[data-value=speaker]")
    assert page.locator(".by-speaker").first.is_visible()
    assert not page.locator(".by-label").first.is_visible()
    alone(page, report)


def cell(page, pane: str, row: int, column: int) -> tuple[float, float]:
    """Return where the middle of a cell lies on the screen."""
    page.locator(f"{pane} svg").scroll_into_view_if_needed()
    return page.evaluate(
        """([pane, row, column]) => {
          const svg = document.querySelector(pane + " svg"), set = svg.dataset;
          const x = +set.left + (column + .5) * set.cell, y = +set.top + (row + .5) * set.cell;
          const at = new DOMPoint(x, y).matrixTransform(svg.getScreenCTM());
          return [at.x, at.y];
        }""",
        [pane, row, column],
    )


def test_a_cell_names_its_clips_and_they_are_heard(visit, report) -> None:
    page = visit(report)
    page.mouse.move(*cell(page, "#pane-a", 0, 0))
    told = page.locator("#tip").inner_text().splitlines()
    assert told[0].startswith("anger, recognised: ")
    assert told[1].endswith(".wav")
    alone(page, report)  # pointing asks for nothing
    page.mouse.click(*cell(page, "#pane-a", 0, 0))
    shown = page.locator("#card-list li")
    told = int(page.locator("#card-title").inner_text().split()[2])
    assert shown.count() == min(told, 30)
    assert "anger" in shown.first.inner_text()
    alone(page, report)  # neither does the list
    page.locator("#card-list button").first.click()
    assert page.evaluate(DURATION) == pytest.approx(0.1, abs=0.03)
    clip = page.evaluate("document.getElementById('player').src")
    assert page.asked[1:] == [clip]
    assert clip.startswith((report.parents[1] / "audio").as_uri())
    page.keyboard.press("Escape")
    assert not page.locator("#card").is_visible()
    assert page.heard == []


def test_the_counts_of_the_tip_are_those_of_the_matrix(visit, report) -> None:
    page = visit(report)
    page.click("#confusions button[data-value=count]")
    drawn = sorted(map(int, page.locator("#pane-a .count text").all_text_contents()))
    told = []
    for row in range(3):
        for column in range(3):
            page.mouse.move(*cell(page, "#pane-a", row, column))
            told.append(int(page.locator("#tip").inner_text().split(": ")[1].split()[0]))
    assert sorted(count for count in told if count) == drawn


def test_the_keyboard_walks_over_a_map_and_a_plan(visit, report) -> None:
    page = visit(report)
    page.locator(".by-label").first.focus()
    page.keyboard.press("ArrowRight")
    first = page.locator("#tip").inner_text()
    page.keyboard.press("ArrowRight")
    assert page.locator("#tip").inner_text() != first
    assert ".wav" in first
    page.keyboard.press("Enter")
    assert page.locator("#card-list li").count() == 1
    assert page.evaluate("card.contains(document.activeElement)")
    page.keyboard.press("Escape")
    assert page.evaluate("document.activeElement.classList.contains('by-label')")
    page.locator("[data-panel=plan] .paper").first.focus()
    for key in ("ArrowRight", "ArrowRight", "Enter"):
        page.keyboard.press(key)
    assert page.locator("#card-list li").count() == 2
    assert "of the mass of the first goes to the second" in page.locator("#card-title").inner_text()
    alone(page, report)


def test_embedded_clips_need_no_file(visit, report, tmp_path) -> None:
    run = tmp_path / "run"
    shutil.copytree(report.parent, run)
    page = visit(write_report(run, paths=False, megabytes=1.0))
    page.mouse.click(*cell(page, "#pane-a", 1, 1))
    page.locator("#card-list button").first.click()
    assert page.evaluate(DURATION) == pytest.approx(0.1, abs=0.03)
    assert all(url.startswith("data:audio/") for url in page.asked[1:])
    assert page.heard == []


def test_a_missing_clip_is_said(visit, report, tmp_path) -> None:
    run = tmp_path / "elsewhere" / "run"
    shutil.copytree(report.parent, run)
    (run / "report.html").write_bytes(report.read_bytes())
    page = visit(run / "report.html")
    page.mouse.click(*cell(page, "#pane-a", 0, 0))
    page.locator("#card-list button").first.click()
    page.locator("#card-note").wait_for(state="visible")
    assert "not where it was" in page.locator("#card-note").inner_text()


def test_hostile_names_stay_text(visit, tmp_path) -> None:
    run = FakeRun()
    folder = run.write(tmp_path / "run")
    table = pd.read_parquet(folder / "predictions.parquet").replace({"joy": HOSTILE})
    table["file"] = HOSTILE + table["file"]
    table["speaker"] = HOSTILE + table["speaker"]
    run.predictions, run.scores["labels"] = table, ["anger", "fear", HOSTILE]
    run.run["corpus"]["title"] = run.run["corpus"]["citation"] = HOSTILE
    report = write_report(enrich(run.write(folder)))
    page = visit(report)
    page.mouse.click(*cell(page, "#pane-a", 2, 2))
    assert HOSTILE in page.locator("#card").inner_text()
    page.locator(".by-label").first.focus()
    page.keyboard.press("ArrowRight")
    assert HOSTILE in page.locator("#tip").inner_text()
    assert page.evaluate("window.hurt") is None
    assert page.locator("img").count() == 0
    alone(page, report)


def test_an_old_run_has_no_empty_section(visit, tmp_path) -> None:
    run = FakeRun(projection=False)
    page = visit(write_report(run.write(tmp_path / "run")))
    names = page.locator("section").evaluate_all("sections => sections.map((one) => one.id)")
    assert names == [
        *("basis", "summary", "results", "emotions", "confusions"),
        *("audit", "failures", "licences", "provenance"),
    ]
    links = page.locator("nav a").evaluate_all("links => links.map((one) => one.hash.slice(1))")
    assert set(links) < set(names)
    assert page.heard == []


def test_the_page_prints(visit, report, tmp_path) -> None:
    page = visit(report)
    page.emulate_media(media="print")
    assert not page.locator("nav").is_visible()
    paper = page.pdf(path=tmp_path / "report.pdf", format="A4")
    assert paper.startswith(b"%PDF-")
    assert paper.count(b"/Type /Page\n") + paper.count(b"/Type /Page ") >= 3


def test_controls_have_names_and_text_has_contrast(visit, report) -> None:
    for scheme in ("light", "dark"):
        page = visit(report, color_scheme=scheme)
        assert page.evaluate(NAMELESS) == []
        assert page.evaluate(PALE) == []


NAMELESS = """() => [...document.querySelectorAll("button, select, [tabindex], svg[role=img]")]
  .filter((one) => !one.innerText && !one.getAttribute("aria-label") && !one.labels?.length)
  .map((one) => one.outerHTML.slice(0, 80))"""

# WCAG 2.2: 4.5 to 1 between a text and what lies behind it.
PALE = """() => {
  const parts = (colour) => colour.match(/[0-9.]+/g).map(Number);
  const linear = (v) => v <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4;
  const light = ([r, g, b]) =>
    .2126 * linear(r / 255) + .7152 * linear(g / 255) + .0722 * linear(b / 255);
  const behind = (node) => {
    for (; node; node = node.parentElement) {
      const colour = parts(getComputedStyle(node).backgroundColor);
      if (colour.length === 3 || colour[3] === 1) return colour.slice(0, 3);
    }
    return [255, 255, 255];
  };
  const texts = "p, td, th, dt, dd, li, a, h1, h2, h3, small, .soft, .badge, button, label";
  const bad = [];
  for (const node of document.querySelectorAll(texts)) {
    if (!node.innerText?.trim() || !node.checkVisibility()) continue;
    const ink = light(parts(getComputedStyle(node).color)), paper = light(behind(node));
    const ratio = (Math.max(ink, paper) + .05) / (Math.min(ink, paper) + .05);
    if (ratio < 4.5) bad.push(`${node.innerText.slice(0, 20)}: ${ratio.toFixed(2)}`);
  }
  return bad.slice(0, 5);
}"""
