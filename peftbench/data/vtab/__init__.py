"""The 19 tasks of VTAB-1k from processed folders, from the hub, or made from the original archives."""
