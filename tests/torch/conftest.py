import jaxtyping
import pytest


@pytest.fixture
def unchecked():
    """The package as users import it, without jaxtyping's checks: torch.compile would trace them and stop there."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)
