"""Named shapes (B, T, H, W, C) of the spectral recurrence, shared by the tests and the benchmark."""

TESTS = {
    "square": (2, 5, 8, 8, 3),
    "odd": (2, 4, 7, 9, 2),
    "one_frame": (1, 1, 6, 5, 2),
    "one_row": (1, 3, 1, 8, 2),
    "one_column": (1, 3, 8, 1, 2),
    "prime": (1, 7, 13, 11, 1),
}

BENCHMARKS = {
    "clip": (2, 64, 32, 32, 32),
    "all_frames": (2, 32, 32, 32, 32),
    "last_frame": (1, 256, 32, 32, 32),
    "gpu": (1, 1024, 32, 32, 32),  # timed where there is one
}
