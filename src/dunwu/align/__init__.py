"""Learning from judgements. Algorithms annotate batches, and the loop in `train/` stays blind to them.

`answers.py`     answers to one prompt as ids, rows of them, and what a model says to each answer
`encode.py`      preferences → answers, through the one chat template
`stream.py`      rows of answers, addressed by number: row i is a pure function of (seed, i)
`reference.py`   the log-probabilities of a model as it was, computed once and kept
`objectives/`    one file a method
`registry.py`    the methods by name, as objectives for the loop
`measure.py`     which answers a model prefers, before and after

Learning from rewards of its own answers:

`rollout.py`         answers of the live model, by the engine that also serves
`experience.py`      what a rollout gave, on disk before it is learned from
`reading.py`         what a model says to each token of answers
`value.py`           a value model
`advantages/`        judged answers → advantages of their tokens: one file a method
`rollout_stream.py`  rollouts → rows for the loop
`policy_run.py`      asks, lets judge, reads, and looks at how it goes, alongside the loop
`policy_learned.py`  what of all this is kept and left
`rewards.py`         specifications → the reward of a run

What it is worth:

`doctor/`        is a run well? rules over the figures of its steps
`card/`          what it gave and what it cost, stage by stage
"""
