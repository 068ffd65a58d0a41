"""Emergence: abilities that seem to appear past a scale, measured, and told from artefacts of how answers are scored."""
