"""Word problems of one to three steps, English and Chinese, with their solutions, at any number from a seed.

`wording.py`   how people, things, what happens to them and the questions are worded
`problems.py`  a chain of operations, put into words, and what is kept for measuring
"""

from dunwu.corpus.sums.problems import Problem, problems, sums_examples

__all__ = ["Problem", "problems", "sums_examples"]
