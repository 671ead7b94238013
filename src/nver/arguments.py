"""What the command line accepts: the commands, their options and help texts."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from nver.parsing import EXIT_CODES, Parser, positive, share, two_or_more
from nver.protocols import PROTOCOLS
from nver.systems import spans

FORMATS = ("html", "md", "latex", "json")
"""What ``nver report --format`` makes, the default first."""

ERROR_RATE = 0.1
"""Of conformal sets, where ``--error-rate`` is not given."""

TRIALS = 16
"""Settings that ``--tune`` tries when it is not told how many."""

EMBEDDED = 20
"""Megabytes of clips that ``--embed-audio`` puts into the page when it is not told how many."""

A_RUN = "the folder of a run (nver evaluate --out RUN)"


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line; the command's name is its `command`."""
    from nver import __version__

    whole = Parser(
        prog="nver",
        description="Which emotion does a laugh, a cry, a scream or a sigh express?",
        epilog="First result in two minutes: nver demo\n"
        f"Then: nver evaluate FOLDER -e spectral -e prosodic --out RUN\n{EXIT_CODES}",
    )
    whole.add_argument("--version", action="version", version=f"nver {__version__}")
    whole.add_argument("--debug", action="store_true", help="show the traceback of an error")
    whole.set_defaults(debug=False)
    commands = whole.add_subparsers(
        dest="command", metavar="COMMAND", required=True, parser_class=Parser
    )

    _demo_command(commands)
    _listing_commands(commands)
    _fetch_command(commands)
    _embed_command(commands)
    _evaluate_command(commands)

    _report_command(commands)
    _compare_command(commands)
    _reproduce_command(commands)
    for command in commands.choices.values():
        command.add_argument(
            "--debug", action="store_true", default=argparse.SUPPRESS, help=argparse.SUPPRESS
        )
    return whole


def _demo_command(commands: Any) -> None:
    demo = commands.add_parser(
        "demo",
        help="the whole main job on the embedded corpus",
        description="Run the whole main job on the synthetic corpus (made by a synthesiser: scores "
        "on it say nothing about people) with the two weight-free encoders.",
    )
    demo.add_argument(
        "--out", type=Path, default=Path("runs/demo"), metavar="RUN", help="default runs/demo"
    )
    demo.add_argument(
        "--jobs", type=positive, metavar="N", help="processes (default: one per core)"
    )


def _listing_commands(commands: Any) -> None:
    for name, what in (
        ("encoders", "what turns clips into embeddings"),
        ("corpora", "the corpora that nver can read, and where to get them"),
        ("systems", "the heads, baselines and fusions that evaluate compares"),
        ("perturbations", "what evaluate can do to the test clips (--perturb)"),
    ):
        listing = commands.add_parser(name, help=what, description=f"List {what}.")
        listing.add_argument("--json", action="store_true", help="as JSON")
    commands.choices["encoders"].add_argument(
        "encoder", nargs="?", metavar="NAME", help="describe this one: checkpoints and options too"
    )
    commands.choices["encoders"].add_argument(
        "--check",
        metavar="NAME[=CHECKPOINT][,KEY=VALUE...]",
        help="check on this machine, with these weights, that the encoder's batches are exact and "
        "that it keeps the rest of its contract",
    )
    commands.choices["corpora"].add_argument(
        "corpus",
        nargs="?",
        metavar="CORPUS",
        help="describe this one: counts, speakers, refused files",
    )
    _corpus_options(commands.choices["corpora"])


def _fetch_command(commands: Any) -> None:
    fetch = commands.add_parser(
        "fetch",
        help="download an encoder's weights",
        description="Download the weights of an encoder, after saying their size and licence. "
        "Resumes, and verifies checksums. What is here is not downloaded again.",
    )
    fetch.add_argument(
        "name",
        metavar="NAME[=CHECKPOINT]",
        help="an encoder (nver encoders), alone or with one of its checkpoints, a hub id or an "
        "address",
    )
    fetch.add_argument("--json", action="store_true", help="as JSON")


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


