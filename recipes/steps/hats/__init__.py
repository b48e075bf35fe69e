"""The steps of what HATs launches: files, bundles, golden values, policies."""
