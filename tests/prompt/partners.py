"""Scripted partners for methods that make tasks of tasks. What they say is drawn by the words that they are asked, so that it is the
same in every run."""

import json
import random
from collections.abc import Sequence

from dunwu.chat.scripted import Line, ScriptedChat
from dunwu.core.records import Message

SEEDS = [
    {"instruction": "Name three rivers of Europe.", "input": "", "output": "Danube, Rhine, Rhône."},
    {
        "instruction": "Turn the sentence into the passive voice.",
        "input": "Ann eats a plum.",
        "output": "A plum is eaten by Ann.",
    },
    {"instruction": "Is this review good or bad?", "input": "I slept through it.", "output": "bad"},
    {
        "instruction": "Explain photosynthesis to a child of six.",
        "input": "",
        "output": "Plants cook sugar with light.",
    },
    {
        "instruction": "Shorten the text to one line.",
        "input": "It rained. It rained again.",
        "constraints": "No more than five words.",
        "output": "It rained twice.",
    },
    {"instruction": "Suggest a title for a novel on bees.", "input": "", "output": "The Hive Remembers"},
]
_VERBS = [
    "Compare",
    "Summarise",
    "Rank",
    "Describe",
    "Criticise",
    "Translate",
    "Sort",
    "Invent",
    "Decide about",
    "List",
    "Plan",
    "Edit",
]
_THINGS = [
    "winter recipes",
    "railway timetables",
    "proverbs",
    "wedding speeches",
    "chess openings",
    "garden tools",
    "old laws",
    "poems",
]
_ENDS = [
    "for a nurse",
    "in plain words",
    "by their age",
    "with one example each",
    "as a dialogue",
    "for tired parents",
    "in a table",
]


def invented(chance: random.Random) -> str:
    return f"{chance.choice(_VERBS)} {chance.randint(2, 99)} {chance.choice(_THINGS)} {chance.choice(_ENDS)}."


TASKS = [{"instruction": invented(random.Random(number)), "output": "x"} for number in range(30)]
"""Enough of them, and unlike each other, to evolve."""


def self_instructing(messages: Sequence[Message]) -> Line:
    text = messages[-1].content
    chance = random.Random(text)
    if text.startswith("Here are tasks"):
        tasks = [invented(chance) for _ in range(6)]
        tasks[chance.randrange(6)] = chance.choice(
            ["Draw a picture of the old mill.", "Write a program that adds.", "Sing!", tasks[0]]
        )
        if '"tasks"' in text:
            return json.dumps({"tasks": tasks})
        start = 1 + text.count("\n", text.index("1. "))
        return "\n".join(f"{number}. {task}" for number, task in enumerate(tasks, start))
    if text.startswith("Is the following a classification"):
        return "Yes." if "Decide" in text else "No, it is not."
    if text.startswith("Here is a classification task"):
        return "Input: the first one\nOutput: keep\n\nInput: the second one\nOutput: drop\n\nInput: the first one\nOutput: drop"
    given = (
        "none" if chance.random() < 0.5 else f"a note of {chance.randint(100, 999)} words on {chance.choice(_THINGS)}"
    )
    done = " ".join(chance.choice(_THINGS) for _ in range(3)) + f" {chance.randint(1000, 9999)}"
    return f"Input: {given}\nOutput: {done}"


def unnatural(messages: Sequence[Message]) -> Line:
    text = messages[-1].content
    chance = random.Random(text)
    if text.startswith("Here are examples of tasks"):
        if chance.random() < 0.3:
            return "I would rather not."
        record = {
            "instruction": invented(chance),
            "input": f"Note {chance.randint(1000, 9999)}.",
            "constraints": "In one line.",
        }
        if '"constraints"' in text:
            return json.dumps(record)
        return "\n".join(f"{key.capitalize()}: {value}" for key, value in record.items())
    if text.startswith("Say the following"):
        task = text.rpartition("Instruction: ")[2]
        return f"1. Please {task.lower()}\n2. It would help me if you did this: {task.lower()}\n3. Third of three."
    return f"Done: {chance.randint(10**6, 10**7)} {chance.choice(_THINGS)}."


def evolving(messages: Sequence[Message]) -> Line:
    text = messages[-1].content
    chance = random.Random(text)
    instruction = text.rpartition("\n\n")[2]
    if text.startswith("Rewrite the instruction"):
        extra = chance.choice(
            ["Name your sources.", "Give two reasons.", "Think step by step.", "Use a table.", "Mention the year 1848."]
        )
        return chance.choice(
            [f"{instruction} {extra}", f"{instruction} {extra}", instruction, f"#Rewritten Prompt#: {instruction}"]
        )
    if text.startswith("Take the instruction"):
        return invented(chance)
    if text.startswith("Are these two"):
        return "Yes." if "Mention the year" in text.rpartition("The second:")[2] else "No."
    return chance.choice([f"Answer {chance.randint(10**6, 10**7)} of some length.", "Sorry, I can't do that."])


PARTNERS = {"self-instruct": self_instructing, "unnatural": unnatural, "evolve": evolving}


def partner(method: str) -> ScriptedChat:
    return ScriptedChat(PARTNERS[method], name="partner")
