"""Networks: a decoder, its key/value cache, Hugging Face weights in and out, and what it costs, counted from structure."""
