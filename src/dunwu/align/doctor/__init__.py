"""Is a run of reinforcement learning well? Rules over the figures of its steps, in plain words, with what to try.

`finding.py`     what is found, and how grave it is
`history.py`     the figures of the steps so far
`trend.py`       tests: does a figure rise, are two stretches apart
`ranges.py`      the least and the most that a reward can be
`keys.py`        the keys of a recipe that a finding names
`rules/`         one file a rule: (history, config) → finding or nothing
`registry.py`    the rules in the order in which they are told
`doctor.py`      rows in, new findings out
"""
