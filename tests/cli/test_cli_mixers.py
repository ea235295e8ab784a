"""`cssm list mixers`, its copy in the README, `cssm list models`, and `cssm inspect`'s bound on the state."""

import dataclasses
import re
from pathlib import Path

import jax.numpy as jnp
import pytest
from flax import nnx

from cssm.cli import main
from cssm.models import MODELS
from cssm.nn import create_mixer
from cssm.viz import mixers, models
from cssm.viz.inspect import inspect_layer
from cssm.viz.mixers import COLUMNS, EXACT, NOTE, mixer_facts
from specimens import SHIPPED

README = Path(__file__).parents[2] / "README.md"


def cells(line):
    return [cell.strip() for cell in line.strip().strip("|").split("|")]


def test_the_readme_carries_the_table_of_the_registry():
    """All columns but XLA's counts, which differ between versions; `make docs` adds the row of a new mixer."""
    table = re.search(r"<!-- mixers: .*?-->\n(.*?)<!-- end", README.read_text(), re.DOTALL)
    assert table is not None
    head, _, *rows = [cells(line) for line in table[1].splitlines() if line.startswith("|")]
    assert tuple(head) == COLUMNS
    shown = {row[0].strip("`"): row[1:EXACT] for row in rows}
    assert shown == {name: mixer_facts(name, cost=False).cells()[1:EXACT] for name in shown}
    assert {*shown} == SHIPPED and len(rows) == len(shown)
    assert all(re.fullmatch(r"(>= )?[\d.]+( [kMG])?", cell) for row in rows for cell in row[EXACT:])
    assert NOTE in table[1]


@pytest.mark.parametrize("name", sorted(SHIPPED))
def test_every_mixer_that_ships_has_its_paragraph_and_picture(name):
    """docs/mixers.md: a heading, some words, the picture; `make docs` draws it."""
    text = (README.parent / "docs" / "mixers.md").read_text()
    section = re.search(rf"^### {name}\n\n(.*?)(?=^##|\Z)", text, re.DOTALL | re.MULTILINE)
    assert section is not None, f"docs/mixers.md says nothing of {name}"
    words, picture = section[1].split("![")
    assert len(words.split()) >= 8
    assert picture.startswith(f"{name}](images/mixers/{name}.png)")
    size = (README.parent / "docs" / "images" / "mixers" / f"{name}.png").stat().st_size
    assert 1000 < size < 40_000


def test_facts_are_those_of_the_mixer():
    facts = mixer_facts("no_gate", channels=4, grid=(8, 6))
    assert facts.parameters == 4 * 11 * 11 + 4 * 4 + 4 and facts.state_bytes == 4 * 8 * 4 * 8
    assert facts.recurrent and facts.causal and facts.time_invariant and facts.grid_free and not facts.looped
    assert facts.flops is not None and facts.flops > 0 and facts.bytes is not None and facts.bytes > 0
    control = mixer_facts("spatial_attn", channels=8, grid=(4, 4), cost=False)
    assert not control.recurrent and not control.causal and not control.grid_free and control.state_bytes == 0


def test_list_mixers_prints_the_table(capsys, monkeypatch):
    monkeypatch.setattr("cssm.nn.list_mixers", lambda: ["no_gate"])
    monkeypatch.setattr("cssm.viz.mixers.stored_facts", lambda: [mixer_facts("no_gate")])
    assert main(["list", "mixers"]) == 0
    out = capsys.readouterr().out
    assert all(column in out for column in COLUMNS) and "4,928" in out
    assert main(["list", "mixers", "--markdown"]) == 0
    out = capsys.readouterr().out
    assert (
        out.startswith("| mixer | causal |") and "| `no_gate` | yes | yes | yes | yes | yes | 4,928 | 139,264 |" in out
    )
    assert main(["list", "mixers", "nonsense"]) == 2


