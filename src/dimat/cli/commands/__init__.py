"""Commands, one a file: a summary, a parser, and a function that executes."""
