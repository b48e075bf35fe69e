"""Stand-ins for the command line programs of clouds, for tests of the scripts that call them.

They keep what was made in a file, take only commands, options and values of a table in which each command
names the page that documents it, and refuse everything else as the real program does.
"""
