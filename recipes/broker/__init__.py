"""A key broker: gives a volume's key to a guest that proves it booted what a golden manifest predicts.

``protocol`` says what goes over the wire, precisely enough for another server or another client; ``core``
decides; ``server`` is the only module that knows HTTP. It is a reference to test against, and a broker for a
small deployment.
"""
