"""The English words. After the sources' appendices, in our own words, for models that are spoken to in chats."""

from dunwu.prompt.making.wording import Wording

_HARDER = (
    "Rewrite the instruction below so that it is somewhat harder for a capable assistant, and still reasonable, and understood and "
    "answered by people. Keep all tables, code and other material that it holds. Do it like this: {how} Add no more than 20 words to it. "
    "Write in $language. Answer with the new instruction alone.\n\n$instruction"
)

ENGLISH = Wording(
    pairs=(
        "Write $count questions that the passage below answers, each with its answer, in $language. Whoever reads them does not see the "
        'passage: name the things that you mean, and never say "the passage" or "the text". Each answer is correct and complete by the '
        "passage alone.\n$form\n\n$passage"
    ),
    pairs_form="Write them like this:\nQ: the question\nA: the answer",
    pairs_json='Answer in JSON: {"pairs": [{"question": "…", "answer": "…"}]}',
    supported=(
        "$passage\n\nQuestion: $question\nAnswer: $answer\n\nDoes the passage above, by itself, say that this answer to the question is "
        "right? $form"
    ),
    tasks=(
        "Here are tasks that somebody gave to an assistant. Think of $count more, of other kinds and about other things, each of which "
        "can be done in writing and without anything else at hand. Write in $language. $form\n\n$tasks"
    ),
    tasks_form="Go on with the numbered list from $number.",
    tasks_json='Answer in JSON: {"tasks": ["…", "…"]}',
    task="$number. $task",
    is_classification=(
        "Is the following a classification task: is its answer one of a few labels that are known before? $form\n\n$task"
    ),
    instances=(
        "Here is a task. Make an example of it, in $language: if the task needs an input to work on, write a concrete one, otherwise "
        'write "none" for it; then write the correct output.\n$form\n\nTask: $task'
    ),
    labelled_instances=(
        "Here is a classification task. Make an example for each of its labels, in $language: choose the label, and then write an input "
        "whose correct output is that label.\n$form\n\nTask: $task"
    ),
    instances_form="Write like this:\nInput: the input\nOutput: the output",
    instances_json='Answer in JSON: {"instances": [{"input": "…", "output": "…"}]}',
    another=(
        "Here are examples of tasks for an assistant: what to do, with what, and what the answer must keep to. Write example $number, "
        "another task altogether, in $language. $form\n\n$examples"
    ),
    another_form="Use the same form: Instruction, Input, Constraints.",
    another_json='Answer in JSON: {"instruction": "…", "input": "…", "constraints": "…"}',
    example="Example $number\nInstruction: $instruction\nInput: $input\nConstraints: $constraints",
    complete="$instruction\n\n$input\n\n$constraints",
    paraphrase=(
        "Say the following instruction in $count other ways, in $language: the same task with the same input and the same answer, in words "
        "and structure that differ. $form\n\nInstruction: $instruction"
    ),
    evolve={
        "constraints": _HARDER.format(how="add one more constraint or requirement."),
        "deepening": _HARDER.format(
            how="if it asks about something, ask for more depth or breadth, or for causes and consequences."
        ),
        "concretizing": _HARDER.format(how="replace general notions in it by more specific ones."),
        "reasoning": _HARDER.format(
            how="if it can be done in few steps of thinking, make it ask for several steps explicitly."
        ),
        "complicating": _HARDER.format(
            how="add input to work on, such as a small table, code, a formula, a log or JSON, which may take more words than that."
        ),
        "breadth": (
            "Take the instruction below as a model for one that is entirely new: of the same field but rarer, about as long and as hard, "
            "reasonable, and understood and answered by people. Write in $language. Answer with the new instruction alone.\n\n$instruction"
        ),
    },
    equal=(
        "Are these two instructions equal: do they have the same constraints and requirements, and ask for the same depth and breadth? "
        "$form\n\nThe first: $old\n\nThe second: $new"
    ),
    yes_no_form="Answer yes or no.",
    yes_no_json='Answer in JSON: {"verdict": "yes"} or {"verdict": "no"}',
    nothing="none",
    labels={
        "question": ("question", "q", "问题", "问", "提问"),
        "answer": ("answer", "a", "答案", "答", "回答"),
        "instruction": ("instruction", "task", "指令", "任务"),
        "input": ("input", "输入"),
        "constraints": ("constraints", "constraint", "约束", "限制", "要求"),
        "output": ("output", "class label", "label", "输出", "答案", "标签"),
    },
)
