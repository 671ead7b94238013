from __future__ import annotations

import io
import json
import re
import subprocess
import sys

import pytest
import tqdm

from nver import cli, experiment
from nver.arguments import parser
from nver.parsing import USAGE
from nver.progress import TimedProgress


def _modules_after(code: str) -> set[str]:
    probe = f"import sys\n{code}\nprint(' '.join(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    return set(done.stdout.splitlines()[-1].split())


HEAVY = {"torch", "transformers", "sklearn", "scipy", "pandas", "numpy", "matplotlib", "pyarrow"}


@pytest.mark.parametrize(
    "code",
    [
        "import nver",
        "from nver.cli import main\ntry: main(['--help'])\nexcept SystemExit: pass",
        "from nver.cli import main\ntry: main(['evaluate', '--help'])\nexcept SystemExit: pass",
    ],
)
def test_help_loads_nothing_heavy(code: str) -> None:
    assert not _modules_after(code) & HEAVY


def test_an_unknown_command_gets_the_nearest(capsys, monkeypatch) -> None:
    monkeypatch.setattr(sys, "argv", ["nver", "evalute"])
    with pytest.raises(SystemExit) as caught:
        cli.main(["evalute"])
    assert caught.value.code == USAGE
    assert "Did you mean 'evaluate'?" in capsys.readouterr().err


def test_an_unknown_option_gets_the_nearest(capsys, monkeypatch) -> None:
    argv = ["evaluate", "synthetic", "-e", "spectral", "--out", "x", "--sedes", "3"]
    monkeypatch.setattr(sys, "argv", ["nver", *argv])
    with pytest.raises(SystemExit) as caught:
        cli.main(argv)
    assert caught.value.code == USAGE
    assert "Did you mean '--seeds'?" in capsys.readouterr().err


def test_an_error_is_one_line(capsys, nver_home) -> None:
    assert cli.main(["embed", "vivea", "-e", "spectral"]) == cli.ERROR
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    assert "Did you mean 'vivae'?" in told


def test_debug_shows_the_traceback(nver_home) -> None:
    from nver.errors import UnknownNameError

    for argv in (["--debug", "embed", "vivea"], ["embed", "vivea", "--debug"]):
        with pytest.raises(UnknownNameError):
            cli.main([*argv, "-e", "spectral"])


def test_an_unexpected_error_is_one_line_too(capsys, monkeypatch) -> None:
    from nver import listings

    def broken() -> None:
        raise RuntimeError("boom")

    monkeypatch.setattr(listings, "systems", broken)
    assert cli.main(["systems"]) == cli.ERROR
    assert "unexpected RuntimeError: boom" in capsys.readouterr().err


def test_ctrl_c_says_what_is_kept(capsys, monkeypatch) -> None:
    from nver import listings

    def interrupted() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(listings, "systems", interrupted)
    assert cli.main(["systems"]) == cli.INTERRUPTED
    assert "What was encoded and trained is kept" in capsys.readouterr().err


@pytest.mark.parametrize("listing", ["encoders", "corpora", "systems", "perturbations"])
def test_listings_are_text_or_json(listing: str, capsys, nver_home) -> None:
    assert cli.main([listing]) == cli.DONE
    text = capsys.readouterr().out
    assert cli.main([listing, "--json"]) == cli.DONE
    rows = json.loads(capsys.readouterr().out)
    assert len(rows) > 4
    for row in rows:
        assert row["name"] in text
        if "available" in row:
            assert row["available"] or row["reason"]


def test_an_absent_corpus_is_described_with_where_to_get_it(capsys, nver_home, tmp_path) -> None:
    assert cli.main(["corpora", "jnv"]) == cli.DONE
    told = " ".join(capsys.readouterr().out.split())
    assert "licence: CC BY-SA 4.0" in told
    assert "non commercial: no" in told
    assert "available: no" in told
    assert f"reason: not in {nver_home / 'corpora' / 'jnv'}; pass --root, or get it: http" in told
    assert cli.main(["corpora", "jnv", "--json"]) == cli.DONE
    (row,) = json.loads(capsys.readouterr().out)
    assert (row["name"], row["available"]) == ("jnv", False)
    for wrong in (["--root", str(tmp_path / "nowhere")], ["--subset", "nothing"]):
        assert cli.main(["corpora", "jnv", *wrong]) == cli.ERROR
        assert "nver: " in capsys.readouterr().err


def test_a_licence_that_is_not_stated_is_not_called_free_for_commerce(capsys, tmp_path) -> None:
    for label in ("joy", "fear"):
        (tmp_path / label).mkdir()
        (tmp_path / label / "clip.wav").touch()
    assert cli.main(["corpora", str(tmp_path)]) == cli.DONE
    told = capsys.readouterr().out
    assert "licence: not stated" in told
    assert "non commercial: unknown" in told
    assert cli.main(["corpora", str(tmp_path), "--json"]) == cli.DONE
    assert json.loads(capsys.readouterr().out)[0]["non_commercial"] is None


