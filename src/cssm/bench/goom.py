"""The price of complex logarithms: the spectral recurrence on GOOMs against ordinary numbers."""

from collections.abc import Iterator
from functools import partial

from cssm.ops import spectral_scan
from cssm.ops.spectral import cases

from .frameworks import DIRECTIONS
from .harness import Comparison
from .registry import OP_BENCHES
from .spectral import clip_and_spectrum


@OP_BENCHES.register("goom")
def goom_bench() -> Iterator[Comparison]:
    """spectral_scan on ordinary numbers and on GOOMs, forward and backward; GOOM is for range, not for speed."""
    x, spectrum = clip_and_spectrum(cases.BENCHMARKS["all_frames"])
    for direction, build in DIRECTIONS.items():
        contenders = {
            name: partial(build, lambda x, k, i=i: spectral_scan(x, k, implementation=i)[1], x, spectrum)
            for name, i in (("direct", None), ("goom", "goom"))
        }
        yield Comparison(name=f"numerics {x.shape} {direction}", contenders=contenders, inputs=x.nbytes)
