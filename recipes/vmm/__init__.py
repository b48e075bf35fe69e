"""Virtual machine monitors: command lines parsed and rendered, and what only a running one can tell."""
