"""The colours of every picture."""

INK, QUIET, BLUE, RED, GREEN = "#222222", "#9a9a9a", "#2f6fb5", "#c8473a", "#3c8f4f"
