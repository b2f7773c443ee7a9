"""What makes the figures of the documentation: ``python -m benchmarks`` lists the benchmarks."""
