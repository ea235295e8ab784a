"""The spectral recurrence against rfft2 + lax.associative_scan, and its cheaper exact paths against the plain ones."""

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from cssm.ops import kernel_spectrum, spectral_scan, spectral_static, stable_spectrum
from cssm.ops.spectral import cases
from cssm.ops.spectral.native_transform import plain_to_space as to_space
from cssm.ops.spectral.native_transform import plain_to_spectrum as to_spectrum

from .frameworks import DIRECTIONS, forward, gradient, has_torch
from .harness import Comparison
from .registry import OP_BENCHES, SWEEP_BENCHES
from .scan import associative


def clip_and_spectrum(shape: tuple[int, ...]) -> tuple[jax.Array, jax.Array]:
    *_, height, width, channels = shape
    x = jax.random.normal(jax.random.key(0), shape)
    kernel = 0.2 * jax.random.normal(jax.random.key(1), (channels, 11, 11))
    return x, stable_spectrum(kernel_spectrum(kernel, (height, width)))


def plain(x: Any, spectrum: Any):
    """As the reference code writes it: K broadcast over batch and time, lax.associative_scan, autodiff."""
    return to_space(associative(spectrum, to_spectrum(x)), x.shape[3])


def all_frames(x: Any, spectrum: Any):
    return spectral_scan(x, spectrum)[1]


def last_frame(x: Any, spectrum: Any):
    return spectral_scan(x, spectrum, readout="last")[1]


def frame_by_frame(x: Any, spectrum: Any):
    """lax.scan of the definition."""

    def step(state, frame):
        state = spectrum * state + to_spectrum(frame)
        return state, to_space(state, frame.shape[-2])

    state = jnp.zeros((x.shape[0], *spectrum.shape), spectrum.dtype)
    return jnp.moveaxis(lax.scan(step, state, jnp.moveaxis(x, 1, 0))[1], 0, 1)


def traffic(shape: tuple[int, ...], direction: str) -> dict[str, Any]:
    """x read and y written; backward g read and dx written, the states recomputed from x, which is read again."""
    size = 4 * shape[0] * shape[1] * shape[2] * shape[3] * shape[4]
    return {"inputs": size, "traffic": size * (2 if direction == "forward" else 5)}


@OP_BENCHES.register("spectral")
def spectral_bench() -> Iterator[Comparison]:
    """All frames and the last frame against rfft2 + lax.associative_scan; last against all; lifted against plain."""
    shape, on_gpu = cases.BENCHMARKS["all_frames"], jax.default_backend() != "cpu"
    for shape_ in (shape, cases.BENCHMARKS["gpu"])[: 1 + on_gpu]:
        yield from (_all_frames(shape_, direction) for direction in DIRECTIONS)
    if has_torch():
        from cssm.torch.bench import contenders

        for direction in DIRECTIONS:
            makers = contenders.spectral_scan(shape, direction)
            name = f"spectral all frames {shape} {direction}"
            yield Comparison(name=name, framework="torch", contenders=makers, **traffic(shape, direction))
    yield _last_against_plain()
    yield _last_against_all()
    yield _lifted()


def _all_frames(shape, direction) -> Comparison:
    x, spectrum = clip_and_spectrum(shape)
    build = DIRECTIONS[direction]
    contenders = {
        "rfft2 + associative_scan": lambda: build(plain, x, spectrum),
        "spectral_scan": lambda: build(all_frames, x, spectrum),
    }
    wanted = 0.5 if direction == "forward+backward" else None
    name = f"spectral all frames {shape} {direction}"
    return Comparison(name=name, contenders=contenders, wanted=wanted, **traffic(shape, direction))


