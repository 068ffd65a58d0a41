"""Kernels in C for decoding on a CPU, compiled where they run: `step.c` is one pass of the layers over a few tokens."""
