"""The steps of images made of a base image: the base, its edited root, the encrypted root, the disk."""
