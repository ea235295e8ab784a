"""What a point costs: the tracker on frames of 256 x 256 px, one after the other and many at once."""

from collections.abc import Iterator
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from cssm.models.tracker import TrackerConfig

from .frameworks import jitted
from .harness import Comparison
from .registry import MODEL_BENCHES

SIDE, FRAMES = 256, 16
COUNTS = (16, 64, 256)


@MODEL_BENCHES.register("tracker")
def tracker() -> Iterator[Comparison]:
    """Point tracker, 256 x 256: a frame with 16, 64, 256 points; the thousandth frame; 16 frames in parallel."""
    first, *others = ((f"{count} points", cache(partial(_step, count))) for count in COUNTS)
    for count, other in zip(COUNTS[1:], others, strict=True):
        yield Comparison(
            name=f"tracker, a frame of {SIDE} x {SIDE}: {other[0]}", same_result=False,
            wanted=float(count // COUNTS[0]), contenders=dict((first, other)),
        )  # fmt: skip
    yield Comparison(
        name="tracker, a frame of a stream of 1,000, 64 points", same_result=False, wanted=1.05,
        contenders={"the first": cache(partial(_step, 64)), "the thousandth": cache(partial(_step, 64, 1000))},
    )  # fmt: skip
    yield Comparison(
        name=f"tracker, {FRAMES} frames, 64 points", same_result=False,
        contenders={"frame by frame": cache(_streamed), "in parallel": cache(_parallel)},
    )  # fmt: skip


@cache
def _split():
    return nnx.split(TrackerConfig().make(nnx.Rngs(0)))


def _begun(count: int, seen: int = 0):
    """A state with that many points, after so many frames, and a frame."""
    graph, params = _split()
    model = nnx.merge(graph, params)
    rng = np.random.RandomState(0)
    frame = jnp.asarray(rng.randint(0, 255, (1, SIDE, SIDE, 3)), jnp.uint8)
    state = model.init_state(1, (SIDE, SIDE), max_points=count)
    state = model.add_points(state, frame, rng.uniform(0, SIDE, (count, 2)))
    step = jax.jit(lambda params, state, frame: nnx.merge(graph, params).step(state, frame)[0])
    for _ in range(seen):
        state = step(params, state, frame)
    return state, frame


def _step(count: int, seen: int = 0):
    graph, params = _split()
    state, frame = _begun(count, seen)
    return jitted(lambda params, state, frame: nnx.merge(graph, params).step(state, frame), params, state, frame)


def _clip():
    """Frames that differ, or the features of one would serve for all."""
    return jnp.asarray(np.random.RandomState(1).randint(0, 255, (1, FRAMES, SIDE, SIDE, 3)), jnp.uint8)


def _streamed():
    graph, params = _split()
    state, _ = _begun(64)

    def run(params, state, video):
        step = lambda state, frame: nnx.merge(graph, params).step(state, frame)  # noqa: E731
        return jax.lax.scan(step, state, jnp.moveaxis(video, 1, 0))[1].tracks

    return jitted(run, params, state, _clip())


def _parallel():
    graph, params = _split()
    queries = jnp.asarray(np.random.RandomState(0).uniform(0, SIDE, (1, 64, 3)), jnp.float32).at[..., 0].set(0)
    run = lambda params, video, queries: nnx.merge(graph, params)(video, queries).tracks  # noqa: E731
    return jitted(run, params, _clip(), queries)
