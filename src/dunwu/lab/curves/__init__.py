"""Loss curves that explain: what a run learned when, measured on the weights that it kept on the way."""
