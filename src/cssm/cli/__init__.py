"""The command line. Each command is one file; nothing heavy is imported before the command is known."""

import importlib
import io
import itertools
import os
import sys

from cssm.core.errors import CssmError, UnknownNameError, UsageError

COMMANDS = {
    "train": "train a recipe, or your own data, any value overridden; --resume continues",
    "eval": "figures of a trained run on its test split, beside the shortcut baseline",
    "predict": "classes and probabilities of pictures and clips of your own, by a trained run",
    "stream": "run a trained model frame by frame over a clip: constant memory, same output",
    "track": "follow points through a video, out of the box: tracks drawn, saved, live",
    "inspect": "what a trained run has learned and what it costs, layer by layer",
    "data": "make, verify, preview and check data sets; cut a clip to stream",
    "list": "mixers, models, data sets, recipes and benchmarks",
    "viz": "pictures of what a mixer does: its impulse response over space and time",
    "bench": "interleaved benchmarks: ratios against the plain path",
}
EXAMPLES = """\
examples:
  cssm train demo                                    minutes on a laptop; draws curves and predictions
  cssm train pathtracker --cssm conv_ssm --embed-dim 64 --seq-len 32
  cssm train demo --out runs/a                       cssm train demo --out runs/a --resume
  cssm eval runs/a          cssm inspect runs/a          cssm predict runs/a clip.npz
  cssm data clip pathtracker --output clip.npz --frames 8 --distractors 0
  cssm stream runs/a --input clip.npz
  cssm track clip.mp4 --grid 10 --output tracked.mp4
"""


def usage() -> str:
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {text}" for name, text in COMMANDS.items()]
    head = (
        "usage: cssm COMMAND [options]\n\nState-space models that see.\n\ncommands (cssm COMMAND --help for options):\n"
    )
    return head + "\n".join(lines) + "\n\n" + EXAMPLES


def main(argv: list[str] | None = None) -> int:
    """Run one command; the exit code is 0, 1 for a failure, 2 for a mistake in what was asked, 130 for Ctrl-C."""
    argv = sys.argv[1:] if argv is None else argv
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a terminal of ASCII or latin-1: "?" for what it has no sign for
            stream.reconfigure(errors="replace")
    if not argv or argv[0] in ("-h", "--help"):
        print(usage(), end="")
        return 0
    if argv[0] == "--version":
        from importlib.metadata import version

        print(version("cssm"))
        return 0
    try:
        if argv[0] not in COMMANDS:
            raise UnknownNameError("command", argv[0], [*COMMANDS, "--version", "--help"])
        _refuse_empty(argv)
        os.environ.setdefault("NNX_GRAPH_MODE", "false")
        os.environ.setdefault("NNX_GRAPH_UPDATES", "false")
        return importlib.import_module(f"cssm.cli.{argv[0]}").main(argv[1:]) or 0
    except CssmError as error:
        print(f"cssm: error: {' '.join(str(error).split())}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("cssm: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        where = f"{_shown(error.filename)}: " if error.filename else ""
        print(f"cssm: error: {where}{error.strerror or error}: choose another path", file=sys.stderr)
        return 1


def _refuse_empty(argv: list[str]) -> None:
    """An empty word, such as that of an unset shell variable, would be the current folder where a path is read."""
    for before, word in itertools.pairwise(argv):
        if not word.strip():
            raise UsageError(f"cssm {argv[0]}: the word after {before} is empty: leave it out, or name what is meant")


def _shown(path: object) -> str:
    """The file that was to be written, for one that stands in for it until it is whole."""
    folder, name = os.path.split(os.fsdecode(path) if isinstance(path, (str, bytes, os.PathLike)) else str(path))
    return os.path.join(folder, name[1:-4] if name.startswith(".") and name.endswith(".new") else name)
