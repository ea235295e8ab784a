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
        return _with_costs(argv[0], "--markdown" in argv, "--measure" in argv)
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


def _with_costs(section: str, markdown: bool, measure: bool) -> int:
    """The table of mixers or of models, from the figures that the package carries, or counted anew."""
    from rich.console import Console

    from cssm.models import list_models
    from cssm.nn import list_mixers
    from cssm.viz import mixers, models

    facts_of, stored, page, columns, note, right, listed = {
        "mixers": (
            mixers.mixer_facts, mixers.stored_facts, mixers.markdown_table, mixers.COLUMNS, mixers.NOTE,
            range(6, len(mixers.COLUMNS)), list_mixers,
        ),
        "models": (
            models.model_facts, models.stored_models, models.markdown_models, models.COLUMNS, models.NOTE, (3, 4),
            list_models,
        ),
    }[section]  # fmt: skip
    if measure:
        with Console(stderr=True).status(f"counting the operations of all {section}"):
            rows = [facts_of(name) for name in listed()]
    else:
        rows = stored()
        rows += [facts_of(name, cost=False) for name in listed() if name not in {row.name for row in rows}]
    if markdown:
        print(page(rows), end="")
        return 0
    table = _table(section, *columns)
    for i, column in enumerate(table.columns):
        column.justify, column.no_wrap = ("right" if i in right else "left"), section == "mixers"
    for row in rows:
        table.add_row(*row.cells())
    console = Console() if sys.stdout.isatty() else Console(width=130)
    console.print(table)
    console.print(note)
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


def _pretrained():
    from cssm.weights import list_pretrained, pretrained

    table = _table("pretrained", "name", "model", "trained on", "score")
    for name in list_pretrained():
        held = pretrained(name)
        about = (
            type(held.run.model).__name__.removesuffix("Config"),
            held.run.recipe,
            str(held.record.get("score", "-")),
        )
        table.add_row(name, *about)
    return table


SECTIONS = {
    "mixers": _mixers,
    "models": _models,
    "datasets": _datasets,
    "recipes": _recipes,
    "benchmarks": _benches,
    "pretrained": _pretrained,
}
