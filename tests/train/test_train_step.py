import itertools
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from train_toys import TASK, batch, rows, tiny

from cssm.train import TrainConfig, optimizer
from cssm.train.distributed import local_mesh, place, replicated
from cssm.train.state import Blueprint, from_arrays, init_state, split, to_arrays, to_host
from cssm.train.step import StepBuilder

SGD = (optax.sgd(1.0), lambda step: jnp.ones(()))


def build(model, *, accumulate=1, dtype=jnp.float32, optimizer=SGD, ema=None, augment=None, task=TASK, seed=0):
    """(state, train step on host batches, builder)"""
    builder = StepBuilder(
        task=task, blueprint=Blueprint.of(model), mesh=local_mesh(), dtype=dtype, accumulate=accumulate
    )
    step = builder.train_step(*optimizer, ema=ema, augment=augment)
    state = init_state(model, optimizer[0], seed=seed, ema=ema is not None)
    return state, lambda state, batch: step(state, place(batch, builder.mesh, accumulate)), builder


class Plain(nnx.Module):
    """`Tiny` without dropout."""

    def __init__(self, rngs):
        self.stem = nnx.Linear(3, 4, rngs=rngs)
        self.head = nnx.Linear(4, 2, rngs=rngs)

    def __call__(self, x, *, key=None):
        return self.head(jnp.tanh(self.stem(x)).mean((1, 2)))


def plain():
    return Plain(nnx.Rngs(0))


def snapshot(state):
    return to_host(to_arrays(state))


def changed(before, after):
    return {name for name in before if not np.array_equal(before[name], after[name])}


@pytest.mark.parametrize("accumulate", [2, 4, 3, 8])
def test_accumulation_is_the_full_batch(accumulate):
    """Also when the rows do not divide and the padding is uneven."""
    data = batch(range(6), size=8)
    whole, step, _ = build(plain())
    whole, m1 = step(whole, data)
    parts, step, _ = build(plain(), accumulate=accumulate)
    parts, m2 = step(parts, data)
    for name in whole.params:
        np.testing.assert_allclose(parts.params[name], whole.params[name], rtol=2e-6, atol=2e-7)
    assert int(m2["sums"]["count"]) == int(m1["sums"]["count"]) == 6
    for name in ("loss", "grad_norm"):
        np.testing.assert_allclose(m2[name], m1[name], rtol=2e-6)


def test_the_gradient_is_of_the_mean_over_valid_rows():
    model, data = plain(), batch(range(5), size=8)
    state, step, _ = build(model)
    state, metrics = step(state, data)
    only_valid = {key: value[:5] for key, value in data.items()}
    loss, grads = jax.value_and_grad(lambda m: TASK.loss(m, TASK.prepare(only_valid), None).value)(model)
    want = split(model)[0]
    for name, grad in split(grads)[0].items():
        np.testing.assert_allclose(state.params[name], want[name] - grad, rtol=2e-6, atol=2e-7)
    np.testing.assert_allclose(metrics["loss"], loss, rtol=1e-6)


def float_batch(value=None):
    images, labels = rows(range(4))
    images = images / np.float32(127.5) - 1
    if value is not None:
        images[1, 2, 3, 0] = value
    return {"input": images.astype(np.float32), "label": labels, "valid": np.ones(4, bool)}


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_bad_step_changes_nothing_but_the_counters(value, accumulate):
    transform = optimizer(TrainConfig(steps=10, warmup_steps=0), 10)
    state, step, _ = build(tiny(), optimizer=transform, ema=0.9, accumulate=accumulate)
    state, _ = step(state, float_batch())
    before = snapshot(state)
    for in_row in (1, 2):
        state, metrics = step(state, float_batch(value))
        assert int(metrics["bad_in_row"]) == in_row and bool(metrics["not_finite"]["input"])
    after = snapshot(state)
    assert changed(before, after) == {"step", "skipped", "bad_in_row"}
    assert (after["step"], after["skipped"], after["bad_in_row"]) == (3, 2, 2)
    state, metrics = step(state, float_batch())
    assert (int(state.step), int(state.skipped), int(state.bad_in_row)) == (4, 2, 0)
    assert not bool(metrics["not_finite"]["input"])
    assert {"params/stem/kernel", "ema/stem/kernel"} <= changed(before, snapshot(state))


