"""How answers that were judged become advantages of their tokens: one file a method. Neither the loss nor the loop knows which.

`annotated.py`   what a method is given, and what it says of each token
`registry.py`    the methods by name
"""
