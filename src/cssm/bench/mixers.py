"""What a mixer costs: forward + backward of every one, against `no_gate` and against its plain form."""

from collections.abc import Callable, Iterator
from functools import cache, partial
from typing import Any

import jax
from flax import nnx

from cssm.nn import create_mixer, list_mixers

from . import mixers_associative as associative
from .delta_plain import gdn_plain
from .frameworks import gradient
from .harness import Comparison
from .mixers_plain import gated_goom, opponent_goom
from .registry import MODEL_BENCHES

SHAPE = (2, 32, 32, 32, 32)  # b t h w c
UNIT = "no_gate"
SCAN, GOOM, CONV, FFT = "lax.associative_scan", "GOOM", "lax.conv, frame by frame", "padded FFT"

# mixer -> plain form -> (function of the mixer and x, how many times faster the mixer must be)
PLAIN: dict[str, dict[str, tuple[Callable, float]]] = {
    "conv3d": {SCAN: (associative.conv3d, 1)},
    "conv_ssm": {SCAN: (associative.conv_ssm, 1)},
    "convs5": {SCAN: (associative.modes, 1)},
    "gated": {GOOM: (gated_goom, 5)},
    "gdn": {GOOM: (partial(gdn_plain, numerics="goom"), 5), SCAN: (gdn_plain, 1)},
    "gdn_seq": {SCAN: (associative.gdn_seq, 1)},
    "lru": {SCAN: (associative.modes, 1)},
    "mamba2_seq": {SCAN: (associative.mamba2_seq, 1)},
    "mingru": {SCAN: (associative.mingru, 1)},
    "no_fft": {SCAN: (associative.no_fft, 1)},
    "no_gate": {SCAN: (associative.no_gate, 1)},
    "opponent": {GOOM: (opponent_goom, 5)},
    "realspace_par": {CONV: (associative.realspace, 1)},
    "realspace_seq": {CONV: (associative.realspace, 1)},
    "rglru": {SCAN: (associative.rglru, 1)},
    "s4": {SCAN: (associative.s4, 1)},
    "s4d": {SCAN: (associative.s4d, 1)},
    "s4nd": {FFT: (associative.s4nd, 1)},
    "s4nd_full": {FFT: (associative.s4nd, 1)},
    "s5": {SCAN: (associative.modes, 1)},
    "standard": {SCAN: (associative.standard, 1)},
}


@MODEL_BENCHES.register("mixers")
def mixers() -> Iterator[Comparison]:
    """Every mixer at (2, 32, 32, 32, 32), forward and backward: against no_gate, and against its plain forms."""
    unit = compiled(UNIT)
    for name in list_mixers():
        ours = compiled(name)  # once for all its comparisons
        if name != UNIT:
            yield comparison(name, {UNIT: unit, name: ours}, same_result=False)
        for form, (_, least) in PLAIN.get(name, {}).items():
            yield comparison(name, {form: plain(name, form), name: ours}, wanted=1 / least, tolerance=2e-4)


def compiled(name: str, function: Callable = lambda mixer, x: mixer(x)) -> Callable:
    """A maker of `function` of the mixer of that name with its gradients to all parameters and x; it compiles once."""

    @cache
    def build():
        graph, params = nnx.split(create_mixer(name, channels=SHAPE[-1], grid=SHAPE[2:4], rngs=nnx.Rngs(0)))
        x = jax.random.normal(jax.random.key(0), SHAPE)
        return gradient(lambda params, x: function(nnx.merge(graph, params), x), params, x)

    return build


def plain(name: str, form: str) -> Callable:
    """`compiled` of that plain form of the mixer."""
    return compiled(name, PLAIN[name][form][0])


def comparison(name: str, contenders: dict[str, Callable], **options: Any) -> Comparison:
    """Of makers for the mixer of that name."""
    return Comparison(name=f"{name} {SHAPE} forward+backward", contenders=contenders, **options)
