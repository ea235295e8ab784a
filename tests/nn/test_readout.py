"""The readout: what a clip gives at once, in pieces, and frame by frame."""

from functools import partial

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import made
from cssm.core.errors import ShapeError, UsageError
from cssm.nn.layer import require_streaming
from cssm.nn.mixer import select
from cssm.nn.parts.readout import FRAMES, POOLS, Readout
from tolerances import assert_close


def build(frames, pool):
    return Readout(6, 3, frames, pool, rngs=nnx.Rngs(0))


clip = partial(made.clip, grid=(4, 3), channels=6)


@pytest.mark.parametrize("pool", POOLS)
@pytest.mark.parametrize("frames", FRAMES)
def test_pieces_and_frames_give_the_logits_of_the_clip_so_far(frames, pool):
    readout, x = build(frames, pool), clip()
    state = readout.init_state(2, (4, 3))
    for t in range(5):
        state, logits = readout.step(state, x[:, t])
        assert_close(logits, readout(select(x[:, : t + 1], frames)))
    first, _ = readout.scan(readout.init_state(2, (4, 3)), x[:, :3])
    assert_close(readout.scan(first, x[:, 3:]), (state, logits))
    assert state.frames.tolist() == [5, 5]


@pytest.mark.parametrize("pool", POOLS)
def test_all_is_the_pool_over_time_and_space(pool):
    readout, x = build("all", pool), np.asarray(clip())
    pooled = {"max": x.max((1, 2, 3)), "mean": x.mean((1, 2, 3)), "token": x[:, :, 0, 0].mean(1)}[pool]
    assert_close(readout(clip()), readout.logits(jnp.asarray(pooled)))


@pytest.mark.parametrize("frames", FRAMES)
def test_a_state_of_another_batch_grid_or_readout_is_refused(frames):
    readout, x = build(frames, "max"), clip()
    require_streaming(readout, frames)
    wrong = [readout.init_state(1, (4, 3)), build("mean" if frames != "mean" else "all", "max").init_state(2, (4, 3))]
    wrong += [readout.init_state(2, (3, 4))] if frames == "mean" else []
    for state in wrong:
        with pytest.raises(ShapeError, match="state"):
            readout.step(state, x[:, 0])


def test_unknown_names_are_told():
    with pytest.raises(UsageError, match="unknown frame readout 'first': use last, mean, all"):
        build("first", "max")
    with pytest.raises(UsageError, match="unknown pool 'sum': use max, mean, token"):
        build("last", "sum")