def _evaluate_command(commands: Any) -> None:
    evaluate = commands.add_parser(
        "evaluate",
        help="cross-validate every system on a corpus and write the report",
        description="Encode a corpus, cross-validate every encoder alone, baselines and fusions, "
        "and write predictions.parquet, scores.json, run.json, failures.csv and report.html. "
        "Finished trainings are kept in RUN: the same command goes on where it was stopped.",
        epilog="The protocols, and what their scores do not say:\n"
        + "\n".join(f"{protocol.name}: {protocol.warning}" for protocol in PROTOCOLS.values())
        + f"\n{EXIT_CODES}",
    )
    _corpus_argument(evaluate)
    _encoder_options(evaluate)
    evaluate.add_argument(
        "-s",
        "--system",
        action="append",
        default=[],
        metavar="SYSTEM",
        help="only this system (nver systems), or a fusion of your own, FILE.py:CLASS; repeatable",
    )
    _fold_options(evaluate)
    evaluate.add_argument(
        "--pairs",
        action="store_true",
        help="fuse every pair of encoders, not only all of them together",
    )
    evaluate.add_argument(
        "--allow-leak",
        action="store_true",
        help="go on although a speaker or audio stands on both sides of a fold",
    )
    _analysis_options(evaluate)
    _training_options(evaluate, "nver")
    evaluate.add_argument(
        "--out", type=Path, required=True, metavar="RUN", help="folder for the results"
    )


def _analysis_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--perturb",
        action="append",
        default=[],
        metavar="NAME[:VALUE]|all",
        help="also test on perturbed clips, and report the drop: noise:10, telephone, all "
        "(nver perturbations); repeatable",
    )
    parser.add_argument(
        "--tune",
        nargs="?",
        type=positive,
        const=TRIALS,
        metavar="N",
        help=f"try N settings ({TRIALS} if N is left out) of each system in each fold, inside its "
        f"training part: of networks {spans()}; of every system the layer of each encoder given "
        "with layer=all (-e wavlm,layer=all). Needs the extra 'tune'",
    )
    parser.add_argument(
        "--calibrate",
        action="store_true",
        help="also predict the clips of each training part by inner folds, for temperature scaling "
        "and conformal sets (these need the extra 'stats'); takes three to four times as long",
    )


def _training_options(parser: argparse.ArgumentParser, recipe: str) -> None:
    parser.add_argument(
        "--recipe",
        choices=("nver", "paper"),
        default=recipe,
        help=f"how networks are trained: nver's recipe or the paper's (default: {recipe})",
    )
    parser.add_argument(
        "--jobs", type=positive, metavar="N", help="processes (default: one per core)"
    )
    parser.add_argument(
        "--device",
        choices=("cpu", "cuda"),
        default="cpu",
        help="where networks are trained (default: cpu)",
    )


def _report_command(commands: Any) -> None:
    report = commands.add_parser(
        "report",
        help="rebuild the page from a run's predictions, or print its table for a paper",
        description="Rebuild the tables, figures and the page from a run's predictions (html), or "
        "print the result table: Markdown, LaTeX (booktabs) or JSON.",
    )
    report.add_argument("run_folder", type=Path, metavar="RUN", help=A_RUN)
    report.add_argument(
        "--format", choices=FORMATS, default=FORMATS[0], help=f"default {FORMATS[0]}"
    )
    report.add_argument(
        "--out", type=Path, metavar="FILE", help="write the table to this file (not with html)"
    )
    report.add_argument(
        "--no-paths",
        action="store_false",
        dest="paths",
        help="to share the page: it does not say where clips lie, so none is played from there",
    )
    report.add_argument(
        "--embed-audio",
        nargs="?",
        type=float,
        const=EMBEDDED,
        metavar="MB",
        help="put clips into the page, up to this size as files, and a third more inside the page "
        f"(default {EMBEDDED})",
    )
    report.add_argument(
        "--error-rate",
        type=share,
        metavar="RATE",
        help="how often a conformal set may miss the true label, between 0 and 1 (default "
        f"{ERROR_RATE}); for the page and scores.json of a run with --calibrate",
    )


