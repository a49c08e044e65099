"""The arguments of `python -m deploy_runtime`. The trap: what is not printed by --help is not there for a user."""

import argparse
from pathlib import Path

from deploy_runtime import __version__


def _count(text: str) -> int:
    """Read a whole number from 1 on."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} is no whole number from 1 on")
    return int(text)


def parser() -> argparse.ArgumentParser:
    """Return the parser of all commands."""
    made = argparse.ArgumentParser(
        prog="python -m deploy_runtime",
        description="Look at, verify and check deploy-compile bundles: numpy and one engine library, no PyTorch.",
        epilog="Exit codes: 0 done, 1 cannot do it, 2 wrong usage, 3 a gate failed.",
    )
    made.add_argument("--version", action="version", version=__version__)
    commands = made.add_subparsers(dest="command", required=True, metavar="info|verify|check|build|run|reselect|unpack")
    for name, about in (
        ("info", "what a bundle is, takes, gives, and what was measured of it"),
        ("verify", "compare every file with its digest and run the golden samples on this machine"),
        ("check", "verify, and judge what the manifest records and what became worse since a base; for CI"),
        ("build", "build the TensorRT engine on the device that will run it, once, and prove it"),
        ("run", "say what the network sees in a video, or write its map of a pair of images"),
        ("reselect", "time the shipped candidates on this machine and let load take the best of them"),
    ):
        command = commands.add_parser(name, help=about, description=f"{about[0].upper()}{about[1:]}.")
        if name == "check":
            _check_arguments(command)
        else:
            command.add_argument("bundle", metavar="BUNDLE", type=Path, help="the folder of a bundle")
        if name == "run":
            _run_arguments(command)
            continue
        if name == "build":
            _build_arguments(command)
        elif name == "reselect":
            command.add_argument("--threads", metavar="N", type=_count, help="CPU threads (default: physical cores)")
            command.add_argument("--seconds", metavar="S", type=float, default=20.0, help="time to spend (default: 20)")
        elif name != "info":
            command.add_argument("--backend", metavar="B", help="only the engines of this backend")
            command.add_argument("--junit", metavar="FILE", type=Path, help="write the result as JUnit XML")
        if name == "verify":
            command.add_argument(
                "--report", metavar="FILE", type=Path, help="time what passed too, and write what a device sends back"
            )
        command.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
    unpack = commands.add_parser("unpack", help="unpack what `deploy-compile package` wrote, plain files only")
    unpack.add_argument("archive", metavar="ARCHIVE", type=Path, help="the .tar.gz; a .sha256 beside it is compared")
    unpack.add_argument("folder", metavar="DIR", type=Path, help="where its folder goes; made if need be")
    return made


def _build_arguments(command: argparse.ArgumentParser) -> None:
    add = command.add_argument
    add("--every", action="store_true", help="build every precision that the bundle ships, not only until one passes")
    add("--workspace", metavar="MIB", type=_count, help="the most memory for the compiler's workspace (default: all)")
    add("--level", metavar="0-5", type=int, choices=range(6), help="how long to search for fast kernels (default: 3)")
    add("--hardware-compatible", action="store_true", help="for every GPU from Ampere on, slower; on no Jetson")
    add("--version-compatible", action="store_true", help="later versions of TensorRT run it too, slower")
    add("--plan", metavar="FILE", type=Path, help="also copy the engine that passed there, for a server")


def _run_arguments(command: argparse.ArgumentParser) -> None:
    add = command.add_argument
    add("--video", metavar="FILE", type=Path, help="a video: a line for every frame, or for every clip")
    add("--pair", metavar=("BEFORE", "AFTER"), nargs=2, type=Path, help="two images, for a network that compares them")
    add("--out", metavar="MAP.png", type=Path, help="with --pair: where the map goes, black its least value")
    add("--every", metavar="N", type=_count, help="take every Nth frame (default: 1; of clips 6, as calibration does)")
    add("--hop", metavar="N", type=_count, help="slide the window of a network that reads later frames by N frames")
    add("--format", choices=("csv", "jsonl"), default="csv", help="what a line is (default: csv)")
    add("--backend", metavar="B", help="only the engines of this backend")


def _check_arguments(command: argparse.ArgumentParser) -> None:
    add = command.add_argument
    add("bundles", metavar="BUNDLE", nargs="+", type=Path, help="the folder of a bundle")
    add("--against", metavar="BASE", type=Path, help="also fail on what became worse since this bundle of the recipe")
    add("--no-time", action="store_true", help="with --against: compare no latencies, this machine is not the target")
    add("--strict", action="store_true", help="what a release uses: real weights and calibration, nothing left unrun")
    add("--target", metavar="T", help="with --strict: the target whose every engine must run here (default: cpu)")
    add("--annotations", action="store_true", help="print what stands out as GitHub workflow commands")
    add("--summary", metavar="FILE", type=Path, help="append the result as Markdown, e.g. to $GITHUB_STEP_SUMMARY")