@pytest.mark.parametrize(
    ("value", "text"), [(0.4, "0"), (999.4, "1.0 k"), (1000.0, "1.0 k"), (99_600.0, "100 k"), (2e9, "2.0 G")]
)
def test_two_digits(value, text):
    assert mixers._short(value) == text


def test_inspect_reports_the_bound_on_the_state():
    mixer = create_mixer("no_gate", channels=2, kernel_size=1, rngs=nnx.Rngs(0))
    mixer.recurrence_kernel[...] = jnp.full((2, 1, 1), 1.0)  # a delta: gain rho / 2 at every frequency
    assert inspect_layer("layer", mixer, (4, 4), 2).state_bound == pytest.approx(16 / (1 - 0.999 / 2))
    control = create_mixer("spatial_attn", channels=8, grid=(4, 4), rngs=nnx.Rngs(0))
    assert inspect_layer("layer", control, (4, 4), 8).state_bound is None


@pytest.mark.parametrize("name", sorted(SHIPPED))
def test_stored_figures_are_those_of_the_mixer(name):
    """All but XLA's counts, which differ between versions; `make docs` writes them anew."""
    stored = {facts.name: facts for facts in mixers.stored_facts()}
    measured = mixer_facts(name, cost=False)
    assert stored[name].cells()[:EXACT] == measured.cells()[:EXACT] and stored[name].what == measured.what
    assert stored[name].flops and stored[name].bytes and len(stored) == len(SHIPPED)


def test_stored_counts_are_what_xla_counts():
    stored = {facts.name: facts for facts in mixers.stored_facts()}["no_gate"]
    measured = mixer_facts("no_gate")
    assert measured.flops == pytest.approx(stored.flops, rel=0.05)
    assert measured.bytes == pytest.approx(stored.bytes, rel=0.5)


def test_list_measures_nothing_unless_asked(capsys, monkeypatch):
    monkeypatch.setattr("cssm.viz.mixers.step_cost", None)
    assert main(["list", "mixers", "--markdown"]) == 0
    assert capsys.readouterr().out.count("\n| `") == len(SHIPPED)
    monkeypatch.setattr("cssm.nn.list_mixers", lambda: ["no_gate"])
    with pytest.raises(TypeError):
        main(["list", "mixers", "--measure"])


def test_help_of_create_mixer_lists_every_option():
    from cssm.nn.mixer import options_of

    text = create_mixer.__doc__ or ""
    for name in SHIPPED:
        line = next(line for line in text.splitlines() if line.strip().startswith(f"{name}:"))
        assert all(f"{option}=" in line for option in options_of(name))


LARGE = ("base", "large", "deit3", "cssm_deit3")  # seconds each
STORED = [row.name for row in models.stored_models()]
STORED = [pytest.param(n, marks=pytest.mark.slow) if any(word in n for word in LARGE) else n for n in STORED]


@pytest.mark.parametrize("name", STORED)
def test_stored_figures_are_those_of_the_model(name):
    """All but XLA's counts; `make docs` writes them anew."""
    stored = {facts.name: facts for facts in models.stored_models()}
    measured = models.model_facts(name, cost=False)
    assert dataclasses.replace(stored[name], flops=None, looped=False) == measured and stored[name].flops


def test_models_are_listed_and_inspected(capsys):
    shipped = {name for name in MODELS.names() if type(MODELS[name]).__module__.startswith("cssm.")}
    assert {row.name for row in models.stored_models()} == shipped
    assert main(["list", "models", "--markdown"]) == 0
    assert "| `convnext_tiny` | ConvNeXt | Depthwise | 28,589,128 |" in capsys.readouterr().out
    assert main(["inspect", "--model", "deit3_small_patch16_224", "--grid", "96", "64"]) == 0
    shown = capsys.readouterr().out
    assert "block 11" in shown and "1 x 25 x 384" in shown and "22,059,496 parameters, 84 MiB" in shown
    assert main(["inspect", "--model", "deit3_smal_patch16_224"]) != 0
    assert "did you mean" in capsys.readouterr().err
