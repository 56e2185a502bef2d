"""The commands, one a file: a summary, a parser, and ``execute``."""
