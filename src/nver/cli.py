"""The command line: what is printed and how it ends; every command calls one Python function.

An error is said in one line, or one for each of its paragraphs (a traceback only with ``--debug``).
The exit codes are those of `nver.parsing`.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from textwrap import wrap
from typing import TYPE_CHECKING, Any, NoReturn

from nver.arguments import ERROR_RATE, parser
from nver.errors import NverError, SettingsError
from nver.parsing import DONE, ERROR, INTERRUPTED, SOME_CLIPS_FAILED, SOME_SYSTEMS_FAILED

if TYPE_CHECKING:
    from nver.config import Settings
    from nver.extraction import Failure

MOMENT = 2.0
"""Seconds; the bar of what took less is wiped out at the end."""


def _settings(arguments: argparse.Namespace) -> Settings:
    from nver.config import EncoderChoice, Settings

    names = Settings.__dataclass_fields__
    given = {name: value for name, value in vars(arguments).items() if name in names}
    given["encoders"] = tuple(EncoderChoice.parse(text) for text in arguments.encoder)
    if "system" in vars(arguments):
        given["systems"] = tuple(arguments.system)
    if "perturb" in given:
        given["perturb"] = tuple(given["perturb"])
    return Settings(**given)


def _demo(arguments: argparse.Namespace) -> int:
    from nver.config import demo_settings

    print("Synthetic vocal bursts, made by a synthesiser: the scores say nothing about people.")
    return _finish(demo_settings(jobs=arguments.jobs), arguments.out)


def _evaluate(arguments: argparse.Namespace) -> int:
    return _finish(_settings(arguments), arguments.out)


def _finish(settings: Settings, out: Path) -> int:
    from nver.experiment import evaluate
    from nver.report.findings import findings
    from nver.report.tables import WIDTH, text_table

    with _Bars() as bars:
        run = evaluate(settings, out, progress=bars)
    print(text_table(run.scores))
    if found := findings(run.scores, run.origin):
        print(f"\n{found}")
    told = run.systems_failed  # below the table
    for warning in (one for one in run.warnings if one not in told):
        # A file's name or an address is copied in one piece.
        lines = wrap(f"Note: {warning}", WIDTH, break_long_words=False, break_on_hyphens=False)
        print("\n".join(lines))
    print(f"Report: {run.report}")
    return _failed(run.failed, out / "failures.csv", len(run.systems_failed))


def _failed(clips: int, listed: Path | None, systems: int = 0) -> int:
    """Say how many clips and systems failed, and return the exit code: the systems' if any did."""
    if clips:
        where = f", listed in {listed}" if listed else ""
        print(f"{clips} clip{'s' if clips > 1 else ''} failed{where}.", file=sys.stderr)
    if systems:
        several = "s" if systems > 1 else ""
        print(f"{systems} system{several} failed; why is said above.", file=sys.stderr)
        return SOME_SYSTEMS_FAILED
    return SOME_CLIPS_FAILED if clips else DONE


def _embed(arguments: argparse.Namespace) -> int:
    from nver.encoding import encode
    from nver.experiment import write_failures

    with _Bars() as bars:
        encoding = encode(_settings(arguments), progress=bars)
    failures = encoding.failures
    if arguments.failures:
        write_failures(arguments.failures, failures)
    if arguments.json:
        print(json.dumps(encoding.to_dict(), indent=1))
    else:
        print(encoding.sentence())
        _show_failures(() if arguments.failures else failures)
    return _failed(len(failures), arguments.failures)


def _show_failures(failures: Sequence[Failure]) -> None:
    """Print every reason once, with the first files that have it."""
    by_reason: dict[str, list[str]] = {}
    for failure in failures:
        by_reason.setdefault(failure.reason, []).append(failure.file)
    for reason, files in by_reason.items():
        more = f" and {len(files) - 3} more" if len(files) > 3 else ""
        print(f"  {', '.join(files[:3])}{more}: {reason}", file=sys.stderr)


def _error_rate(arguments: argparse.Namespace) -> float:
    """Return the error rate of sets; SettingsError where one was given that nothing would show."""
    from nver.analysis import INNER, RUN

    if arguments.error_rate is None:
        return ERROR_RATE
    if arguments.format != "html":
        raise SettingsError(
            "--error-rate is of the prediction sets, which stand in the page and in scores.json, "
            f"not in --format {arguments.format}. Leave one of the two out."
        )
    folder = arguments.run_folder
    if (folder / RUN).is_file() and not (folder / INNER).is_file():
        raise SettingsError(
            f"--error-rate is of the prediction sets, and '{folder}' has none: it was made without "
            "--calibrate. Run `nver evaluate` with --calibrate, or leave --error-rate out."
        )
    return float(arguments.error_rate)


def _report(arguments: argparse.Namespace) -> int:
    from nver.analysis import rescore
    from nver.report import write_report

    error_rate = _error_rate(arguments)
    if arguments.format == "html":
        if arguments.out:
            raise SettingsError(
                "The page stands in its run folder; --out is for --format md, latex and json."
            )
        rescore(arguments.run_folder, error_rate=error_rate)
        page = write_report(
            arguments.run_folder, paths=arguments.paths, megabytes=arguments.embed_audio
        )
        print(f"Report: {page} ({page.stat().st_size / 1e6:.1f} MB)")
        return DONE
    from nver.report.formats import FORMATS
    from nver.report.record import read_record

    rescore(arguments.run_folder, error_rate=error_rate)
    text = FORMATS[arguments.format](read_record(arguments.run_folder))
    if arguments.out:
        arguments.out.write_text(text, encoding="utf-8")
        print(f"Table: {arguments.out}")
    else:
        print(text, end="")
    return DONE


