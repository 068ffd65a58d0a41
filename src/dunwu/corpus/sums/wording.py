"""The words of the problems. In a sentence: {n} {m} people, {t} things, {a} {b} {x} numbers, {box} what holds them.

Each list says one thing in several ways; English and Chinese have as many lists, not as many ways.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from dunwu.core.recipe import Language

Ways = tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Wording:
    """One language. `separator` stands between sentences."""

    people: Ways
    things: Ways
    boxes: Ways
    separator: str
    has: Ways
    groups: Ways
    both: Ways
    more: Ways
    fewer: Ways
    gains: Ways
    loses: Ways
    how_many: Ways
    how_many_both: Ways
    shared: Ways
    packed: Ways
    cost: Ways
    gave: Ways
    got: Ways
    answer: str


ENGLISH = Wording(
    people=(
        *("Anna", "Ben", "Carla", "David", "Emma", "Frank", "Grace", "Henry", "Irene", "Jack", "Karen", "Liam", "Maria"),
        *("Nick", "Olivia", "Paul", "Rosa", "Sam", "Tina", "Victor", "Wendy", "Zoe", "Joan", "Tom", "Mike", "Sally"),
    ),
    things=(
        *("apples", "marbles", "stickers", "books", "cookies", "pencils", "cards", "shells", "flowers", "coins", "stamps"),
        *("balloons", "eggs", "oranges", "toys", "candies", "buttons", "stones", "cupcakes", "tickets", "photos", "peaches"),
    ),
    boxes=("boxes", "bags", "baskets", "jars", "packs", "piles"),
    separator=" ",
    has=(
        "{n} has {a} {t}.",
        "{n} picked {a} {t}.",
        "{n} found {a} {t}.",
        "There were {a} {t} in {n}'s room.",
        "{n} had {a} {t} at first.",
        "{n} bought {a} {t} at the store.",
    ),
    groups=(
        "{n} has {a} {box} with {b} {t} in each.",
        "{n} bought {a} {box} of {t}. There are {b} {t} in each of them.",
        "{n} has {a} {box} of {t}, and each holds {b} {t}.",
        "{n} put {b} {t} into each of {a} {box}.",
    ),
    both=(
        "{n} has {a} {t} and {m} has {b} {t}. They put them together.",
        "{n} picked {a} {t} and {m} picked {b} {t}. They keep them together.",
        "{n} and {m} combined their {t}. {n} had {a} {t} while {m} had {b}.",
    ),
    more=("{m} has {a} {t}. {n} has {b} more {t} than {m}.", "{n} has {b} {t} more than {m}, who has {a}."),
    fewer=("{m} has {a} {t}. {n} has {b} fewer {t} than {m}.", "{n} has {b} {t} fewer than {m}, who has {a}."),
    gains=(
        "{m} gave {n} {x} more {t}.",
        "Then {n} found {x} more {t}.",
        "Later {n} bought {x} more {t}.",
        "{n} gets {x} more {t} from {m}.",
        "{n} made {x} more.",
    ),
    loses=(
        "{n} gave {x} of the {t} to {m}.",
        "Then {n} lost {x} of the {t}.",
        "{m} took {x} {t} away.",
        "{n} sold {x} {t}.",
        "{x} of the {t} were thrown away.",
    ),
    how_many=(
        "How many {t} does {n} have now?",
        "How many {t} are there now?",
        "How many {t} does {n} have in all?",
        "How many {t} are there in total?",
    ),
    how_many_both=("How many {t} do they have altogether?", "How many {t} do they have now?", "How many {t} are there in total?"),
    shared=(
        "{n} shares the {t} equally among {x} friends. How many {t} does each friend get?",
        "{n} divides the {t} evenly into {x} {box}. How many {t} are in each one?",
        "If {n} puts the {t} into {x} equal groups, how many {t} are in each group?",
    ),
    packed=(
        "{n} puts {x} {t} into each bag. How many bags can {n} fill?",
        "{x} {t} fit on one page. How many pages does {n} need for them?",
        "If {n} gives {x} {t} to each friend, how many friends get some?",
    ),
    cost=(
        "Each of the {t} costs {x} dollars. How many dollars do they cost in all?",
        "{n} sells the {t} for {x} dollars each. How many dollars does {n} get?",
    ),
    gave=(
        "{n} had {a} {t}. {n} gave some of them to {m} and has {b} {t} left. How many {t} did {n} give to {m}?",
        "{n} found {a} {t}. After giving some to {m}, {n} has {b} {t}. How many {t} did {m} get?",
        "There were {a} {t} on the table. {m} took some, and now there are {b}. How many {t} did {m} take?",
    ),
    got=(
        "{n} had {b} {t}. {m} gave {n} some more, and now {n} has {a} {t}. How many {t} did {m} give to {n}?",
        "There were {b} {t} in the box. {n} put some more in, and now there are {a}. How many {t} did {n} put in?",
        "{n} picked {b} {t} today and wants to have {a}. How many more {t} does {n} need?",
    ),
    answer="The answer is {v}.",
)  # fmt: skip

CHINESE = Wording(
    people=(
        *("小明", "小红", "小刚", "小丽", "小华", "小军", "小芳", "小强", "小美", "小杰", "王老师", "李阿姨", "张叔叔", "爷爷"),
        *("奶奶", "妈妈", "爸爸", "哥哥", "妹妹", "小林"),
    ),
    things=(
        *("个苹果", "颗弹珠", "张贴纸", "本书", "块饼干", "支铅笔", "张卡片", "个贝壳", "朵花", "枚硬币", "张邮票", "个气球"),
        *("个鸡蛋", "个橘子", "个玩具", "颗糖", "颗纽扣", "块石头", "张门票", "张照片"),
    ),
    boxes=("个盒子", "个袋子", "个篮子", "个罐子"),
    separator="",
    has=("{n}有{a}{t}。", "{n}找到了{a}{t}。", "{n}买了{a}{t}。", "{n}的房间里有{a}{t}。", "{n}原来有{a}{t}。"),
    groups=("{n}有{a}{box},每{box1}里有{b}{t}。", "{n}把{t1}装进{a}{box},每{box1}装{b}{t}。"),
    both=("{n}有{a}{t},{m}有{b}{t},他们把它们放在一起。", "{n}摘了{a}{t},{m}摘了{b}{t},合在一起。"),
    more=("{m}有{a}{t},{n}比{m}多{b}{t}。", "{n}比{m}多{b}{t},{m}有{a}{t}。"),
    fewer=("{m}有{a}{t},{n}比{m}少{b}{t}。", "{n}比{m}少{b}{t},{m}有{a}{t}。"),
    gains=("{m}又给了{n}{x}{t}。", "后来{n}又找到{x}{t}。", "{n}又买了{x}{t}。", "{n}从{m}那里得到{x}{t}。"),
    loses=("{n}给了{m}{x}{t}。", "后来{n}丢了{x}{t}。", "{m}拿走了{x}{t}。", "{n}卖掉了{x}{t}。"),
    how_many=("现在{n}有多少{t}?", "{n}一共有多少{t}?", "现在有多少{t}?"),
    how_many_both=("他们一共有多少{t}?", "一共有多少{t}?"),
    shared=("{n}把它们平均分给{x}个朋友,每个朋友得到多少{t}?", "{n}把它们平均放进{x}{box},每{box1}里有多少{t}?"),
    packed=("{n}每个袋子装{x}{t},可以装满多少个袋子?", "每个朋友分到{x}{t},可以分给多少个朋友?"),
    cost=("每{t}{x}元,一共要多少元?", "{n}把它们卖掉,每{t}卖{x}元,一共得到多少元?"),
    gave=("{n}有{a}{t},给了{m}一些,还剩{b}{t}。{n}给了{m}多少{t}?", "桌上有{a}{t},{m}拿走一些,现在有{b}{t}。{m}拿走了多少{t}?"),
    got=("{n}有{b}{t},{m}又给了一些,现在有{a}{t}。{m}给了多少{t}?", "盒子里有{b}{t},{n}又放进一些,现在有{a}{t}。{n}放进了多少{t}?"),
    answer="答案是{v}。",
)  # fmt: skip

WORDING: Mapping[Language, Wording] = {"en": ENGLISH, "zh": CHINESE}
