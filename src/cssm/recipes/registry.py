"""Recipes by name."""

from collections.abc import Callable

from cssm.core.registry import Registry

from .run import Run

RECIPES: Registry[Callable[[], Run]] = Registry("recipe")
