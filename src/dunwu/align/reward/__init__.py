"""Reward models: a decoder of ours with a scalar head, which says how good an answer is, or each step of one.

`model.py`      the network, and how several heads make one score
`items.py`      judged answers as ids, read at their last token or at the end of each step, and the stream of them
`losses.py`     Bradley–Terry with margins, Rao–Kupper for ties, centring, steps
`objective.py`  these as an objective for the loop
`measure.py`    accuracy, calibration, length bias and spread, with intervals
`disk.py`       a reward model to and from a Hugging Face directory
`scorer.py`     a reward model as a scorer of answers
`learned.py`    what of a reward model learns, for the loop
"""
