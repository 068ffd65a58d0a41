"""The keys of a recipe that findings name."""

RATE = "rl.lr_adamw"
KL = "rl.algorithm.kl_coefficient"
REWARDS = "rl.rewards"
SOURCES = "rl.sources"
ANSWERS = "rl.group_size"
TEMPERATURE = "rl.temperature"
LENGTH = "rl.max_answer_tokens"