def _last_against_plain() -> Comparison:
    x, spectrum = clip_and_spectrum(cases.BENCHMARKS["last_frame"])
    contenders = {
        "rfft2 + associative_scan": lambda: gradient(lambda x, k: plain(x, k)[:, -1], x, spectrum),
        "readout last": lambda: gradient(last_frame, x, spectrum),
    }
    name = f"spectral last frame {x.shape} forward+backward"
    return Comparison(name=name, contenders=contenders, wanted=0.25, inputs=x.nbytes, traffic=2 * x.nbytes)


def _last_against_all() -> Comparison:
    x, spectrum = clip_and_spectrum(cases.BENCHMARKS["clip"])
    contenders = {
        "all frames, last kept": lambda: gradient(lambda x, k: all_frames(x, k)[:, -1], x, spectrum),
        "readout last": lambda: gradient(last_frame, x, spectrum),
    }
    name = f"spectral last against all frames {x.shape} forward+backward"
    return Comparison(name=name, contenders=contenders, wanted=0.5, inputs=x.nbytes, traffic=2 * x.nbytes)


def _lifted() -> Comparison:
    """Last frame of 4 channels lifted to 24, against lifting first: forward and backward to kernel and lift."""
    x, spectrum = clip_and_spectrum((64, 8, 32, 32, 24))
    x, lift = x[..., :4], jax.random.normal(jax.random.key(2), (4, 24))
    lifted_first = lambda w, k: spectral_scan(x @ w, k, readout="last")[1]  # noqa: E731
    transformed_first = lambda w, k: spectral_scan(x, k, readout="last", lift=w)[1]  # noqa: E731
    contenders = {
        "lift, then transform": lambda: gradient(lifted_first, lift, spectrum),
        "transform, then lift": lambda: gradient(transformed_first, lift, spectrum),
    }
    return Comparison(name="spectral last (64, 8, 32, 32, 4 -> 24)", contenders=contenders, inputs=x.nbytes)


@SWEEP_BENCHES.register("spectral")
def spectral_sweep() -> Iterator[Comparison]:
    """Forward and backward over T, H = W and C."""
    points = [("T", t, (1, t, 32, 32, 16)) for t in (8, 32, 128, 512)]
    points += [("H", h, (1, 32, h, h, 16)) for h in (8, 16, 32, 64, 128)]
    points += [("C", c, (1, 32, 32, 32, c)) for c in (4, 16, 64)]
    for axis, value, shape in points:
        inputs = clip_and_spectrum(shape)
        contenders = {
            "rfft2 + associative_scan": lambda i=inputs: gradient(plain, *i),
            "spectral_scan": lambda i=inputs: gradient(all_frames, *i),
        }
        yield Comparison(
            name=f"spectral {shape} forward+backward",
            contenders=contenders,
            sweep="spectral",
            axis=axis,
            value=value,
            **traffic(shape, "forward+backward"),
        )


@SWEEP_BENCHES.register("scaling")
def scaling_sweep() -> Iterator[Comparison]:
    """Time against the number of frames: all frames, the last one, a repeated one (the same for any T)."""
    longest = 4096 if jax.default_backend() == "cpu" else 16384
    for steps in (t for t in (16, 64, 256, 1024, 4096, 16384) if t <= longest):
        x, spectrum = clip_and_spectrum((1, steps, 32, 32, 8))
        contenders = {
            "rfft2 + associative_scan": lambda x=x, k=spectrum: forward(plain, x, k),
            "lax.scan of the step": lambda x=x, k=spectrum: forward(frame_by_frame, x, k),
            "spectral_scan, all frames": lambda x=x, k=spectrum: forward(all_frames, x, k),
            "readout last": lambda x=x, k=spectrum: forward(last_frame, x, k),
            "repeated frame": lambda x=x, k=spectrum, t=steps: forward(_static(t), x[:, 0], k),
        }
        yield Comparison(
            name=f"spectral {x.shape} forward",
            contenders=contenders,
            same_result=False,
            sweep="scaling",
            axis="T",
            value=steps,
        )


def _static(steps):
    return lambda x, spectrum: spectral_static(x, spectrum, steps)[1]
