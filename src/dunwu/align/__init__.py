"""Learning from judgements. Algorithms annotate batches, and the loop in `train/` stays blind to them.

`answers.py`     answers to one prompt as ids, rows of them, and what a model says to each answer
`encode.py`      preferences → answers, through the one chat template
`stream.py`      rows of answers, addressed by number: row i is a pure function of (seed, i)
`reference.py`   the log-probabilities of a model as it was, computed once and kept
`objectives/`    one file a method
`registry.py`    the methods by name, as objectives for the loop
`measure.py`     which answers a model prefers, before and after
"""
