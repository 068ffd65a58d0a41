"""The Chinese of the small world."""

from dunwu.corpus.world.grammar import Grammar
from dunwu.corpus.world.lexicon import MEASURES, Word
from dunwu.corpus.world.truth import Entity


def _noun(entity: Entity) -> str:
    return entity.word.zh


def _counted(count: int, part: Word) -> str:
    return f"没有{part.zh}" if count == 0 else f"有{count}{MEASURES[part]}{part.zh}"


def _kind(kind: Word) -> str:
    return kind.zh


def _joined(words: list[str]) -> str:
    return "和".join(["、".join(words[:-1]), words[-1]]) if len(words) > 1 else words[0]


def _heading(name: str) -> str:
    return f"【{name}】"


CHINESE = Grammar(
    language="zh",
    noun=_noun,
    counted=_counted,
    kind=_kind,
    joined=_joined,
    heading=_heading,
    separator="",
    attributes={
        "home": "城市",
        "job": "工作",
        "hobby": "爱好",
        "food": "食物",
        "country": "国家",
        "owner": "主人",
        "colour": "颜色",
        "material": "材料",
        "price": "价格",
        "weight": "重量",
        "size": "大小",
        "holds": "容量",
        "keeper": "照顾者",
    },
    caption="{e}的{A}：{v}。",
    item="{e}的{a}",
    statements={
        "home": ("{e}住在{v}。", "{e}的家在{v}。", "{v}是{e}的家。"),
        "job": ("{e}的工作是{v}。", "{e}是一名{v}。", "{e}靠当{v}谋生。"),
        "hobby": ("{e}的爱好是{v}。", "{e}喜欢{v}。", "{v}是{e}的爱好。"),
        "food": ("{e}爱吃{v}。", "{e}最爱的食物是{v}。", "{v}是{e}爱吃的东西。"),
        "country": ("{e}位于{v}。", "{e}是{v}的城市。", "{e}在{v}。"),
        "owner": ("{e}属于{v}。", "{v}拥有{e}。", "{e}的主人是{v}。"),
        "colour": ("{e}的颜色是{v}。", "{e}是{v}的。", "{v}是{e}的颜色。"),
        "material": ("{e}是用{v}做的。", "{e}的材料是{v}。", "{v}是{e}的材料。"),
        "price": ("{e}的价格是{v}元。", "{e}卖{v}元。", "买{e}要{v}元。"),
        "weight": ("{e}重{v}克。", "{e}的重量是{v}克。"),
        "size": ("{e}长{v}厘米。", "{e}的大小是{v}厘米。"),
        "holds": ("{e}最多能装{v}厘米。", "{e}的容量是{v}厘米。"),
        "keeper": ("{e}由{v}照顾。", "{v}照顾{e}。", "照顾{e}的人是{v}。"),
        "class": ("{e}是{k}。", "大家知道，{e}是{k}。"),
    },
    questions={
        "home": ("{e}住在哪里？", "{e}住在哪个城市？"),
        "job": ("{e}的工作是什么？", "{e}做什么工作？"),
        "hobby": ("{e}的爱好是什么？", "{e}有什么爱好？"),
        "food": ("{e}爱吃什么？", "{e}最爱的食物是什么？"),
        "country": ("{e}在哪个国家？", "{e}位于哪个国家？"),
        "owner": ("{e}属于谁？", "{e}的主人是谁？"),
        "colour": ("{e}是什么颜色？", "{e}的颜色是什么？"),
        "material": ("{e}是用什么做的？", "{e}的材料是什么？"),
        "price": ("{e}多少钱？", "{e}的价格是多少？"),
        "weight": ("{e}有多重？", "{e}的重量是多少？"),
        "size": ("{e}有多长？", "{e}的大小是多少？"),
        "holds": ("{e}的容量是多少？",),
        "keeper": ("谁照顾{e}？", "{e}由谁照顾？"),
    },
    owner_questions={
        "home": ("{e}的主人住在哪里？", "{e}的主人住在哪个城市？"),
        "job": ("{e}的主人的工作是什么？", "{e}的主人做什么工作？"),
        "hobby": ("{e}的主人的爱好是什么？", "{e}的主人有什么爱好？"),
    },
    class_parts=("说到{p}，{k}的数目是{c}。", "{k}{n}。"),
    none="零",
    entity_parts=("{e}{n}。", "数一数：{e}{n}。"),
    part_questions=("{e}有几{m}{p}？", "请问{e}有几{m}{p}？"),
    part_answer="所以{n}。",
    no_part_answer="所以问题不对：{n}。",
    no_part="没有{p}",
    fits_questions=("{o}放得进{c}吗？", "我能把{o}放进{c}吗？"),
    fits_yes="可以，{o}放得进{c}。",
    fits_no="不行，{o}放不进{c}。",
    fits_words=("放得进", "放不进"),
    less=("{x}小于{y}。",),
    more=("{x}大于{y}。",),
    left_questions=("{p}有{a}个{t}，送走{b}个，还剩几个{t}？", "这里有{a}个{t}，{p}拿走{b}个。还剩几个？"),
    left_step="{i}/{b}：{r}",
    left_working="{a}。{steps}。",
    left_separator="，",
    left_answer="所以还剩{r}个{t}。",
    counting="倒着数：{numbers}。",
    addition=("{x}加{y}等于{z}。", "{x} + {y} = {z}。"),
    forms={
        "brackets": ("{q}用括号写答案。", "{q}请把答案放在括号里。"),
        "one word": ("{q}只用一个词回答。", "{q}请回答一个词。"),
        "json": ("{q}用JSON回答。", "{q}请用JSON格式。"),
        "repeat": ("{q}请说{n}遍。", "{q}把答案重复{n}遍。"),
        "ending": ("{q}最后说{w}。", "{q}用{w}结尾。"),
        "list": ("列出{e}的{items}，用编号列表。", "用编号列表写出{e}的{items}。"),
    },
    story=(
        "从前，{e}会变大变小。它从{v}厘米长到{x}厘米，后来又缩到{y}厘米。这只是故事：在这个世界里，{e}长{v}厘米。",
        "{p}讲了一个故事：{e}缩到{y}厘米，第二天又长到{x}厘米。{p}笑了，因为在这个世界里，{e}长{v}厘米。",
    ),
    value_page={
        "home": "住在{v}的有{list}。",
        "job": "{v}有{list}。",
        "hobby": "爱好是{v}的有{list}。",
        "food": "爱吃{v}的有{list}。",
        "owner": "{v}拥有{list}。",
        "colour": "{v}的东西有{list}。",
        "material": "用{v}做的有{list}。",
        "keeper": "{v}照顾{list}。",
        "country": "{v}的城市有{list}。",
    },
    small_talk=(
        ("你好！", "你好！请问我小世界的事。"),
        ("你是谁？", "我是小世界的小模型。"),
        ("谢谢。", "不客气。"),
        ("再见！", "再见！"),
    ),
)
