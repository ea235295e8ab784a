"""cssm list: everything that has a name."""

import sys

from cssm.core.errors import UnknownNameError

USAGE = """\
usage: cssm list [SECTION ...]

Everything that has a name: {sections}.
cssm list mixers and cssm list models add what each costs, --measure counted anew here (half a minute and more);
with --markdown they print that table as the README and docs/models.md carry it.
"""


def main(argv: list[str]) -> int:
    if argv and argv[0] in ("-h", "--help"):
        print(USAGE.format(sections=", ".join(SECTIONS)), end="")
        return 0
    if argv[:1] in (["mixers"], ["models"]) and set(argv[1:]) <= {"--markdown", "--measure"}:
        run = _mixers_with_costs if argv[0] == "mixers" else _models_with_costs
        return run("--markdown" in argv, "--measure" in argv)
    for name in argv:
        if name not in SECTIONS:
            raise UnknownNameError("section", name, SECTIONS)
    from rich.console import Console

    for name in argv or SECTIONS:
        Console().print(SECTIONS[name]())
    return 0


def _table(title: str, *columns: str):
    from rich.table import Table

    return Table(*columns, title=title, title_justify="left")


def _first_line(thing) -> str:
    return (thing.__doc__ or "").strip().splitlines()[0]


def _mixers():
    from cssm.nn import MIXERS, Mixer

    table = _table("mixers", "name", "recurrent", "causal", "what")
    for name in MIXERS.names():
        mixer = MIXERS[name]
        what = _first_line(mixer)
        table.add_row(name, "yes" if issubclass(mixer, Mixer) else "no", "yes" if mixer.causal else "no", what)
    return table


def _mixers_with_costs(markdown: bool, measure: bool) -> int:
    from rich.console import Console

    from cssm.nn import list_mixers
    from cssm.viz.mixers import COLUMNS, NOTE, markdown_table, mixer_facts, stored_facts

    if measure:
        with Console(stderr=True).status("counting the operations of every mixer"):
            rows = [mixer_facts(name) for name in list_mixers()]
    else:
        rows = stored_facts()
        rows += [mixer_facts(name, cost=False) for name in list_mixers() if name not in {row.name for row in rows}]
    if markdown:
        print(markdown_table(rows), end="")
        return 0
    table = _table("mixers", *COLUMNS)
    for i, column in enumerate(table.columns):
        column.justify, column.no_wrap = ("right" if i > 5 else "left"), True
    for row in rows:
        table.add_row(*row.cells())
    console = Console() if sys.stdout.isatty() else Console(width=130)
    console.print(table)
    console.print(NOTE)
    return 0


def _models_with_costs(markdown: bool, measure: bool) -> int:
    from rich.console import Console

    from cssm.models import list_models
    from cssm.viz.models import COLUMNS, NOTE, markdown_models, model_facts, stored_models

    if measure:
        with Console(stderr=True).status("counting the operations of every model"):
            rows = [model_facts(name) for name in list_models()]
    else:
        rows = stored_models()
        rows += [model_facts(name, cost=False) for name in list_models() if name not in {row.name for row in rows}]
    if markdown:
        print(markdown_models(rows), end="")
        return 0
    table = _table("models", *COLUMNS)
    for i, column in enumerate(table.columns):
        column.justify = "right" if i in (3, 4) else "left"
    for row in rows:
        table.add_row(*row.cells())
    console = Console() if sys.stdout.isatty() else Console(width=130)
    console.print(table)
    console.print(NOTE)
    return 0


def _models():
    from cssm.models import MODELS

    table = _table("models", "name", "what", "mixer, channels, depth")
    for name in MODELS.names():
        config = MODELS[name]
        fields = (("variant", "mixer"), ("embed_dim", "dims"), ("depth", "depths"))
        sizes = (next((getattr(config, f) for f in either if hasattr(config, f)), "-") for either in fields)
        what = _first_line(type(config)).removeprefix("Options of ").partition(".")[0]
        table.add_row(name, what, ", ".join(map(str, sizes)))
    return table


def _described(title: str, registry):
    table = _table(title, "name", "what")
    for name in registry.names():
        table.add_row(name, _first_line(registry[name]))
    return table


def _datasets():
    from cssm.data import DATASETS

    return _described("datasets", DATASETS)


def _recipes():
    from cssm.recipes import RECIPES

    return _described("recipes", RECIPES)


def _benches():
    from cssm.bench import MODEL_BENCHES, OP_BENCHES, SWEEP_BENCHES

    table = _table("benchmarks", "flag", "name", "what")
    for flag, registry in (("--op", OP_BENCHES), ("--model", MODEL_BENCHES), ("--sweep", SWEEP_BENCHES)):
        for name in registry.names():
            table.add_row(flag, name, _first_line(registry[name]))
    return table


SECTIONS = {"mixers": _mixers, "models": _models, "datasets": _datasets, "recipes": _recipes, "benchmarks": _benches}
