"""What is kept of finished cells: the record, the store it lies in, packs, the index, claims. Needs no torch."""
