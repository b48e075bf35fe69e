"""The commands of ``goldsmith``, one module each: ``add`` gives its options to the parser, ``run`` does it.

Data goes to standard output, words to standard error. Nothing that costs time is imported before a command
runs.
"""
