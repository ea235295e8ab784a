"""The foundation: the shape legend, the registry and the typed errors. Imports neither jax nor torch."""
