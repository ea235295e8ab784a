"""What `cssm bench` times in PyTorch, and how it is timed."""
