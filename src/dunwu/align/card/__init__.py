"""The alignment card: what learning from judgements gave, and what it cost, stage by stage, each figure with its interval.

`record.py`     the card, in memory and on disk
`asking.py`     what a model answers: once to every prompt, several times to some
`winning.py`    which of two models answers better
`making.py`     answers → figures, each beside that of the model before
`markdown.py`   the card for a terminal, a model hub or a printer
"""
