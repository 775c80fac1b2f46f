"""Pretrained timm models with named places (sites) where methods may act, and the weights they load."""
