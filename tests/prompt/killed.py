"""Makes rows with a scripted partner and ends itself with SIGKILL after so many answers: `killed.py METHOD FOLDER OUT ANSWERS`."""

import os
import signal
import sys
from pathlib import Path

from dunwu.chat.scripted import ScriptedChat
from dunwu.prompt.making.run import Wanted, make_data
from tests.prompt.test_resume import maker_of

if __name__ == "__main__":
    method, folder, out, answers = sys.argv[1:]
    maker, how, chat = maker_of(method, Path(folder))
    say = chat.script

    def dying(messages):
        if len(dying_chat.asked) == int(answers):
            os.kill(os.getpid(), signal.SIGKILL)
        return say(messages)

    dying_chat = ScriptedChat(dying, name=chat.name)
    make_data(maker, how, dying_chat, Wanted(out=Path(out), rows=40, model=chat.name))
