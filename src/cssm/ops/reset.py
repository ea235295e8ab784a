"""The one check of a reset mask."""

from cssm.shared.reset import check_reset

__all__ = ["check_reset"]
