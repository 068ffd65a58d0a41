"""What strategies say to a model, in English and in Chinese."""

import re
from dataclasses import dataclass
from typing import Literal

Language = Literal["auto", "en", "zh"]
_CHINESE = re.compile(r"[\u3400-\u9fff]")


@dataclass(frozen=True, slots=True, kw_only=True)
class Words:
    """One language's. Gaps are `{…}`, and are filled by `str.replace`, so that braces in a text stay what they are."""

    step_by_step: str
    conclude: str  # after a chain of thought: only the answer
    think_tags: str
    think_only: str
    now_answer: str
    decompose: str  # {most}, {question}
    subquestion: str  # {question}
    criticise: str
    nothing_to_mend: str
    refine: str
    next_step: str  # {question}, {steps}
    no_steps: str
    value: str  # {question}, {steps}
    choose: str  # {question}, {candidates}
    candidate: str  # {number}, {steps}
    finish: str  # {steps}
    propose: str  # {examples}, {tip}


ENGLISH = Words(
    step_by_step="Let's think step by step.",
    conclude="Therefore, what is the final answer? Give only the answer.",
    think_tags="First think about it between <think> and </think>, then give the answer alone.",
    think_only="First only think about this question: what matters, and what follows. Do not answer it yet.",
    now_answer="Now give the answer alone.",
    decompose=(
        "To answer the question below, which simpler questions have to be answered first? Write at most {most}, the simplest "
        "first, each on a line of its own after its number.\n\nQuestion: {question}"
    ),
    subquestion="{question}",
    criticise=(
        "Look at your answer critically. What is wrong or missing in it, and how can it be mended? If it is right as it "
        "stands, write only: nothing to mend"
    ),
    nothing_to_mend="nothing to mend",
    refine="Now write the better answer, and nothing else.",
    next_step="Question: {question}\n\nSteps so far:\n{steps}\n\nWrite the next step towards the answer, and nothing else.",
    no_steps="(none)",
    value=(
        "Question: {question}\n\nSteps so far:\n{steps}\n\nHow likely do these steps lead to the right answer? Write only a "
        "number from 0 (impossible) to 10 (certain)."
    ),
    choose=(
        "Question: {question}\n\n{candidates}\n\nWhich candidate is the most promising one? Write only its number."
    ),
    candidate="Candidate {number}:\n{steps}",
    finish="Steps towards the answer:\n{steps}\n\nNow give the final answer.",
    propose=(
        "Here are some questions of a task, with the answers that are wanted.\n\n{examples}\n\nWrite an instruction that would "
        "help somebody who sees only a question to give such an answer. {tip} Write only the instruction."
    ),
)
CHINESE = Words(
    step_by_step="让我们一步一步地思考。",
    conclude="因此，最终答案是什么？只写答案。",
    think_tags="先在 <think> 和 </think> 之间思考，然后只写出答案。",
    think_only="先只思考这个问题：关键是什么，由此能得出什么。先不要回答。",
    now_answer="现在只写出答案。",
    decompose="要回答下面的问题，需要先回答哪些更简单的问题？最多写{most}个，最简单的在前，每个占一行，前面写上序号。\n\n问题：{question}",
    subquestion="{question}",
    criticise="请批判地检查你的回答：有什么错误或遗漏，如何改进？如果已经正确，只写：无需修改",
    nothing_to_mend="无需修改",
    refine="现在写出改进后的回答，不要写别的。",
    next_step="问题：{question}\n\n已有的步骤：\n{steps}\n\n写出通向答案的下一步，不要写别的。",
    no_steps="（无）",
    value="问题：{question}\n\n已有的步骤：\n{steps}\n\n这些步骤有多大可能得出正确答案？只写一个从0（不可能）到10（一定）的数字。",
    choose="问题：{question}\n\n{candidates}\n\n哪一个候选最有希望？只写它的序号。",
    candidate="候选{number}：\n{steps}",
    finish="通向答案的步骤：\n{steps}\n\n现在写出最终答案。",
    propose="下面是一个任务的一些问题和所要的答案。\n\n{examples}\n\n写一条指令，使只看到问题的人能给出这样的答案。{tip}只写指令。",
)


def words_for(text: str, language: Language = "auto") -> Words:
    """Chinese for a text that has Chinese characters in it, where nothing else is said."""
    if language == "auto":
        return CHINESE if _CHINESE.search(text) else ENGLISH
    return CHINESE if language == "zh" else ENGLISH


def filled(words: str, **gaps: object) -> str:
    """Words with their gaps filled, in one pass: what stands in a text is not looked at."""
    return re.sub(r"\{(\w+)\}", lambda gap: str(gaps[gap[1]]) if gap[1] in gaps else gap[0], words)
