"""Cloud disk formats, one file each."""
