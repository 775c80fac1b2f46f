"""The eleven few-shot sets of CoOp's line of work, and ImageNet's variants for domain generalisation."""
