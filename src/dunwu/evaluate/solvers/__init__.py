"""Ways to ask a model a task's problems: by likelihood, by continuing text, by conversation."""
