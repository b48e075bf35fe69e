"""Goldsmith: builds confidential-VM images and computes what the hardware will measure."""
