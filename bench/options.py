"""The command line's options, checked before anything is measured."""

import argparse
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import torch

import fused_dropout

from .choice import Choice, Level, words

DTYPES = {words(dtype): dtype for dtype in (torch.float32, torch.bfloat16, torch.float16)}
EPILOG = """A ratio is our time divided by theirs: below 1, ours is faster.
Exit status: 0, measured or compared; 1, a target is missed (with --strict), or something is slower beyond noise (with
--compare); 2, wrong usage, or this machine lacks what was asked for; 130, interrupted, and what was measured until then
has been printed and written."""


def parse(arguments: Sequence[str] | None) -> tuple[argparse.ArgumentParser, argparse.Namespace]:
    parser = argparse.ArgumentParser(
        prog="python -m fused_dropout.bench",
        description="Times fused_dropout against PyTorch and other implementations, on this machine.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    much = parser.add_mutually_exclusive_group()
    much.add_argument("--quick", action="store_true", help="fewer cases, sizes and samples: about a minute")
    much.add_argument("--full", action="store_true", help="what the repository's results have: about 25 minutes")
    parser.add_argument("--device", choices=("cpu", "cuda"), help="default: cuda where it can be used, or else cpu")
    parser.add_argument("--dtype", choices=tuple(DTYPES), nargs="+", default=[], help="default: all that are planned")
    parser.add_argument("--sizes", type=_positive, nargs="+", default=[], metavar="N", help="elements; 2^20 is one too")
    parser.add_argument("--p", type=_probability, default=0.1, help="of dropping; default: 0.1")
    parser.add_argument("--operations", nargs="+", default=[], metavar="NAME", help='e.g. dropout "dropout backward"')
    parser.add_argument("--peers", nargs="+", default=[], metavar="NAME", help="e.g. F.dropout jax.jit mul")
    parser.add_argument("--threads", type=_positive, nargs="+", metavar="N", help="of the CPU; default: 1 and all")
    parser.add_argument("--only", default="", metavar="SUBSTRING", help='of a label: "vs mul float32", "sweep cpu"')
    parser.add_argument("--json", type=Path, metavar="PATH", help="write everything, with its provenance")
    parser.add_argument("--csv", type=Path, metavar="PATH", help="write a line for each measurement")
    parser.add_argument("--plots", type=Path, metavar="FOLDER", help="draw PNG and SVG files there")
    parser.add_argument("--strict", action="store_true", help="exit with 1 if a target is missed")
    parser.add_argument("--compare", type=Path, nargs=2, metavar=("A", "B"), help="compare two JSON files, and no more")
    return parser, _checked(parser, parser.parse_args(arguments))


def _checked(parser: argparse.ArgumentParser, options: argparse.Namespace) -> argparse.Namespace:
    if options.compare:
        return options
    build = fused_dropout.build_info()
    if not build["extension"]:
        parser.error("expected the extension, but it is not built: there is nothing to measure in its reference")
    if refusal := _cannot_be_written(options):
        parser.error(refusal)
    needed = ["tqdm"] + ["matplotlib"] * (options.plots is not None)
    if missing := [name for name in needed if find_spec(name) is None]:
        parser.error(f"{' and '.join(missing)} missing: pip install 'fused-dropout[bench]', or {' '.join(missing)}")
    cuda = torch.cuda.is_available() and build["cuda"] is not None
    if options.device == "cuda" and not cuda:
        parser.error("--device cuda: expected a GPU that PyTorch sees and an extension built with CUDA")
    options.device = options.device or ("cuda" if cuda else "cpu")
    return options


def _cannot_be_written(options: argparse.Namespace) -> str | None:
    """Found by trying, before anything is measured: what was measured would be lost."""
    for path in filter(None, (options.json, options.csv)):
        is_new = not path.exists()
        try:
            path.open("a").close()
        except OSError as error:
            return f"{path}: {error.strerror}"
        if is_new:
            path.unlink()
    if options.plots is not None and options.plots.exists() and not options.plots.is_dir():
        return f"{options.plots}: expected a folder, but it is a file"
    return None


def choice_of(options: argparse.Namespace) -> Choice:
    return Choice(
        level=Level.QUICK if options.quick else Level.FULL if options.full else Level.DEFAULT,
        device=options.device,
        threads=tuple(dict.fromkeys(options.threads or (1, torch.get_num_threads()))),
        p=options.p,
        dtypes=tuple(DTYPES[name] for name in options.dtype),
        sizes=tuple(options.sizes),
        operations=tuple(options.operations),
        peers=tuple(options.peers),
        only=options.only,
    )


def _positive(text: str) -> int:
    base, _, power = text.partition("^")
    if base.isdecimal() and int(base) and (not _ or power.isdecimal()):
        return int(base) ** int(power or 1)
    raise argparse.ArgumentTypeError(f"expected a number, 1 or more, or a power such as 2^20, but got {text!r}")


def _probability(text: str) -> float:
    try:
        p = float(text)
    except ValueError:
        p = -1.0
    if not 0 < p < 1:
        raise argparse.ArgumentTypeError(f"expected a number between 0 and 1, but got {text!r}")
    return p