def _compare(arguments: argparse.Namespace) -> int:
    from nver.versus import versus

    found = versus(arguments.run_folder, arguments.other_folder, arguments.system)
    print(json.dumps(found.to_dict(), indent=1) if arguments.json else found.text())
    return DONE


def _reproduce(arguments: argparse.Namespace) -> int:
    from nver.reproduction import Wanted, plan, reproduce

    names = Wanted.__dataclass_fields__
    given = {name: value for name, value in vars(arguments).items() if name in names}
    given |= {"corpora": tuple(arguments.corpus), "encoders": tuple(arguments.encoder)}
    planned = plan(Wanted(**given | {"folds": tuple(arguments.folds)}))
    print(planned.text(), flush=True)
    if arguments.dry_run:
        return DONE
    with _Bars() as bars:
        done = reproduce(planned, arguments.out, bars, lambda said: print(said, flush=True))
    print(f"Report: {done.index}")
    code = _failed(done.failed, None, done.systems_failed)
    return ERROR if done.undone else code


def _fetch(arguments: argparse.Namespace) -> int:
    from nver.config import EncoderChoice
    from nver.corpora import CORPORA, corpus_card
    from nver.encoders.fetching import fetch

    choice = EncoderChoice.parse(arguments.name)
    if choice.name in CORPORA.names():
        raise SettingsError(
            f"'{choice.name}' is a corpus, and only weights are fetched. Where it is from: "
            f"{corpus_card(choice.name).url}"
        )
    found = fetch(choice.name, choice.checkpoint)
    if arguments.json:
        print(json.dumps({"name": choice.name} | found.to_dict(), indent=1))
    else:
        print(found.sentence(choice.name))
    return DONE


def _check(arguments: argparse.Namespace) -> int:
    from nver.config import EncoderChoice
    from nver.encoders.conformance import check_encoder

    report = check_encoder(EncoderChoice.parse(arguments.check).load())
    print(json.dumps(report.to_dict(), indent=1) if arguments.json else report)
    return DONE if report.passed else ERROR


def _listing(arguments: argparse.Namespace) -> int:
    from nver import listings

    if arguments.command == "encoders" and arguments.check:
        return _check(arguments)
    form = listings.text
    if arguments.command == "encoders" and arguments.encoder:
        rows = listings.encoder(arguments.encoder)
    elif arguments.command == "encoders":
        rows, form = listings.encoders(), listings.table
    elif arguments.command == "corpora" and arguments.corpus:
        rows = listings.corpus(
            arguments.corpus, arguments.root, arguments.subset, arguments.label_column
        )
    else:
        rows = getattr(listings, arguments.command)()
    print(json.dumps(rows, indent=1, ensure_ascii=False) if arguments.json else form(rows))
    return DONE


COMMANDS: dict[str, Callable[[argparse.Namespace], int]] = {
    "demo": _demo,
    "encoders": _listing,
    "corpora": _listing,
    "systems": _listing,
    "perturbations": _listing,
    "fetch": _fetch,
    "embed": _embed,
    "evaluate": _evaluate,
    "report": _report,
    "compare": _compare,
    "reproduce": _reproduce,
}


class _Bars:
    """Progress bars on standard error: none when it is no terminal, none is left of a moment."""

    def __init__(self) -> None:
        self._bars: dict[str, Any] = {}
        self._left: dict[str, float] = {}

    def __call__(self, what: str, done: int, total: int) -> None:
        """Move the bar of `what` to `done` of `total`."""
        from tqdm import tqdm

        if what not in self._bars:
            # What an earlier run has done counts as done, and not into the pace.
            self._bars[what] = tqdm(
                desc=what, total=total, initial=done, disable=None, dynamic_ncols=True
            )
        bar = self._bars[what]
        bar.total = total
        if what in self._left:
            bar.bar_format = "{l_bar}{bar}| {n_fmt}/{total_fmt} [{elapsed}{postfix}]"
            left = tqdm.format_interval(round(self._left[what]))
            bar.set_postfix_str(f"about {left} left", refresh=False)
        bar.update(done - bar.n)

    def time_left(self, what: str, seconds: float) -> None:
        """Note how long the rest of `what` will take, for its next move."""
        self._left[what] = seconds

    def __enter__(self) -> _Bars:
        return self

    def __exit__(self, *_: object) -> None:
        for bar in self._bars.values():
            bar.leave = not bar.disable and bar.format_dict["elapsed"] > MOMENT
            bar.close()


@contextmanager
def _terminated_like_ctrl_c() -> Iterator[None]:
    """Let SIGTERM stop the processes of a run as Ctrl-C does."""

    def interrupt(*_: object) -> NoReturn:
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():  # no handler may be set there
        yield
        return
    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    arguments = parser().parse_args(argv)
    try:
        with _terminated_like_ctrl_c():
            return COMMANDS[arguments.command](arguments)
    except KeyboardInterrupt:
        print(
            "\nInterrupted. What was encoded and trained is kept: "
            "the same command goes on from there.",
            file=sys.stderr,
        )
        return INTERRUPTED
    except BrokenPipeError:
        sys.stderr.close()
        return DONE
    except (NverError, OSError) as error:
        if arguments.debug:
            raise
        paragraphs = (" ".join(text.split()) for text in str(error).split("\n\n"))
        print("nver: " + "\n".join(paragraphs), file=sys.stderr)
        return ERROR
    except Exception as error:  # the door: every error becomes one line and a code
        if arguments.debug:
            raise
        print(f"nver: unexpected {type(error).__name__}: {error}", file=sys.stderr)
        print("Run again with --debug for the traceback.", file=sys.stderr)
        return ERROR


if __name__ == "__main__":
    sys.exit(main())
