"""Models under test: every registered one, made small, and some with options that take other paths."""

import dataclasses
from functools import cache

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import lax

import made
from cssm.core.errors import UsageError
from cssm.models import MODELS, list_models
from cssm.models.convnext import UNUSED

B, T, GRID, CHANNELS, OUTPUTS = 2, 4, (9, 7), 3, 3
SMALL = {"embed_dim": 8, "depth": 2}  # of a configuration that has fields of these names
SMALL_HOST = {"head_dim": 4, "patch_size": 1, "depths": (1, 1), "dims": (6, 8), "kernel_size": 3, "layer_scale": 0.5}
CAUSAL = {"norm": "global_layer_causal", "stem": "pixel"}
STREAMING = {  # options that change the path, of models that stream
    "simple, causal": ("simple", CAUSAL),
    "simple, gates": ("simple", CAUSAL | {"mixer": "mingru", "readout": "all", "pool": "mean", "depth": 1}),
    "simple, learned positions": ("simple", {"stem": "pixel", "norm": "layer", "position": "learned", "depth": 1}),
    "simple, affine": ("simple", {"stem": "pixel", "norm": "none", "act": "none", "position": "none", "depth": 1}),
    "simple, as in a host": (
        "simple",
        {"stem": "patch", "patch_size": 2, "strides": (1, 2), "norm": "layer", "mlp_ratio": 2.0, "layer_scale": 0.5,
         "readout": "mean", "act": "none"},
    ),
}  # fmt: skip
HOSTS = {  # hosts as they can be built beside their registered form
    "vit, rotary": ("vit", {"mixer": "no_gate", "position": "mrope", "unroll": "network", "readout": "mean"}),
    "convnext, ssm": ("convnext", {"variant": "ssm", "boundary": "circular", "conv_bias": True}),
    "convnext, gated": ("convnext", {"variant": "gated", "pool": "max"}),
    "convnext, pure3d": ("convnext", {"variant": "pure3d", "unroll": "network"}),
    "convnext, fourier": ("convnext", {"variant": "fourier"}),
    "convnext, hybrid": ("convnext", {"variant": "hybrid", "mixer": "no_gate", "mixer_options": {"kernel_size": 3}}),
}
SLOW = {
    "cssm_deit3",
    "simple, attention",
    "simple, gates",
    "convnext",
    "convnext, fourier",
    "convnext, gated",
    "convnext, pure3d",
    "convnext, ssm",
    "convnext, hybrid",
    "vit, rotary",
    "deit3",
}
VARIANTS = STREAMING | HOSTS | {"simple, attention": ("simple", {"mixer": "transformer", "depth": 1})}


def config(name, **overrides):
    """Its configuration for clips of T frames; overrides of fields that it does not have are left out."""
    registered, options = VARIANTS.get(name, (name, {}))
    base = MODELS[registered]
    fields = {field.name for field in dataclasses.fields(base)}
    small = SMALL | SMALL_HOST if "timesteps" in fields else SMALL
    fields -= set(UNUSED.get(options.get("variant"), ()))
    given = {field: value for field, value in (small | options | overrides).items() if field in fields}
    return dataclasses.replace(base, **given).fitted((T, *GRID, CHANNELS), OUTPUTS)


def _distinct(names):
    """Those whose small forms differ: the sizes of one architecture are one."""
    seen = {}
    for name in names:
        form, plain = config(name), {"drop_path": 0.0, "conv_mlp": False, "class_position": True}
        if getattr(form, "mixer", "") == "attention":
            plain.pop("class_position")
        form = dataclasses.replace(form, **{field: v for field, v in plain.items() if hasattr(form, field)})
        seen.setdefault(repr(form), name)
    return [*seen.values()]


REGISTERED = _distinct(name for name in list_models() if type(MODELS[name]).__module__.startswith("cssm."))  # no toys
SPECIMENS = [*REGISTERED, *VARIANTS]
EVERY = [pytest.param(name, marks=pytest.mark.slow) if name in SLOW else name for name in SPECIMENS]


def make(config):
    """The model of a configuration, moved away from its initial values."""
    return made.moved(config.make(nnx.Rngs(0)), 0.1)


@cache
def build(name):
    return make(config(name))


@cache
def streams(name):
    try:
        build(name).init_state(B, GRID)
    except UsageError:
        return False
    return True


def takes_dt(name):
    return all(layer.mixer.takes_dt for layer in build(name).layers())


def clip(t=T, grid=GRID, seed=2):
    return np.asarray(made.clip(t=t, grid=grid, channels=CHANNELS, batch=B, seed=seed))


def slopes(model, function, *arrays, **options):
    """function(model, *arrays), and the gradients of its weighted sum by parameters, compiled as one."""
    outputs, (gradients,) = made.with_gradients(function, model, *arrays, by=(0,), **options)
    return outputs, gradients


@cache
def parallel(name):
    """The outputs for three frames and for the clip, and their gradients."""
    return slopes(build(name), lambda m, x: (m(x[:, :3]), m(x)), clip())


@cache
def streamed(name):
    """The state after the clip and the outputs after every frame; the gradients of what `parallel` gives."""
    return slopes(build(name), by_step, clip(), seen=lambda result: (result[1][2], result[1][-1]))


def by_step(model, x, dt=None):
    """(state, the output after every frame), one frame at a time."""

    def body(state, frame):
        state, y = model.step(state, *frame)
        return state, y

    frames = (jnp.moveaxis(x, 1, 0),) if dt is None else (jnp.moveaxis(x, 1, 0), jnp.moveaxis(dt, 1, 0))
    return lax.scan(body, model.init_state(x.shape[0], x.shape[2:4]), frames)
