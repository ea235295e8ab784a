"""From the line that a user types after `cssm train` to the run that it makes, without training it."""

import shlex

from cssm.cli.train import _new, _recipe_of
from cssm.cli.words import options_of
from cssm.recipes import RECIPES


def run_of(line: str):
    """The run of a command line of `cssm train`."""
    words = shlex.split(line)
    name = words.pop(0) if not words[0].startswith("-") else None
    options = options_of(words)
    name = name or _recipe_of(options)
    return _new(RECIPES[name](), options, name)
