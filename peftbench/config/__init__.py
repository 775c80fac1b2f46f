"""From words to one typed configuration: the options of each section, presets, and the gate that checks them."""
