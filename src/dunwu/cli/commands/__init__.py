"""The commands as a user types them: arguments and their help. What does the work is in `dunwu.cli`, and loaded when it runs."""
