"""Time and memory beside the other ways of doing the same, each in a process of its own: `python -m benchmarks`."""
