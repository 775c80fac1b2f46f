"""Grids of cells: planning them, claiming one cell for one worker, running, and telling how far a grid is."""
