"""What every room stands on: errors, typed options, registries, identities, seeds, files, progress. Knows no part."""
