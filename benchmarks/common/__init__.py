"""What several programs share: figures with their limits, the naive model, made-up corpora, faults."""
