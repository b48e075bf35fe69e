"""HATs' side of Oak Containers: launcher configuration, appraisal policies, signatures and bundles.

Everything is handed in and returned; steps read and write the files.
"""
