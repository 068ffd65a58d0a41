"""Instruction data made with a model: from a user's documents, from a few tasks, or from instructions that are to become harder.

`documents` makes questions and answers of passages, `self_instruct` (arXiv:2212.10560), `unnatural` (arXiv:2212.09689) and
`evolve` (WizardLM, arXiv:2304.12244) make tasks of tasks. Each is a pure function of its settings, its inputs and the answers it
gets: `asking` takes these from the journal where they were given before, so a run that was killed ends as if it had not been.
`rules` and `sieve` decide what is kept, `wording` holds what the model is asked, `run` ties them together.
"""
