"""The command line: words in, lines on the terminal and an exit code out."""
