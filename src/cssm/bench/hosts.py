"""What a recurrence costs inside a host: ConvNeXt-T and ViT-S, a training step of two images of 224 x 224 pixels."""

from collections.abc import Callable, Iterator
from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax

from cssm.models import create_model
from cssm.nn.mixer import Mixer, repeat_frame
from cssm.nn.parts.depthwise import Depthwise, DepthwiseSSM
from cssm.ops.spectral import to_space, to_spectrum

from .frameworks import gradient
from .harness import Comparison
from .registry import MODEL_BENCHES

SHAPE = (2, 224, 224, 3)
DIRECT, FFT, SERIAL, LONG, FUSED = "dw7, lax.conv", "dw7, FFT", "ssm T=8", "ssm T=24", "ssm T=8, fused"
SOURCE, SOURCE_LONG = "source's form, T=8", "source's form, T=24"
HYBRID, HYBRID_NO_GATE = "hybrid standard T=8", "hybrid no_gate T=8"


@MODEL_BENCHES.register("hosts")
def hosts() -> Iterator[Comparison]:
    """ConvNeXt-T with a direct convolution, by FFT, with recurrences; ViT-S with a mixer against attention."""
    models = {
        FFT: _convnext(), SERIAL: _convnext(variant="ssm"), LONG: _convnext(variant="ssm", timesteps=24),
        FUSED: _convnext(variant="ssm", boundary="circular"), DIRECT: _convnext(_by_lax),
        SOURCE: _convnext(_materialised, variant="ssm"),
        SOURCE_LONG: _convnext(_materialised, variant="ssm", timesteps=24),
        HYBRID: _convnext(variant="hybrid", mixer="standard", mixer_options={"kernel_size": 11}),
        HYBRID_NO_GATE: _convnext(variant="hybrid", mixer="no_gate", mixer_options={"kernel_size": 11}),
    }  # fmt: skip
    for baseline, name, wanted in (
        (DIRECT, FFT, 0.45), (FFT, SERIAL, 1.10), (FFT, FUSED, 1.05), (SERIAL, LONG, 1.06), (FFT, SOURCE, None),
        (FFT, SOURCE_LONG, None), (FFT, HYBRID, None), (FFT, HYBRID_NO_GATE, None),
    ):  # fmt: skip
        yield Comparison(
            name=f"ConvNeXt-T {SHAPE} forward+backward: {name}", wanted=wanted, same_result=False,
            contenders={baseline: models[baseline], name: models[name]},
        )  # fmt: skip
    small = partial(_step, "vit_small_patch16_224")
    yield Comparison(
        name=f"ViT-S {SHAPE} forward+backward: standard T=8", wanted=1.0, same_result=False,
        contenders={"attention": cache(small), "standard T=8": cache(partial(small, mixer="standard"))},
    )  # fmt: skip


def _convnext(change: Callable[[Any], None] = lambda model: None, **fields: Any) -> Callable:
    return cache(partial(_step, "convnext_tiny", change, **fields))


def _step(name: str, change: Callable[[Any], None] = lambda model: None, **fields: Any):
    """The gradients of a model to its parameters and images; it compiles once."""
    model = create_model(name, rngs=nnx.Rngs(0), **fields)
    change(model)
    graph, params = nnx.split(model)
    x = jax.random.normal(jax.random.key(0), SHAPE)
    return gradient(lambda params, x: nnx.merge(graph, params)(x), params, x)


def _by_lax(model: Any) -> None:
    for block in model.stack.blocks:
        if isinstance(block.mixer, Depthwise):
            block.mixer.strategy = "direct"


def _materialised(model: Any) -> None:
    for block in model.stack.blocks:
        block.mixer = MaterialisedSSM(block.mixer)


class MaterialisedSSM(Mixer):
    """`DepthwiseSSM` as its source has it: every repeat of the frame is there, an associative scan over all of them."""

    closed_form = ("last",)

    def __init__(self, like: DepthwiseSSM):
        self.like, self.channels = like, like.channels

    def init_state(self, batch, grid):
        return self.like.init_state(batch, grid)

    def _step(self, state, x):
        return self.like.step(state, x)

    def _scan(self, state, x, *, reset=None, readout="all"):
        states, y = self._frames(state, self.like.conv.convolved(x))
        return states, {"all": lambda: y, "last": lambda: y[:, -1], "mean": lambda: y.mean(1)}[readout]()

    def _static(self, state, x, steps):
        states, y = self._frames(state, repeat_frame(self.like.conv.convolved(x), steps))
        return states, y[:, -1]

    def _frames(self, state, u):
        gain, write = self.like.spectra(u.shape[2:4])
        written = write * to_spectrum(u)
        combine = lambda a, b: (a[0] * b[0], b[0] * a[1] + b[1])  # noqa: E731
        gains = jnp.broadcast_to(gain, written.shape)
        powers, states = lax.associative_scan(combine, (gains, written), axis=1)
        states = states + powers * state[:, None]
        return states[:, -1], to_space(states, u.shape[3])

    def state_bound(self, grid, input_bound=1.0):
        return self.like.state_bound(grid, input_bound)
