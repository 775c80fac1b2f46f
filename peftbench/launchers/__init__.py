"""Where the workers of a sweep run: in this process, in several here, on a SLURM cluster, on a Ray cluster."""
