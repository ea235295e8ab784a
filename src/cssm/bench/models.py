"""Whole models: the parallel scan against the same weights frame by frame, and a static image against a clip of it."""

from collections.abc import Iterator

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax

from cssm.models import create_model

from .frameworks import DIRECTIONS, forward, jitted
from .harness import Comparison
from .registry import MODEL_BENCHES

SHAPE = (4, 32, 32, 32, 3)


@MODEL_BENCHES.register("simple")
def simple() -> Iterator[Comparison]:
    """SimpleCSSM, 32 channels: scan against step on a clip, forward and backward; a static image, T = 32 against 1."""
    graph, params = _model(seq_len=SHAPE[1], norm="global_layer_causal")
    clip = jax.random.normal(jax.random.key(0), SHAPE)
    for direction in DIRECTIONS:
        contenders = {
            "frame by frame": lambda d=direction: _run(d, lambda p: _stepped(nnx.merge(graph, p), clip), params),
            "scan": lambda d=direction: _run(d, lambda p: nnx.merge(graph, p)(clip), params),
        }
        yield Comparison(name=f"SimpleCSSM, clip {SHAPE}, {direction}", contenders=contenders, inputs=clip.nbytes)
    image = jax.random.normal(jax.random.key(0), (8, 32, 32, 3))
    for direction in DIRECTIONS:
        contenders = {f"T = {steps}": lambda d=direction, t=steps: _static(d, t, image) for steps in (1, 32)}
        name = f"SimpleCSSM, static image, {direction}"
        yield Comparison(name=name, contenders=contenders, same_result=False, wanted=1.3, inputs=image.nbytes)


def _model(**options):
    return nnx.split(create_model("simple", rngs=nnx.Rngs(0), embed_dim=32, stem="pixel", **options))


def _stepped(model, clip):
    """The logits after the last frame, one step at a time."""
    step = lambda state, frame: model.step(state, frame)  # noqa: E731
    state = model.init_state(clip.shape[0], clip.shape[2:4])
    return lax.scan(step, state, jnp.moveaxis(clip, 1, 0))[1][-1]


def _static(direction, steps, image):
    graph, params = _model(seq_len=steps, norm="global_layer")
    return _run(direction, lambda p: nnx.merge(graph, p)(image), params)


def _run(direction, function, params):
    if direction == "forward":
        return forward(function, params)
    return jitted(jax.value_and_grad(lambda p: jnp.sum(jnp.square(function(p)))), params)