def test_an_infinite_gradient_with_a_finite_loss_is_skipped():
    class Root(nnx.Module):
        def __init__(self):
            self.w = nnx.Param(jnp.zeros((2,)))

        def __call__(self, x, *, key=None):
            return jnp.sqrt(self.w[...]) + jnp.zeros((len(x), 2))  # finite at 0, derivative infinite

    state, step, _ = build(Root())
    state, metrics = step(state, float_batch())
    assert np.isfinite(metrics["loss"]) and not np.isfinite(metrics["grad_norm"])
    assert int(state.skipped) == 1 and np.all(np.asarray(state.params["w"]) == 0)


def test_ema_follows_the_parameters():
    state, step, _ = build(plain(), ema=0.6)
    want = {name: np.asarray(value, np.float64) for name, value in state.ema.items()}
    for t in range(8):
        state, _ = step(state, batch(range(8 * t, 8 * t + 8)))
        decay = min(0.6, (1 + t) / (10 + t))
        want = {name: decay * want[name] + (1 - decay) * np.asarray(state.params[name]) for name in want}
    for name in want:
        np.testing.assert_allclose(state.ema[name], want[name], rtol=1e-5, atol=1e-6)
    assert changed(state.params, state.ema)


def test_bfloat16_computes_in_bfloat16_and_keeps_float32_masters():
    seen = []

    class Spy(Plain):
        def __call__(self, x, *, key=None):
            seen.append((str(x.dtype), str(self.stem.kernel[...].dtype)))
            return super().__call__(x, key=key)

    state, step, builder = build(Spy(nnx.Rngs(0)), dtype=jnp.bfloat16, ema=0.9)
    reference, full, _ = build(plain(), ema=0.9)
    state, metrics = step(state, batch(range(8)))
    reference, want = full(reference, batch(range(8)))
    builder.eval_step()(state.params, state.rest, place(batch(range(8)), builder.mesh))
    assert seen == [("bfloat16", "bfloat16")] * 2
    assert all(value.dtype == jnp.float32 for value in (state.params | state.ema).values())
    assert metrics["loss"].dtype == jnp.float32
    np.testing.assert_allclose(metrics["loss"], want["loss"], rtol=2e-2)
    assert float(metrics["loss"]) != float(want["loss"])
    for name in state.params:
        np.testing.assert_allclose(state.params[name], reference.params[name], rtol=0.1, atol=2e-2)


class Stateful(nnx.Module):
    """Batch statistics, and a dropout that keeps its own key and count."""

    def __init__(self, rngs):
        self.norm = nnx.BatchNorm(3, momentum=0.5, rngs=rngs)
        self.drop = nnx.Dropout(0.1, rngs=rngs)
        self.head = nnx.Linear(3, 2, rngs=rngs)

    def __call__(self, x, *, key=None):
        x = self.norm(x, use_running_average=key is None)
        return self.head(self.drop(x, deterministic=key is None).mean((1, 2)))


@pytest.mark.parametrize("accumulate", [1, 2])
def test_other_variables_move_with_good_steps_and_reach_evaluation(accumulate):
    model = Stateful(nnx.Rngs(0))
    state, step, builder = build(model, accumulate=accumulate)
    mean = np.array(state.rest["norm/mean"])
    state, _ = step(state, float_batch())
    moved = np.array(state.rest["norm/mean"])
    x = float_batch()["input"].mean((1, 2))
    want = mean
    for part in range(accumulate):
        want = 0.5 * want + 0.5 * x[part::accumulate].mean(0)
    np.testing.assert_allclose(moved, want, rtol=1e-4, atol=1e-6)
    assert int(state.rest["drop/rngs/count"]) == accumulate
    state, _ = step(state, float_batch(np.nan))
    np.testing.assert_array_equal(state.rest["norm/mean"], moved)
    params, rest = jax.tree.map(jnp.copy, (state.params, state.rest))
    sums = builder.eval_step()(params, rest, place(float_batch(), builder.mesh, accumulate))
    builder.blueprint.write(model, params, rest)
    np.testing.assert_allclose(sums["loss_sum"], TASK.evaluate(model, float_batch())["loss_sum"], rtol=1e-5)


