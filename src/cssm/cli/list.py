"""cssm list: everything that has a name."""

from cssm.core.errors import UnknownNameError


def main(argv: list[str]) -> int:
    if argv and argv[0] in ("-h", "--help"):
        print(f"usage: cssm list [{' | '.join(SECTIONS)}]")
        return 0
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


def _models():
    from cssm.models import MODELS

    table = _table("models", "name", "config")
    for name in MODELS.names():
        table.add_row(name, type(MODELS[name]).__name__)
    return table


def _described(title: str, registry):
    table = _table(title, "name", "what")
    for name in registry.names():
        table.add_row(name, _first_line(registry[name]))
    return table


def _datasets():
    from cssm.data import datasets

    return _described("datasets", datasets)


def _recipes():
    from cssm.recipes import RECIPES

    return _described("recipes", RECIPES)


def _benches():
    from cssm.bench import MODELS, OPS, SWEEPS

    table = _table("benchmarks", "flag", "name", "what")
    for flag, registry in (("--op", OPS), ("--model", MODELS), ("--sweep", SWEEPS)):
        for name in registry.names():
            table.add_row(flag, name, _first_line(registry[name]))
    return table


SECTIONS = {"mixers": _mixers, "models": _models, "datasets": _datasets, "recipes": _recipes, "benchmarks": _benches}
