from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from train_toys import tiny

from cssm.core.errors import UsageError
from cssm.train import TrainConfig, decay_mask, decays, optimizer
from cssm.train.optim import decayed, layer_scales, warmup_cosine
from cssm.train.state import split


@pytest.mark.parametrize("steps, warmup_steps", [(1000, 500), (2000, 100), (40, 500), (2, 500), (1, 500), (10, 0)])
def test_schedule_is_the_protocol(steps, warmup_steps):
    schedule, warmup = warmup_cosine(0.4, steps, warmup_steps), min(warmup_steps, steps - 1)
    for step in {0, 1, warmup // 2, warmup, (warmup + steps) // 2, steps - 1, steps}:
        if step < warmup:
            want = 0.4 * step / warmup
        else:
            cosine = 0.5 * (1 + np.cos(np.pi * (step - warmup) / (steps - warmup)))
            want = 0.4 * (0.01 + 0.99 * cosine)
        assert float(schedule(step)) == pytest.approx(want, rel=1e-4, abs=1e-9), step


class Mixer(nnx.Module):
    def __init__(self, rngs):
        self.recurrence_kernel = nnx.Param(jnp.ones((4, 5, 5)))
        self.decay = nnx.Param(jnp.ones((4, 4)))
        self.decay_net = nnx.Linear(4, 4, rngs=rngs)
        self.recurrence = nnx.Linear(4, 4, rngs=rngs)
        self.out = nnx.Linear(4, 4, rngs=rngs)
        self.conv = nnx.Conv(4, 4, (3, 3), rngs=rngs)
        self.norm = nnx.LayerNorm(4, rngs=rngs)
        self.position = nnx.Param(jnp.ones((6, 4)))


def test_decay_falls_on_dense_and_conv_kernels_only():
    class Net(nnx.Module):
        def __init__(self, rngs):
            self.blocks = nnx.List([Mixer(rngs)])
            self.embed = nnx.Embed(3, 4, rngs=rngs)

    params, _ = split(Net(nnx.Rngs(0)))
    assert decayed(params) == ["blocks/0/conv/kernel", "blocks/0/out/kernel"]
    assert set(decay_mask(params)) == set(params)
    assert not decays("kernel", 1)


def numpy_adamw(params, grads, schedule, *, wd, clip, mask, b1=0.9, b2=0.999, eps=1e-8):
    """Loshchilov and Hutter's algorithm 2 with global norm clipping, float64."""
    p = {k: np.asarray(v, np.float64) for k, v in params.items()}
    m, v = ({k: np.zeros_like(a) for k, a in p.items()} for _ in range(2))
    for t, grad in enumerate(grads, start=1):
        norm = np.sqrt(sum((g.astype(np.float64) ** 2).sum() for g in grad.values()))
        for k in p:
            g = grad[k] * min(1.0, clip / norm)
            m[k] = b1 * m[k] + (1 - b1) * g
            v[k] = b2 * v[k] + (1 - b2) * g**2
            update = (m[k] / (1 - b1**t)) / (np.sqrt(v[k] / (1 - b2**t)) + eps)
            p[k] = p[k] - schedule(t - 1) * (update + wd * mask[k] * p[k])
    return p


def assert_updates(numpy_form, **options):
    """Six updates of the optimiser are those of its form in NumPy."""
    rng = np.random.default_rng(0)
    shapes = {"out/kernel": (3, 4), "out/bias": (4,), "mixer/recurrence_kernel": (2, 3, 3)}
    params = {k: rng.normal(size=s).astype(np.float32) for k, s in shapes.items()}
    grads = [{k: rng.normal(size=s).astype(np.float32) for k, s in shapes.items()} for _ in range(6)]
    transform, schedule = optimizer(TrainConfig(steps=6, lr=0.1, weight_decay=0.3, warmup_steps=2, **options), 6)
    got, state = {k: jnp.asarray(v) for k, v in params.items()}, transform.init(params)
    for grad in grads:
        updates, state = transform.update(grad, state, got)
        got = {k: got[k] + updates[k] for k in got}
    mask = {"out/kernel": 1, "out/bias": 0, "mixer/recurrence_kernel": 0}
    want = numpy_form(params, grads, lambda t: float(schedule(t)), wd=0.3, mask=mask)
    for name in shapes:
        np.testing.assert_allclose(got[name], want[name], rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize("clip", [0.7, None])
def test_the_update_is_clipped_adamw_with_masked_decay(clip):
    assert_updates(partial(numpy_adamw, clip=clip or np.inf), grad_clip=clip)


def test_the_toy_has_parameters_on_both_sides_of_the_mask():
    params, rest = split(tiny())
    assert decayed(params) == ["head/kernel", "stem/kernel"]
    assert set(params) == {"head/kernel", "stem/kernel", "stem/bias", "recurrence_kernel"} and rest == {}
    assert all(isinstance(value, jax.Array) for value in params.values())


def numpy_lamb(params, grads, schedule, *, wd, mask, b1=0.9, b2=0.999, eps=1e-6):
    """You et al.'s algorithm 2 with phi(x) = x, the trust ratio where weight decay applies; float64."""
    p = {k: np.asarray(v, np.float64) for k, v in params.items()}
    m, v = ({k: np.zeros_like(a) for k, a in p.items()} for _ in range(2))
    for t, grad in enumerate(grads, start=1):
        for k in p:
            m[k] = b1 * m[k] + (1 - b1) * grad[k]
            v[k] = b2 * v[k] + (1 - b2) * grad[k].astype(np.float64) ** 2
            update = (m[k] / (1 - b1**t)) / (np.sqrt(v[k] / (1 - b2**t)) + eps) + wd * mask[k] * p[k]
            trust = np.linalg.norm(p[k]) / np.linalg.norm(update) if mask[k] else 1.0
            p[k] = p[k] - schedule(t - 1) * trust * update
    return p


def test_lamb_trusts_the_weights_that_decay():
    assert_updates(numpy_lamb, grad_clip=None, optimizer="lamb")


def test_layer_decay_of_deit3_small_has_fourteen_levels():
    from cssm.models.registry import MODELS

    model = nnx.eval_shape(lambda: MODELS["deit3_small_patch16_224"].make(nnx.Rngs(0)))
    names = {"/".join(map(str, path)): value for path, value in nnx.to_flat_state(nnx.state(model, nnx.Param))}
    scales = layer_scales(0.75, names)
    assert len(set(scales.values())) == 14 and set(scales) == set(names)
    assert {scales[n] for n in names if n.startswith("stem")} == {0.75**13}
    assert {scales[n] for n in names if n.startswith("head")} == {1.0}
    assert {scales[n] for n in names if "blocks/11/" in n} == {0.75}
    assert {scales[n] for n in names if "blocks/0/" in n} == {0.75**12}


def test_layer_decay_shortens_the_whole_update_weight_decay_too():
    params = {"stem/kernel": jnp.ones((2, 2)), "blocks/0/a/kernel": jnp.ones((2, 2)), "head/kernel": jnp.ones((2, 2))}
    grads = {name: jnp.full((2, 2), 0.5) for name in params}
    config = {"steps": 5, "warmup_steps": 0, "weight_decay": 0.7, "lr": 0.1}
    updates = []
    for options in ({}, {"layer_decay": 0.5}):
        transform, _ = optimizer(TrainConfig(**config, **options), 5)
        updates.append(transform.update(grads, transform.init(params), params)[0])
    for name, scale in (("stem/kernel", 0.25), ("blocks/0/a/kernel", 0.5), ("head/kernel", 1.0)):
        np.testing.assert_allclose(updates[1][name], scale * updates[0][name], rtol=1e-6)
    with pytest.raises(UsageError, match=r"layer_decay is by numbered blocks.*leave it out"):
        layer_scales(0.5, {"a/kernel": params["stem/kernel"]})


@pytest.mark.parametrize(
    "options, message",
    [({"optimizer": "sgd"}, "adamw or lamb"), ({"layer_decay": 1.5}, "such as 0.75"), ({"layer_decay": 0.0}, "layer_")],
)
def test_options_of_the_optimiser_that_cannot_be(options, message, unchecked):
    with pytest.raises(UsageError, match=message):
        TrainConfig(steps=5, **options)
