"""Benchmarks: `python ci/bench` measures what a training run repeats, side by side with what it replaces."""
