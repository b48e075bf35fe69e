"""The client of the attestation service: what a machine says about itself, judged from outside."""
