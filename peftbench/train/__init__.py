"""Training: options, seeds, batches, optimiser and schedule, the loop, evaluation and cost measurement."""
