"""One cell from its plan to its record: plan, parts, training, measuring, recording, and restoring it later."""
