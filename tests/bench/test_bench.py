import io
import json

import jax.numpy as jnp
import pytest
from rich.console import Console

from cssm.bench import BENCHES, Comparison, Incorrect, run, save, show


def comparison(contender, **options):
    return Comparison(name="toy", contenders={"plain": lambda: jnp.ones(3), "other": contender}, **options)


def test_a_wrong_result_is_not_timed():
    calls = []
    wrong = lambda: calls.append(1) or 1.01 * jnp.ones(3)  # noqa: E731
    with pytest.raises(Incorrect, match="other differs from the baseline"):
        run(comparison(wrong), repeats=5)
    assert len(calls) == 1
    with pytest.raises(Incorrect):
        run(comparison(lambda: jnp.full(3, jnp.nan)))


def test_ratio_is_to_the_first_contender_and_is_reported(tmp_path):
    import time

    def slow():
        time.sleep(0.01)
        return jnp.ones(3)

    timings = run(comparison(slow, wanted=0.5), repeats=5)
    assert timings[0].ratio == 1.0 and timings[0].wanted is None
    assert timings[1].ratio > 3 and timings[1].ratio_low <= timings[1].ratio <= timings[1].ratio_high
    text = io.StringIO()
    show(timings, Console(file=text, width=100))
    assert "toy" in text.getvalue() and "<= 0.5" in text.getvalue()
    save(timings, tmp_path / "bench.json", "abc")
    record = json.loads((tmp_path / "bench.json").read_text())
    assert record["revision"] == "abc" and len(record["timings"]) == 2 and record["jax"]


def test_every_benchmark_is_documented_and_its_results_agree():
    for name in ("spectral_last", "static_model"):
        for case in BENCHES[name]():
            assert run(case, repeats=1)[-1].median > 0
    assert all(BENCHES[name].__doc__ for name in BENCHES.names())
