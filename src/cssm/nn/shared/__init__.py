"""What mixers share: kernels and their bounds, convolutions, gates, the walk over frames."""
