"""cssm viz: pictures of what a mixer does."""

import dataclasses
from pathlib import Path

import tyro

from .common import parse, prepare_process


@dataclasses.dataclass(frozen=True, kw_only=True)
class Impulse:
    mixer: tyro.conf.Positional[str]
    """Which mixer: see `cssm list mixers`."""
    output: Path | None = None
    """Where the PNG goes; default impulse-MIXER.png here."""
    grid: tuple[int, int] = (21, 21)
    """Pixels, height and width; an odd grid has a centre."""
    frames: int = 8
    """Frames, the impulse being in frame 0."""
    channels: int = 8
    """Channels of the mixer, of which the strongest are drawn."""
    rows: int = 3
    """Channels that are drawn."""
    seed: int = 0
    """Seed of the untrained parameters."""


USAGE = """\
usage: cssm viz impulse MIXER [--output FILE] [options]

impulse   what a point in one frame becomes, over space and time, in an untrained mixer

examples:
  cssm viz impulse no_gate                          writes impulse-no_gate.png
  cssm viz impulse conv_ssm --output a.png --frames 12
  cssm viz impulse --help                           every option
"""


def main(argv: list[str]) -> int:
    if not argv or argv[0] in ("-h", "--help"):
        print(USAGE, end="")
        return 0
    if argv[0] not in KINDS:
        from cssm.core.errors import UnknownNameError

        raise UnknownNameError("picture", argv[0], KINDS)
    return KINDS[argv[0]](argv[1:])


def _impulse(argv: list[str]) -> int:
    flags = parse(Impulse, argv, "viz impulse", "Draw what a point in one frame becomes, over space and time.")
    from cssm.core.errors import UsageError
    from cssm.core.files import check_output
    from cssm.nn import MIXERS
    from cssm.viz.impulse import draw_impulse

    MIXERS[flags.mixer]  # an unknown name is told before anything is set up
    if flags.rows < 1:
        raise UsageError(f"--rows is {flags.rows}: draw at least 1 channel")
    path = check_output(flags.output or Path(f"impulse-{flags.mixer}.png"), ".png", "--output")
    prepare_process()
    options = {"grid": flags.grid, "frames": flags.frames, "channels": flags.channels, "seed": flags.seed}
    print(f"drew {draw_impulse(flags.mixer, path, rows=flags.rows, **options)}")
    return 0


KINDS = {"impulse": _impulse}
