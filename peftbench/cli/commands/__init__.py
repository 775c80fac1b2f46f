"""One file for each `python -m peftbench COMMAND`, with `main(words) -> exit code`; loaded only when asked for."""