def test_arrays_round_trip_with_typed_keys():
    model = Stateful(nnx.Rngs(3))
    state, step, _ = build(model, optimizer=optimizer(TrainConfig(steps=5), 5), ema=0.9)
    state, _ = step(state, float_batch())
    arrays = snapshot(state)
    assert all(type(value) is np.ndarray and value.dtype.kind in "fiu" for value in arrays.values())
    other = init_state(Stateful(nnx.Rngs(4)), optimizer(TrainConfig(steps=5), 5)[0], seed=9, ema=True)
    again = from_arrays(arrays, other)
    assert not changed(arrays, snapshot(again))
    assert jax.tree.structure(again) == jax.tree.structure(state)
    assert again.rest["drop/rngs/key"].dtype == state.rest["drop/rngs/key"].dtype
    (a, ma), (b, mb) = step(state, float_batch()), step(again, float_batch())
    assert float(ma["loss"]) == float(mb["loss"]) and not changed(snapshot(a), snapshot(b))


def test_keys_differ_by_step_and_seed_and_repeat():
    def losses(seed, start=0):
        state, step, _ = build(tiny(), optimizer=(optax.sgd(0.0), SGD[1]), seed=seed)
        state = replace(state, step=jnp.asarray(start, jnp.int32))
        out = []
        for _ in range(3):
            state, metrics = step(state, batch(range(8)))
            out.append(float(metrics["loss"]))
        return out

    first = losses(0)
    assert len(set(first)) == 3 and losses(0) == first  # nothing is learnt: only dropout changes the loss
    assert losses(0, start=1)[:2] == first[1:]
    assert losses(1)[0] != first[0]


def test_micro_batches_have_their_own_keys_and_augmentation_is_for_training_only():
    def augment(key, part):
        noise = jax.random.uniform(key, (len(part["label"]), 1, 1, 1))
        return {**part, "input": part["input"].astype(jnp.float32) * 0 + noise}

    seen = []

    class Spy(nnx.Module):
        def __init__(self):
            self.w = nnx.Param(jnp.ones(()))

        def __call__(self, x, *, key=None):
            jax.debug.callback(lambda values: seen.append(np.array(values)), x[:, 0, 0, 0])
            return jnp.stack([x.mean((1, 2, 3)) * self.w[...], jnp.zeros(len(x))], axis=-1)

    state, step, builder = build(Spy(), accumulate=2, augment=augment)
    jax.block_until_ready(step(state, batch(range(8)))[0].step)
    jax.effects_barrier()
    values = np.concatenate(seen)
    assert len(np.unique(values)) == 8 and values.min() >= 0
    seen.clear()
    model_arrays = split(Spy())
    jax.block_until_ready(builder.eval_step()(*model_arrays, place(batch(range(8)), builder.mesh, 2)))
    jax.effects_barrier()
    want = batch(range(8))["input"][:, 0, 0, 0].astype(np.float32) / 127.5 - 1
    np.testing.assert_allclose(np.sort(np.concatenate(seen)), np.sort(want), rtol=1e-6)


def test_complex_parameters_go_downhill():
    class Complex(nnx.Module):
        def __init__(self):
            self.w = nnx.Param(jnp.array([0.3 + 0.2j, -0.1 - 0.4j], jnp.complex64))

        def __call__(self, x, *, key=None):
            score = (jnp.abs(self.w[...] - (1.0 - 2.0j)) ** 2).sum()
            return jnp.stack([jnp.full(len(x), -score), jnp.zeros(len(x))], axis=-1)

    state, step, _ = build(Complex(), optimizer=(optax.sgd(0.2), SGD[1]))
    data = batch(range(4)) | {"label": np.zeros(4, np.int32)}
    losses = []
    for _ in range(30):
        state, metrics = step(state, data)
        losses.append(float(metrics["loss"]))
    assert all(after < before for before, after in itertools.pairwise(losses))
    assert np.abs(np.asarray(state.params["w"]) - (1 - 2j)).max() < 0.2


def test_the_state_is_donated_and_the_callers_model_is_not():
    model = tiny()
    before = {name: np.array(value) for name, value in split(model)[0].items()}
    state, step, _ = build(model)
    new, _ = step(state, batch(range(8)))
    assert all(value.is_deleted() for value in state.params.values())
    assert not changed(before, split(model)[0]) and changed(before, new.params)


def test_one_shape_compiles_once():
    traces = []

    class Counting(Plain):
        def __call__(self, x, *, key=None):
            traces.append(x.shape)
            return super().__call__(x, key=key)

    state, step, builder = build(Counting(nnx.Rngs(0)), optimizer=optimizer(TrainConfig(steps=9), 9), ema=0.5)
    state = jax.device_put(state, replicated(builder.mesh))
    for i in range(4):
        state, _ = step(state, batch(range(8 * i, 8 * i + 8)))
    assert len(traces) == 1