def _compare_command(commands: Any) -> None:
    compare = commands.add_parser(
        "compare",
        help="test whether systems differ on the same clips",
        description="Test whether two systems differ on the same out-of-fold clips: the difference "
        "in UAR with its interval, a paired permutation test, and how small a difference these "
        "clips could show. One RUN: every system against the best, "
        "with a correction for that choice. Two runs: the best of each, then what both have.",
    )
    compare.add_argument("run_folder", type=Path, metavar="RUN", help=A_RUN)
    compare.add_argument(
        "other_folder", type=Path, metavar="RUN2", nargs="?", help="another one, of the same clips"
    )
    compare.add_argument(
        "-s",
        "--system",
        action="append",
        default=[],
        metavar="SYSTEM[@ENCODER+...]",
        help="once: this system against all others (of RUN2: against the same one); twice: these "
        "two, the second of RUN2 if it is given",
    )
    compare.add_argument("--json", action="store_true", help="as JSON, with effect sizes")


def _reproduce_command(commands: Any) -> None:
    reproduce = commands.add_parser(
        "reproduce",
        help="the paper's grid on the corpora and encoders that are here",
        description="Run the grid of the MATA paper on whichever of its corpora are on this machine"
        " with whichever encoders can be built: in the paper's protocol, and in one that keeps "
        "speakers apart; beside the published figures. What is missing is said with where to get "
        "it. A command that is stopped goes on where it was.",
    )
    reproduce.add_argument("paper", metavar="PAPER", help="mata")
    _paper_corpora(reproduce)
    reproduce.add_argument(
        "--folds",
        action="append",
        default=[],
        metavar="|".join(PROTOCOLS),
        help="only this protocol; repeatable (default: random, as the paper, and speaker, or loso "
        "where speakers are few)",
    )
    reproduce.add_argument(
        "-e",
        "--encoder",
        action="append",
        default=[],
        metavar="NAME[=CHECKPOINT][,KEY=VALUE...]",
        help="only this encoder; repeatable (default: all that run here)",
    )
    reproduce.add_argument(
        "--weights",
        type=Path,
        metavar="DIR",
        help="folder with checkpoints, beside the usual places (default: a folder 'weights' beside "
        "the corpus or its parent folders)",
    )
    reproduce.add_argument("-k", type=two_or_more, default=5, metavar="K", help="folds (default 5)")
    reproduce.add_argument(
        "--seeds",
        type=positive,
        default=1,
        metavar="N",
        help="trainings per network, one or at least three (default 1)",
    )
    reproduce.add_argument("--allow-leak", action="store_true", help="as in evaluate")
    _training_options(reproduce, "paper")
    reproduce.add_argument("--dry-run", action="store_true", help="print the plan and stop")
    reproduce.add_argument(
        "--out", type=Path, default=Path("runs/mata"), metavar="DIR", help="default runs/mata"
    )


def _paper_corpora(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--corpus",
        action="append",
        default=[],
        metavar="CORPUS",
        help="a manifest, folder or name in place of the paper's corpora; repeatable",
    )
    parser.add_argument(
        "--root",
        type=Path,
        metavar="DIR",
        help="folder with a sub-folder per named corpus (default: NVER_HOME/corpora)",
    )
    parser.add_argument(
        "--label-column", metavar="NAME", help="the manifest's column to predict (default: label)"
    )


def _fold_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--folds",
        metavar="|".join(PROTOCOLS),
        help="; ".join(f"{p.name}: {p.summary}" for p in PROTOCOLS.values())
        + ". Default: speaker where speakers are known, else random",
    )
    parser.add_argument(
        "-k", type=two_or_more, default=5, metavar="K", help="number of folds (default 5)"
    )
    parser.add_argument(
        "--seeds",
        type=positive,
        default=1,
        metavar="N",
        help="trainings per neural system (default 1); of several, take at least three: two tell "
        "little of how much a score moves, so intervals are wide",
    )


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
        help="an encoder (nver encoders), with its checkpoint (a file, a folder, a hub id, an "
        "address or a short name) and its options; or hf:ORG/NAME, or FILE.py:CLASS; repeatable",
    )
    parser.add_argument(
        "--batch-size", type=positive, default=32, metavar="N", help="clips a batch (default 32)"
    )
