"""cssm stream: frame by frame, constant memory, the output of the parallel pass."""

import dataclasses
import itertools
import json
import time
from collections.abc import Iterator
from pathlib import Path

from cssm.core.errors import ShapeError

from .common import SavedRun, parse, prepare_process, refuse_tracker


@dataclasses.dataclass(frozen=True, kw_only=True)
class Flags(SavedRun):
    input: Path
    """Clip (T, H, W, 3), uint8 or already normalised float: .npz or .npy (`cssm data clip` writes one); or a video
    file, GIF or folder of pictures, whose frames are scaled and cut to the size of the training frames."""
    dt: float = 1.0
    """Time between frames, in frames of the training data: 2 for a video at half the frame rate. Mixers with a fixed
    transition take it (`cssm list mixers`, column dt)."""
    any_size: bool = False
    """Accept frames of another size than the training frames (the mixers follow the grid)."""
    check: bool = False
    """Also run the whole clip in parallel and print the largest difference of the final output."""
    json: bool = False
    """One line of JSON per frame instead of bars."""


def main(argv: list[str]) -> int:
    flags = parse(Flags, argv, "stream", "Run a trained model over a clip, one frame at a time.")
    from cssm.data.formats.video import is_video, open_video, read_clip

    video = open_video(flags.input) if is_video(flags.input) else None
    clip = read_clip(flags.input) if video is None else []
    prepare_process()
    from cssm.recipes import load_run

    run, model = load_run(flags.run, flags.checkpoint)
    refuse_tracker(model, flags.run)
    frames = iter(clip) if video is None else _fitted(video.frames, run, flags)
    if flags.check:
        frames = list(frames)
    output = _stream(run, model, iter(frames), flags)
    if flags.check:
        _compare(run, model, frames, output, flags)
    return 0


def _fitted(frames: Iterator, run, flags) -> Iterator:
    """The frames of a video, scaled and cut to those of the training data unless any size will do."""
    from cssm.data.formats.video import covering_frame

    *_, height, width, _ = run.data.sample_spec["input"].shape
    return frames if flags.any_size else (covering_frame(frame, (height, width)) for frame in frames)


def _check_size(frame, run, flags) -> None:
    *_, height, width, channels = run.data.sample_spec["input"].shape
    if frame.shape[-1] != channels:
        raise ShapeError(f"{flags.input} has {frame.shape[-1]} channels, the model takes {channels}")
    if frame.shape[:2] != (height, width) and not flags.any_size:
        raise ShapeError(
            f"{flags.input} has frames of {frame.shape[0]}x{frame.shape[1]}, the model was "
            f"trained on {height}x{width}: "
            "resize them, or pass --any-size to run at their own resolution"
        )


def _stream(run, model, frames: Iterator, flags):
    import jax
    import numpy as np
    from flax import nnx

    graph, params = nnx.split(model)

    dt = None if flags.dt == 1 else np.full((1,), flags.dt, np.float32)

    @jax.jit
    def step(params, state, frame):
        return nnx.merge(graph, params).step(state, run.task.prepare({"input": frame})["input"], dt)

    first = next(frames)
    _check_size(first, run, flags)
    state, t, output = model.init_state(1, first.shape[:2]), 0, None
    jax.block_until_ready(step(params, state, first[None]))  # compiles; what it returns is dropped
    start = time.perf_counter()
    for t, frame in enumerate(itertools.chain([first], frames)):
        state, output = step(params, state, frame[None])
        _show(t, run.task, np.asarray(output)[0], flags.json)
    seconds = time.perf_counter() - start
    memory = sum(v.nbytes for v in jax.tree.leaves(state))
    if not flags.json:
        print(f"{t + 1} frames, {(t + 1) / seconds:.0f} frames/s, state {memory:,} bytes whatever the length")
    return np.asarray(output)


def _show(t, task, output, as_json: bool) -> None:
    reading = task.reading(output)
    line = json.dumps({"frame": t, **reading}) if as_json else f"frame {t:4d}  {task.show(reading)}"
    print(line, flush=True)


def _compare(run, model, frames, output, flags) -> None:
    import numpy as np

    from cssm.recipes import compiled

    dt = None if flags.dt == 1 else np.full((1, len(frames)), flags.dt, np.float32)
    parallel = np.asarray(compiled(model)(run.task.prepare({"input": np.stack(frames)[None]})["input"], dt=dt))
    difference = float(np.abs(parallel - output).max())
    text = json.dumps({"largest_difference": difference}) if flags.json else ""
    print(text or f"largest difference from the parallel pass {difference:.2e}")
