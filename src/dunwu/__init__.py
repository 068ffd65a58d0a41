"""dunwu (顿悟): grow, adapt, evaluate and talk to your own language model. The rooms are drawn in CONTRIBUTING.md."""

__version__ = "0.1.0"
