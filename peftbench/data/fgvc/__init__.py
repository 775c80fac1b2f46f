"""The five fine-grained sets of FGVC with the splits of VPT."""
