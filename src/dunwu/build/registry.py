"""The life of a model, in order. A new stage is one file in `build/stages` and one line here."""

from dunwu.build.graph import Stage
from dunwu.build.stages.base import BASE
from dunwu.build.stages.corpus import CORPUS
from dunwu.build.stages.evaluate import EVALUATE
from dunwu.build.stages.prefer import PREFER
from dunwu.build.stages.pretrain import PRETRAIN
from dunwu.build.stages.replay import REPLAY
from dunwu.build.stages.report import REPORT
from dunwu.build.stages.reward import REWARD
from dunwu.build.stages.rl import RL
from dunwu.build.stages.sft import SFT, TUNE
from dunwu.build.stages.tokenizer import TOKENIZER

STAGES: tuple[Stage, ...] = (BASE, CORPUS, REPLAY, TOKENIZER, PRETRAIN, SFT, TUNE, PREFER, REWARD, RL, EVALUATE, REPORT)
