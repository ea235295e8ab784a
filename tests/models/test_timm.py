"""Every plain host against timm itself, where it is installed: `pip install timm`, then `make test-slow`."""

import importlib.util
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from cssm.models import create_model, load_timm, timm_arrays

torch = pytest.importorskip("torch")
FIXTURES = Path(__file__).parent / "timm" / "make.py"
NAMES = (
    "vit_small_patch16_224", "vit_base_patch16_224", "deit3_small_patch16_224", "deit3_base_patch16_224",
    "deit3_large_patch16_224", "convnext_atto", "convnext_tiny", "convnext_base",
)  # fmt: skip


@pytest.fixture(scope="module")
def timm():
    if importlib.util.find_spec("timm") is None:
        pytest.skip("timm is not installed")
    spec = importlib.util.spec_from_file_location("make", FIXTURES)
    make = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(make)
    kept = make.declare_missing_operators()  # as long as it lives
    import timm

    yield timm
    del kept


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_logits_at_three_sizes_and_back(timm, name):
    torch.manual_seed(0)
    options = {} if "convnext" in name else {"dynamic_img_size": True}
    theirs = timm.create_model(name, num_classes=10, **options).eval()
    with torch.no_grad():
        for key, parameter in theirs.named_parameters():  # as far from what hides the blocks as training gets
            if "gamma" in key or key.endswith("bias") or "pos_embed" in key or "cls" in key:
                parameter.normal_(0, 0.5 if "gamma" in key else 0.2)
    arrays = {key: value.numpy() for key, value in theirs.state_dict().items()}
    ours = create_model(name, num_classes=10, rngs=nnx.Rngs(0))
    report = load_timm(ours, arrays)
    assert not report.changed and not report.left and not report.kept
    graph, params = nnx.split(ours)
    run = jax.jit(lambda params, x: nnx.merge(graph, params)(x))
    for size in ((224, 224), (256, 192), (384, 384)):
        images = torch.randn(1, 3, *size)
        with torch.no_grad(), jax.default_matmul_precision("highest"):
            found = run(params, jnp.asarray(images.permute(0, 2, 3, 1).numpy()))
            assert float(jnp.abs(found - theirs(images).numpy()).max()) <= 2e-5
    back = timm_arrays(ours)
    theirs.load_state_dict({key: torch.from_numpy(np.ascontiguousarray(value)) for key, value in back.items()})
    assert set(back) == set(arrays) and all(np.array_equal(back[key], value) for key, value in arrays.items())
