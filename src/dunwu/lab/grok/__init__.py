"""Grokking: a network that memorises a table, and long after suddenly understands it (arXiv:2201.02177)."""
