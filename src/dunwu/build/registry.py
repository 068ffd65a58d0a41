"""The life of a model, in order. A new stage is one file in `build/stages` and one line here."""

from dunwu.build.graph import Stage
from dunwu.build.stages.corpus import CORPUS
from dunwu.build.stages.evaluate import EVALUATE
from dunwu.build.stages.pretrain import PRETRAIN
from dunwu.build.stages.report import REPORT
from dunwu.build.stages.sft import SFT
from dunwu.build.stages.tokenizer import TOKENIZER

STAGES: tuple[Stage, ...] = (CORPUS, TOKENIZER, PRETRAIN, SFT, EVALUATE, REPORT)
