"""The command line: argument parsing and exit codes only; every command calls one Python function.

Exit codes: 0 done; 1 an error, said in one line (a traceback only with ``--debug``); 2 wrong usage;
3 done, but some clips failed (listed in failures.csv); 130 interrupted.
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
from typing import TYPE_CHECKING, Any, NoReturn

from nver.errors import NverError
from nver.registry import nearest

if TYPE_CHECKING:
    from nver.config import Settings

DONE, ERROR, USAGE, SOME_CLIPS_FAILED, INTERRUPTED = 0, 1, 2, 3, 130


class _Parser(argparse.ArgumentParser):
    """argparse, with the nearest known name for a command or option that it does not know."""

    def error(self, message: str) -> NoReturn:
        parsers: list[argparse.ArgumentParser] = [self]
        known: list[str] = []
        for parser in parsers:
            for action in parser._actions:
                known += action.option_strings
                if isinstance(action, argparse._SubParsersAction):
                    known += action.choices
                    parsers += action.choices.values()
        words = message.replace(",", " ").replace("'", " ").split()
        for word in words:
            guess = nearest(word, known)
            if word not in known and guess and word in sys.argv:
                message += f". Did you mean '{guess}'?"
                break
        super().error(message)


def _parser() -> argparse.ArgumentParser:
    from nver import __version__

    parser = _Parser(
        prog="nver",
        description="Which emotion does a laugh, a cry, a scream or a sigh express?",
        epilog="First result in two minutes: nver demo. "
        "Then: nver evaluate FOLDER -e spectral -e prosodic --out RUN",
    )
    parser.add_argument("--version", action="version", version=f"nver {__version__}")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    parser.set_defaults(debug=False)
    commands = parser.add_subparsers(
        dest="command", metavar="COMMAND", required=True, parser_class=_Parser
    )

    _demo_command(commands)
    _listing_commands(commands)
    _embed_command(commands)
    _evaluate_command(commands)

    report = commands.add_parser(
        "report", help="rebuild the tables, figures and the page from a run's predictions"
    )
    report.add_argument("run_folder", type=Path, metavar="RUN")
    report.set_defaults(run=_report)
    for command in commands.choices.values():
        command.add_argument(
            "--debug", action="store_true", default=argparse.SUPPRESS, help=argparse.SUPPRESS
        )
    return parser


def _demo_command(commands: Any) -> None:
    demo = commands.add_parser(
        "demo",
        help="the whole main job on the embedded corpus",
        description="Run the whole main job on the synthetic corpus (made by a synthesiser: scores "
        "on it say nothing about people) with the two weight-free encoders.",
    )
    demo.add_argument("--out", type=Path, default=Path("runs/demo"), metavar="RUN")
    demo.add_argument(
        "--jobs", type=_positive, metavar="N", help="processes (default: one per core)"
    )
    demo.set_defaults(run=_demo)


def _listing_commands(commands: Any) -> None:
    for name, what in (
        ("encoders", "what turns clips into embeddings"),
        ("corpora", "the corpora that nver can read, and where to get them"),
        ("systems", "the heads, baselines and fusions that evaluate compares"),
    ):
        listing = commands.add_parser(name, help=what, description=f"List {what}.")
        listing.add_argument("--json", action="store_true", help="as JSON")
        listing.set_defaults(run=_listing)
    commands.choices["corpora"].add_argument(
        "corpus",
        nargs="?",
        metavar="CORPUS",
        help="describe this one: counts, speakers, refused files",
    )
    _corpus_options(commands.choices["corpora"])


def _embed_command(commands: Any) -> None:
    embed = commands.add_parser(
        "embed",
        help="fill the embedding store",
        description="Encode a corpus into the store. Resumes.",
    )
    _corpus_argument(embed)
    _encoder_options(embed)
    embed.add_argument("--json", action="store_true", help="print the counts as JSON")
    embed.add_argument(
        "--failures", type=Path, metavar="FILE", help="write the clips that failed to this CSV file"
    )
    embed.set_defaults(run=_embed)


def _evaluate_command(commands: Any) -> None:
    evaluate = commands.add_parser(
        "evaluate",
        help="cross-validate every system on a corpus and write the report",
        description="Encode a corpus, cross-validate every encoder alone, baselines and fusions, "
        "and write predictions.parquet, scores.json, run.json, failures.csv and report.html.",
    )
    _corpus_argument(evaluate)
    _encoder_options(evaluate)
    evaluate.add_argument(
        "-s",
        "--system",
        action="append",
        default=[],
        metavar="SYSTEM",
        help="only this system; repeatable",
    )
    evaluate.add_argument(
        "--folds",
        metavar="speaker|random|loso|column:NAME",
        help="speaker-independent (default where speakers are known), random (the paper's), "
        "leave one speaker out, or the manifest's own fold column",
    )
    evaluate.add_argument(
        "-k", type=_positive, default=5, metavar="K", help="number of folds (default 5)"
    )
    evaluate.add_argument(
        "--seeds",
        type=_positive,
        default=1,
        metavar="N",
        help="trainings per neural system (default 1)",
    )
    evaluate.add_argument(
        "--pairs",
        action="store_true",
        help="fuse every pair of encoders, not only all of them together",
    )
    evaluate.add_argument(
        "--allow-leak",
        action="store_true",
        help="go on although audio stands on both sides of a fold",
    )
    evaluate.add_argument(
        "--jobs", type=_positive, metavar="N", help="processes (default: one per core)"
    )
    evaluate.add_argument(
        "--out", type=Path, required=True, metavar="RUN", help="folder for the results"
    )
    evaluate.set_defaults(run=_evaluate)


def _corpus_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "corpus",
        metavar="CORPUS",
        help="a name (nver corpora), a folder with a sub-folder per label, or a manifest",
    )
    _corpus_options(parser)


def _corpus_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--root", type=Path, metavar="DIR", help="where the named corpus lies")
    parser.add_argument(
        "--subset", metavar="NAME", help="a part of the corpus (asvp-esd: speech; vivae: core)"
    )
    parser.add_argument(
        "--label-column", metavar="NAME", help="the manifest's column to predict (default: label)"
    )


def _encoder_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "-e",
        "--encoder",
        action="append",
        required=True,
        metavar="NAME[=CHECKPOINT][,KEY=VALUE...]",
        help="an encoder (nver encoders), with its checkpoint (a local folder or a hub id) and its "
        "options; repeatable",
    )
    parser.add_argument(
        "--batch-size", type=_positive, default=32, metavar="N", help="clips a batch (default 32)"
    )


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number from 1, got '{text}'")
    return int(text)


def _settings(arguments: argparse.Namespace) -> Settings:
    from nver.config import EncoderChoice, Settings

    names = Settings.__dataclass_fields__
    given = {name: value for name, value in vars(arguments).items() if name in names}
    given["encoders"] = tuple(EncoderChoice.parse(text) for text in arguments.encoder)
    if "system" in vars(arguments):
        given["systems"] = tuple(arguments.system)
    return Settings(**given)


def _demo(arguments: argparse.Namespace) -> int:
    from nver.config import demo_settings

    print("Synthetic vocal bursts, made by a synthesiser: the scores say nothing about people.")
    return _finish(demo_settings(jobs=arguments.jobs), arguments.out)


def _evaluate(arguments: argparse.Namespace) -> int:
    return _finish(_settings(arguments), arguments.out)


def _finish(settings: Settings, out: Path) -> int:
    from nver.experiment import evaluate
    from nver.report.tables import text_table

    with _Bars() as bars:
        run = evaluate(settings, out, progress=bars)
    print(text_table(run.scores))
    for warning in run.warnings:
        print(f"Note: {warning}")
    print(f"Report: {run.report}")
    return _failed(run.failed, out / "failures.csv")


def _failed(count: int, listed: Path | None) -> int:
    if not count:
        return DONE
    where = f", listed in {listed}" if listed else ""
    print(f"{count} clip{'s' if count > 1 else ''} failed{where}.", file=sys.stderr)
    return SOME_CLIPS_FAILED


def _embed(arguments: argparse.Namespace) -> int:
    from nver.experiment import encode, write_failures

    with _Bars() as bars:
        encoding = encode(_settings(arguments), progress=bars)
    failures = encoding.failures
    if arguments.failures:
        write_failures(arguments.failures, failures)
    if arguments.json:
        print(json.dumps(encoding.to_dict(), indent=1))
    else:
        print(encoding.sentence())
        for failure in () if arguments.failures else failures:
            print(f"  {failure.file}: {failure.reason}", file=sys.stderr)
    return _failed(len(failures), arguments.failures)


def _report(arguments: argparse.Namespace) -> int:
    from nver.report import write_report

    print(f"Report: {write_report(arguments.run_folder)}")
    return DONE


def _listing(arguments: argparse.Namespace) -> int:
    from nver import listings

    if arguments.command == "corpora" and arguments.corpus:
        rows = listings.corpus(
            arguments.corpus, arguments.root, arguments.subset, arguments.label_column
        )
    else:
        rows = getattr(listings, arguments.command)()
    print(json.dumps(rows, indent=1, ensure_ascii=False) if arguments.json else listings.text(rows))
    return DONE


class _Bars:
    """Progress bars on standard error: none when it is no terminal, none before two seconds."""

    def __init__(self) -> None:
        self._bars: dict[str, Any] = {}

    def __call__(self, what: str, done: int, total: int) -> None:
        """Move the bar of `what` to `done` of `total`."""
        from tqdm import tqdm

        if what not in self._bars:
            self._bars[what] = tqdm(
                desc=what, total=total, delay=2, disable=None, dynamic_ncols=True
            )
        bar = self._bars[what]
        bar.total = total
        bar.update(done - bar.n)

    def __enter__(self) -> _Bars:
        return self

    def __exit__(self, *_: object) -> None:
        for bar in self._bars.values():
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
    arguments = _parser().parse_args(argv)
    command: Callable[[argparse.Namespace], int] = arguments.run
    try:
        with _terminated_like_ctrl_c():
            return command(arguments)
    except KeyboardInterrupt:
        print(
            "\nInterrupted. What was encoded is kept: the same command goes on from there.",
            file=sys.stderr,
        )
        return INTERRUPTED
    except BrokenPipeError:
        sys.stderr.close()
        return DONE
    except (NverError, OSError) as error:
        if arguments.debug:
            raise
        print(f"nver: {' '.join(str(error).split())}", file=sys.stderr)
        return ERROR
    except Exception as error:  # the door: every error becomes one line and a code
        if arguments.debug:
            raise
        print(f"nver: unexpected {type(error).__name__}: {error}", file=sys.stderr)
        print("Run again with --debug for the traceback.", file=sys.stderr)
        return ERROR


if __name__ == "__main__":
    sys.exit(main())
