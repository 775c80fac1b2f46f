"""What a cell minimises; one file for each objective that combines with any method."""
