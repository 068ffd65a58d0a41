"""Tasks: what is asked and what is right, by a short YAML or a Python function, and the definitions that come with dunwu."""
