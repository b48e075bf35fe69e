"""Where the files of an image come from."""
