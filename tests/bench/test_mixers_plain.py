"""Every plain form that `cssm bench --model mixers` times is the mixer: values, and gradients to parameters and x."""

import pytest

from cssm.bench import MODEL_BENCHES, mixers, run
from cssm.nn import list_mixers
from specimens import SHIPPED
from tolerances import assert_close

EVERY_DAY = {"conv_ssm"}  # the others: make test-slow
FORMS = [
    pytest.param(name, form, id=f"{name}-{form}", marks=[] if name in EVERY_DAY else pytest.mark.slow)
    for name, forms in mixers.PLAIN.items()
    for form in forms
]
NO_RECURRENCE = {"spatial_attn", "transformer"}


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(mixers, "SHAPE", (2, 4, 6, 7, 8))


@pytest.mark.parametrize("name, form", FORMS)
def test_a_plain_form_is_the_mixer_with_every_gradient(name, form):
    plain, ours = (maker()() for maker in (mixers.plain(name, form), mixers.compiled(name)))
    assert_close(ours, plain, 2e-5)


def test_every_recurrent_mixer_that_ships_has_a_plain_form():
    assert set(mixers.PLAIN) == SHIPPED - NO_RECURRENCE


def test_every_mixer_is_compared_with_no_gate_and_its_plain_forms():
    pairs = [tuple(comparison.contenders) for comparison in MODEL_BENCHES["mixers"]()]
    expected = {("no_gate", name) for name in list_mixers() if name != "no_gate"}
    assert set(pairs) == expected | {(form, name) for name, forms in mixers.PLAIN.items() for form in forms}


def test_a_comparison_is_checked_and_timed():
    comparison = next(c for c in MODEL_BENCHES["mixers"]() if "lru" in c.name and "no_gate" not in c.contenders)
    first, second = run(comparison, repeats=1)
    assert first.contender == "lax.associative_scan" and second.contender == "lru" and second.wanted == "<= 1"
