"""Scorers: how an answer is judged, one file each. A grade in `evaluate/` and a reward in `align/` are the same thing."""
