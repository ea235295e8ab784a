"""cssm stream: frame by frame, constant memory, the output of the parallel pass."""

import dataclasses
import json
import time
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
    import numpy as np

    from cssm.data.formats.video import ARRAYS, covering_frame, read_clip_or_video

    video = read_clip_or_video(flags.input)
    prepare_process()
    from cssm.recipes import load_run

    run, model = load_run(flags.run, flags.checkpoint)
    refuse_tracker(model, flags.run)
    *_, height, width, _ = run.data.sample_spec["input"].shape
    if flags.input.suffix.lower() not in ARRAYS and not flags.any_size:
        video = np.stack([covering_frame(frame, (height, width)) for frame in video])
    _check_size(video, run, flags)
    output = _stream(run, model, video, flags)
    if flags.check:
        _compare(run, model, video, output, flags)
    return 0


def _check_size(video, run, flags) -> None:
    *_, height, width, channels = run.data.sample_spec["input"].shape
    if video.shape[-1] != channels:
        raise ShapeError(f"{flags.input} has {video.shape[-1]} channels, the model takes {channels}")
    if video.shape[1:3] != (height, width) and not flags.any_size:
        raise ShapeError(
            f"{flags.input} has frames of {video.shape[1]}x{video.shape[2]}, the model was "
            f"trained on {height}x{width}: "
            "resize them, or pass --any-size to run at their own resolution"
        )


def _stream(run, model, video, flags):
    import jax
    import numpy as np
    from flax import nnx

    graph, params = nnx.split(model)

    dt = None if flags.dt == 1 else np.full((1,), flags.dt, np.float32)

    @jax.jit
    def step(params, state, frame):
        return nnx.merge(graph, params).step(state, run.task.prepare({"input": frame})["input"], dt)

    state = model.init_state(1, video.shape[1:3])
    jax.block_until_ready(step(params, state, video[None, 0]))  # compiles; what it returns is dropped
    start = time.perf_counter()
    for t, frame in enumerate(video):
        state, output = step(params, state, frame[None])
        _show(t, run.task, np.asarray(output)[0], flags.json)
    seconds = time.perf_counter() - start
    memory = sum(v.nbytes for v in jax.tree.leaves(state))
    if not flags.json:
        print(f"{len(video)} frames, {len(video) / seconds:.0f} frames/s, state {memory:,} bytes whatever the length")
    return np.asarray(output)


def _show(t, task, output, as_json: bool) -> None:
    reading = task.reading(output)
    line = json.dumps({"frame": t, **reading}) if as_json else f"frame {t:4d}  {task.show(reading)}"
    print(line, flush=True)


def _compare(run, model, video, output, flags) -> None:
    import numpy as np

    from cssm.recipes import compiled

    dt = None if flags.dt == 1 else np.full((1, len(video)), flags.dt, np.float32)
    parallel = np.asarray(compiled(model)(run.task.prepare({"input": video[None]})["input"], dt=dt))
    difference = float(np.abs(parallel - output).max())
    text = json.dumps({"largest_difference": difference}) if flags.json else ""
    print(text or f"largest difference from the parallel pass {difference:.2e}")
