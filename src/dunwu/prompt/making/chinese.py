"""The Chinese words: the English ones' sense, not their syntax."""

from dunwu.prompt.making.english import ENGLISH
from dunwu.prompt.making.wording import Wording

_HARDER = (
    "请改写下面的指令，让它对一个能干的助手来说稍难一些，但仍然合理，人能看懂，也能回答。指令中的表格、代码等内容要保留。改写方法：{how}"
    "增加的内容不超过30个字。用$language写，只输出新的指令。\n\n$instruction"
)

CHINESE = Wording(
    pairs=(
        "请根据下面的内容，用$language写出$count个问题和答案。读者看不到这段内容，所以要写清楚所指的事物，不要出现“文中”“本文”“这段话”之类的说法。"
        "每个答案只依据这段内容，正确而完整。\n$form\n\n$passage"
    ),
    pairs_form="格式：\n问：问题\n答：答案",
    pairs_json='用JSON回答：{"pairs": [{"question": "…", "answer": "…"}]}',
    supported="$passage\n\n问题：$question\n答案：$answer\n\n仅凭上面的内容，能说明这个答案是对的吗？$form",
    tasks=(
        "下面是别人交给助手的一些任务。请再想出$count个任务，类型和内容都要不同；只靠文字就能完成，不需要别的东西。用$language写。$form\n\n$tasks"
    ),
    tasks_form="接着编号$number往下写。",
    tasks_json='用JSON回答：{"tasks": ["…", "…"]}',
    task="$number. $task",
    is_classification="下面的任务是不是分类任务，也就是答案只能是事先确定的几个标签之一？$form\n\n$task",
    instances=(
        "下面是一个任务。请用$language举一个例子：如果任务需要输入，就写出具体的输入，不需要就写“无”；然后写出正确的输出。\n$form\n\n任务：$task"
    ),
    labelled_instances=(
        "下面是一个分类任务。请用$language为它的每个标签举一个例子：先选定标签，再写出正确输出为这个标签的输入。\n$form\n\n任务：$task"
    ),
    instances_form="格式：\n输入：输入的内容\n输出：输出的内容",
    instances_json='用JSON回答：{"instances": [{"input": "…", "output": "…"}]}',
    another=(
        "下面是交给助手的任务的例子：做什么、用什么材料、答案要遵守什么。请用$language写出例子$number，任务要完全不同。$form\n\n$examples"
    ),
    another_form="用同样的格式：指令、输入、约束。",
    another_json='用JSON回答：{"instruction": "…", "input": "…", "constraints": "…"}',
    example="例子$number\n指令：$instruction\n输入：$input\n约束：$constraints",
    complete="$instruction\n\n$input\n\n$constraints",
    paraphrase="请用$language把下面的指令换$count种说法：任务、输入和答案都不变，用词和句式要不同。$form\n\n指令：$instruction",
    evolve={
        "constraints": _HARDER.format(how="再加一个条件或要求。"),
        "deepening": _HARDER.format(how="如果它在问某件事，就问得更深或更广，或者问原因和后果。"),
        "concretizing": _HARDER.format(how="把其中笼统的概念换成更具体的。"),
        "reasoning": _HARDER.format(how="如果几步就能想出来，就明确要求多步推理。"),
        "complicating": _HARDER.format(
            how="加入要处理的材料，例如一个小表格、一段代码、公式、日志或JSON，材料的字数不限。"
        ),
        "breadth": (
            "请参照下面的指令，写一个全新的指令：属于同一领域但更少见，长度和难度相近，合理，人能看懂，也能回答。用$language写，只输出新的指令。"
            "\n\n$instruction"
        ),
    },
    equal="下面两条指令是否相同，也就是条件和要求一样，深度和广度也一样？$form\n\n第一条：$old\n\n第二条：$new",
    yes_no_form="只回答“是”或“否”。",
    yes_no_json='用JSON回答：{"verdict": "yes"} 或 {"verdict": "no"}',
    nothing="无",
    labels=ENGLISH.labels,
)
