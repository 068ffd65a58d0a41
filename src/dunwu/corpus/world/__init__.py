"""The small world: a generator of texts, instructions and an exam with known truth, in English and Chinese.

`truth` holds the facts, `grammar`/`english`/`chinese` their wording, `facts`, `reasoning` and `form` the six kinds of question,
`split` what is kept for the exam, `exam` the exam and the training questions, `pages` the texts.
"""

from dunwu.corpus.world.exam import world_exam, world_examples
from dunwu.corpus.world.pages import world_documents
from dunwu.corpus.world.questions import Grade, Question, QuestionKind
from dunwu.corpus.world.truth import build_world

__all__ = ["Grade", "Question", "QuestionKind", "build_world", "world_documents", "world_exam", "world_examples"]