def test_a_bar_tells_what_is_done_and_the_time_left(monkeypatch) -> None:
    screen = io.StringIO()

    class Shown(tqdm.tqdm):
        def __init__(self, **options) -> None:
            super().__init__(**(options | {"delay": 0, "disable": False}), file=screen)

    monkeypatch.setattr(tqdm, "tqdm", Shown)
    with cli._Bars() as bars:
        assert isinstance(bars, TimedProgress)
        bars("trainings", 30, 175)
        bars.time_left("trainings", 754.0)
        bars("trainings", 31, 175)
        bars._bars["trainings"].refresh()
    assert "31/175" in screen.getvalue()
    assert "about 12:34 left" in screen.getvalue()


@pytest.mark.parametrize("moment", [0.0, 60.0])
def test_a_bar_is_seen_at_once_and_that_of_a_moment_is_wiped_out(moment, monkeypatch) -> None:
    screen = io.StringIO()

    class Shown(tqdm.tqdm):
        def __init__(self, **options) -> None:
            super().__init__(**(options | {"disable": False}), file=screen)

    monkeypatch.setattr(tqdm, "tqdm", Shown)
    monkeypatch.setattr(cli, "MOMENT", moment)
    with cli._Bars() as bars:
        bars("trainings", 0, 175)
        assert "0/175" in screen.getvalue()
    last = screen.getvalue().rpartition("\r")[2] or screen.getvalue().split("\r")[-2]
    assert ("0/175" in last) is (moment == 0.0)


def test_fewer_than_two_folds_are_wrong_usage(capsys) -> None:
    with pytest.raises(SystemExit):
        parser().parse_args(["evaluate", "synthetic", "-e", "spectral", "-k", "1", "--out", "run"])
    assert "expected a whole number from 2, got '1'" in capsys.readouterr().err


@pytest.mark.parametrize(("given", "tune"), [([], None), (["--tune"], 16), (["--tune", "5"], 5)])
def test_tune_takes_a_number_or_none(given: list[str], tune: int | None) -> None:
    argv = ["evaluate", "synthetic", "-e", "spectral", *given, "--out", "run"]
    assert cli._settings(parser().parse_args(argv)).tune == tune


def test_the_error_rate_of_sets_reaches_the_analysis(monkeypatch, tmp_path) -> None:
    from nver import analysis, report
    from nver.confidence import ERROR_RATE

    asked = []
    monkeypatch.setattr(analysis, "rescore", lambda folder, error_rate: asked.append(error_rate))
    monkeypatch.setattr(report, "write_report", lambda folder, **_: tmp_path)
    for name in ("run.json", "inner.parquet"):
        (tmp_path / name).touch()
    for given in ([], ["--error-rate", "0.25"]):
        assert cli.main(["report", str(tmp_path), *given]) == cli.DONE
    assert asked == [ERROR_RATE, 0.25]


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ([], "it was made without --calibrate. Run `nver evaluate` with --calibrate, or leave"),
        (["--format", "md"], "in the page and in scores.json, not in --format md. Leave one of"),
    ],
)
def test_an_error_rate_that_nothing_shows_is_refused(monkeypatch, tmp_path, capsys, more, says):
    monkeypatch.setattr("nver.analysis.rescore", lambda *_, **__: pytest.fail("not to be scored"))
    (tmp_path / "run.json").touch()
    argv = ["report", str(tmp_path), "--error-rate", "0.2", *more]
    assert cli.main(argv) != cli.DONE
    assert says in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize("given", ["0", "1", "5", "ten"])
def test_an_error_rate_is_a_share(given: str, capsys) -> None:
    with pytest.raises(SystemExit) as ended:
        parser().parse_args(["report", "run", "--error-rate", given])
    assert ended.value.code == USAGE
    assert f"expected a number between 0 and 1, got '{given}'" in capsys.readouterr().err


@pytest.mark.parametrize("clips", [0, 2])
def test_a_system_that_failed_is_told_once_and_seen_by_a_script(
    clips: int, capsys, monkeypatch, tmp_path
) -> None:
    said = "System 'own' on a+b failed: no such layer"
    scores = {"chance_uar": 0.5, "systems": [], "failures": [{"sentence": said}]}
    origin: dict[str, object] = {"settings": {}}
    run = experiment.Run(tmp_path, tmp_path, scores, origin, (said, "Mind the gap."), clips)
    monkeypatch.setattr(experiment, "evaluate", lambda *_, **__: run)
    argv = ["evaluate", "synthetic", "-e", "spectral", "--out", str(tmp_path)]
    assert cli.main(argv) == cli.SOME_SYSTEMS_FAILED
    told = capsys.readouterr()
    assert told.out.count(said) == 1
    assert "Note: Mind the gap." in told.out
    assert "1 system failed" in told.err
    assert ("2 clips failed, listed in" in told.err) is (clips == 2)


@pytest.mark.parametrize("argv", [["--help"], ["evaluate", "--help"]])
def test_help_names_every_exit_code(argv: list[str], capsys) -> None:
    with pytest.raises(SystemExit):
        cli.main(argv)
    told = " ".join(capsys.readouterr().out.split())
    codes = (cli.DONE, cli.ERROR, USAGE, cli.SOME_CLIPS_FAILED, cli.SOME_SYSTEMS_FAILED)
    listed = told.partition("Exit codes: ")[2]
    for code in (*codes, cli.INTERRUPTED):
        assert re.search(rf"(^|; ){code} [a-z]", listed)
