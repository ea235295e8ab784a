"""What stands around the mixers: stems, norms, positions, readouts."""
