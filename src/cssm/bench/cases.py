"""What `cssm bench` compares. Shapes come from the cases of each operator."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax

from cssm.core.registry import Registry
from cssm.models import create_model
from cssm.ops import kernel_spectrum, linear_scan, spectral_scan, stable_spectrum
from cssm.ops.scan import cases as scan_cases
from cssm.ops.spectral import cases as spectral_cases
from cssm.ops.spectral import to_space, to_spectrum

from .harness import Comparison

BENCHES: Registry[Callable[[], list[Comparison]]] = Registry("benchmark")


def _gradient(function, *args):
    """A callable that runs forward and backward, jitted, on fixed arguments."""
    loss = lambda *a: jnp.sum(jnp.square(function(*a)))  # noqa: E731
    compiled = jax.jit(jax.value_and_grad(loss, tuple(range(len(args)))))
    return lambda: compiled(*args)


def _forward(function, *args):
    compiled = jax.jit(function)
    return lambda: compiled(*args)


def _clip_and_spectrum(shape):
    *_, height, width, channels = shape
    x = jax.random.normal(jax.random.key(0), shape)
    kernel = 0.2 * jax.random.normal(jax.random.key(1), (channels, 11, 11))
    return x, stable_spectrum(kernel_spectrum(kernel, (height, width)))


def associative_reference(x, spectrum):
    """As the reference code writes it: K broadcast over batch and time, lax.associative_scan, autodiff."""
    frames = to_spectrum(x)
    gains = jnp.broadcast_to(spectrum, frames.shape)
    combine = lambda p, q: (q[0] * p[0], q[0] * p[1] + q[1])  # noqa: E731
    return to_space(lax.associative_scan(combine, (gains, frames), axis=1)[1], x.shape[3])


@BENCHES.register("spectral_last")
def spectral_last() -> list[Comparison]:
    """The last frame alone against all frames, forward and backward."""
    x, spectrum = _clip_and_spectrum(spectral_cases.BENCHMARKS["clip"])
    contenders = {
        "all frames, last kept": _gradient(lambda x, k: spectral_scan(x, k)[1][:, -1], x, spectrum),
        "last": _gradient(lambda x, k: spectral_scan(x, k, readout="last")[1], x, spectrum),
    }
    return [Comparison(name=f"spectral last {x.shape} forward+backward", contenders=contenders, wanted=0.5)]


@BENCHES.register("spectral_lifted")
def spectral_lifted() -> list[Comparison]:
    """Last frame of 4 channels lifted to 24, against lifting first: forward and backward to kernel and lift."""
    x, spectrum = _clip_and_spectrum((64, 8, 32, 32, 24))
    x, lift = x[..., :4], jax.random.normal(jax.random.key(2), (4, 24))

    def gradient(function):
        compiled = jax.jit(jax.value_and_grad(lambda w, k: jnp.sum(jnp.square(function(w, k))), (0, 1)))
        return lambda: compiled(lift, spectrum)

    contenders = {
        "lift, then transform": gradient(lambda w, k: spectral_scan(x @ w, k, readout="last")[1]),
        "transform, then lift": gradient(lambda w, k: spectral_scan(x, k, readout="last", lift=w)[1]),
    }
    return [Comparison(name="spectral last (64, 8, 32, 32, 4 -> 24)", contenders=contenders)]


@BENCHES.register("spectral_all")
def spectral_all() -> list[Comparison]:
    """All frames against rfft2 + lax.associative_scan with K broadcast."""
    x, spectrum = _clip_and_spectrum(spectral_cases.BENCHMARKS["all_frames"])
    ours = lambda x, k: spectral_scan(x, k)[1]  # noqa: E731
    return [
        Comparison(
            name=f"spectral all frames {x.shape} {direction}",
            contenders={
                "associative_scan": build(associative_reference, x, spectrum),
                "cssm": build(ours, x, spectrum),
            },
        )
        for direction, build in (("forward", _forward), ("forward+backward", _gradient))
    ]


@BENCHES.register("static_model")
def static_model() -> list[Comparison]:
    """A static image through the whole model: 32 frames against 1."""
    comparisons = []
    image = jax.random.normal(jax.random.key(0), (8, 32, 32, 3))
    for direction, build in (("forward", _forward), ("forward+backward", _model_gradient)):
        contenders = {}
        for steps in (1, 32):
            options = {"embed_dim": 32, "stem": "pathtracker", "norm": "global_layer", "seq_len": steps}
            graph, params = nnx.split(create_model("simple", rngs=nnx.Rngs(0), **options))
            contenders[f"T = {steps}"] = build(lambda p, x, g=graph: nnx.merge(g, p)(x), params, image)
        name = f"SimpleCSSM, static image, {direction}"
        comparisons.append(Comparison(name=name, contenders=contenders, same_result=False, wanted=1.3))
    return comparisons


def _model_gradient(function, params, x):
    compiled = jax.jit(jax.value_and_grad(lambda p: jnp.sum(jnp.square(function(p, x)))))
    return lambda: compiled(params)


@BENCHES.register("linear_scan")
def linear_scan_bench() -> list[Comparison]:
    """The implementations of the linear recurrence against lax.associative_scan with a broadcast."""
    case = scan_cases.BENCHMARKS["decay"]
    a = jax.random.uniform(jax.random.key(0), case.a, minval=0.5)
    b = jax.random.normal(jax.random.key(1), case.b)

    def plain(a, b):
        combine = lambda p, q: (q[0] * p[0], q[0] * p[1] + q[1])  # noqa: E731
        return lax.associative_scan(combine, (jnp.broadcast_to(a, b.shape), b), axis=1)[1]

    contenders = {"lax.associative_scan": _gradient(plain, a, b)}
    for name in ("sequential", "chunked", "associative"):
        contenders[name] = _gradient(lambda a, b, n=name: linear_scan(a, b, implementation=n), a, b)
    return [Comparison(name=f"linear scan {case.b} forward+backward", contenders=contenders)]
