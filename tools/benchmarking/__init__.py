"""What the benchmarks of both services share: results, the event, a load generator, the machine."""
