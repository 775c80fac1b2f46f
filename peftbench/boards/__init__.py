"""Leaderboards made from records: tables, statistics, published rows, and their renderers. Needs no torch."""
