import io
import json

import jax.numpy as jnp
import numpy as np
import pytest
from rich.console import Console

from cssm.bench import (
    MODEL_BENCHES,
    OP_BENCHES,
    SWEEP_BENCHES,
    Comparison,
    Incorrect,
    copy_bandwidth,
    record,
    run,
    save,
    show,
)
from cssm.shared.resident_memory import high_water_mark


def comparison(contender, **options):
    contenders = {"plain": lambda: lambda: jnp.ones(3), "other": lambda: contender}
    return Comparison(name="toy", contenders=contenders, **options)


def test_a_wrong_result_is_not_timed():
    calls = []
    wrong = lambda: calls.append(1) or 1.01 * jnp.ones(3)  # noqa: E731
    with pytest.raises(Incorrect, match="toy: other differs from the baseline"):
        run(comparison(wrong), repeats=5)
    assert len(calls) == 1
    for result in (jnp.full(3, jnp.nan), jnp.ones(4), (jnp.ones(3), jnp.ones(3))):
        with pytest.raises(Incorrect):
            run(comparison(lambda result=result: result))


def slow():
    import time

    time.sleep(0.01)
    return jnp.ones(3)


def test_ratio_is_to_the_first_contender_and_is_reported(tmp_path):
    timings = run(comparison(slow, wanted=0.5, traffic=1000, inputs=12), repeats=5)
    first, second = timings
    assert first.ratio == 1.0 and first.wanted is None and second.met is False
    assert second.ratio > 3 and second.ratio_low <= second.ratio <= second.ratio_high
    assert second.limit == 1000 / copy_bandwidth("jax") and second.median > 0.01 > second.compile / 10
    text = io.StringIO()
    show(timings, Console(file=text, width=160))
    assert "toy" in text.getvalue() and "<= 0.5" in text.getvalue()
    save(record(timings, "abc"), tmp_path / "bench.json")
    saved = json.loads((tmp_path / "bench.json").read_text())
    assert saved["revision"] == "abc" and len(saved["timings"]) == 2 and saved["jax"] and saved["device"]
    assert run(comparison(slow, at_least=2.0), repeats=5)[1].met
    assert run(comparison(slow, at_least=2.0, judged="plain"), repeats=5)[1].met is None


def test_slow_comparisons_stop_at_the_budget():
    assert run(comparison(slow), repeats=50, budget=0.0)[0].rounds == 5


def test_memory_is_the_rise_of_the_resident_set():
    def work():
        np.ones(8_000_000)  # 64 MB, freed at once
        return np.ones(2_000_000)

    rise = high_water_mark(work)
    assert rise is None or 62e6 < rise < 72e6
    assert rise is None or high_water_mark(lambda: None) < 2e6


def test_every_benchmark_is_documented():
    for registry in (OP_BENCHES, MODEL_BENCHES, SWEEP_BENCHES):
        assert registry.names() and all(registry[name].__doc__ for name in registry.names())


@pytest.mark.slow
def test_a_model_benchmark_runs(monkeypatch):
    monkeypatch.setattr("cssm.bench.models.SHAPE", (1, 3, 16, 16, 3))
    comparison = next(MODEL_BENCHES["simple"]())
    assert all(t.median > 0 for t in run(comparison, repeats=1))


def test_the_mechanism_is_one_recurrence(monkeypatch):
    monkeypatch.setattr("cssm.bench.mechanism.SHAPE", (1, 5, 24, 24, 2))  # the kernel grows to 21, then to the grid
    assert len(run(next(OP_BENCHES["mechanism"]()), repeats=1)) == 3


def test_a_sweep_is_drawn(tmp_path, monkeypatch):
    from cssm.viz.bench import draw_sweep

    timings = []
    for axis, value in (("T", 8), ("T", 16), ("C", 2), ("C", 4)):
        timings += run(comparison(slow, sweep="toy", axis=axis, value=value), repeats=2)
    draw_sweep(timings, tmp_path / "toy.png")
    assert (tmp_path / "toy.png").stat().st_size > 5000
