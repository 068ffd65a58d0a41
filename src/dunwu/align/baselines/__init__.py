"""What a reward gives without reinforcement learning, on the same scorers: what any other method has to beat.

`best_of_n.py`   several answers to a prompt, and the best of them
`rejection.py`   fine-tuning on the best of them
`distillation.py`  a teacher's word on each token of the student's own answers
"""
