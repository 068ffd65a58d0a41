"""What a training will give, before it is paid for: a ladder of small ones, a law through them, and forecasts that are scored."""
