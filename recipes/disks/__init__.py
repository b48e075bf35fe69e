"""Cloud disk formats, one file each: a pure function of the raw bytes and of a seed for the identifiers."""
