"""How each artefact is made: one module per artefact, each yields its doit tasks for every image."""
