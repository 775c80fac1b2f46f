"""The commands and the methods for Python: `import peftbench`, in a notebook or in one's own training loop."""
