"""Scaling laws: what a larger model, or more text, would give, from runs that are small."""
