"""The one table of tolerances: relative RMS error by dtype. They only tighten."""

import jax
import numpy as np

RELATIVE_RMS = {
    "float64": 1e-11,
    "complex128": 1e-11,
    "float32": 3e-6,
    "complex64": 3e-6,
    "bfloat16": 2e-2,
    "int32": 0.0,
}


def assert_close(actual, expected, limit=None, what=""):
    """Compare two pytrees leaf by leaf: shape, then relative RMS of the difference against the table."""
    a, treedef = jax.tree.flatten(actual)
    e, expected_treedef = jax.tree.flatten(expected)
    assert treedef == expected_treedef, f"{what}: {treedef} != {expected_treedef}"
    for i, (x, y) in enumerate(zip(a, e, strict=True)):
        bound = limit or RELATIVE_RMS[str(np.asarray(x).dtype)]
        x, y = (np.asarray(v).astype(np.promote_types(np.asarray(v).dtype, np.float64)) for v in (x, y))
        assert x.shape == y.shape, f"{what}[{i}]: shape {x.shape} != {y.shape}"
        error, scale = np.sqrt(np.mean(np.abs(x - y) ** 2)), np.sqrt(np.mean(np.abs(y) ** 2))
        assert error <= bound * max(scale, 1e-6), (
            f"{what}[{i}]: relative RMS error {error / max(scale, 1e-30):.2e} > {bound}"
        )
