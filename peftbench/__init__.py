"""peftbench: a reproducible benchmark of parameter-efficient fine-tuning in vision."""
