"""The command line. Nothing here imports torch: what a command needs is loaded when it runs, so that help is instant."""

import os
import sys
from collections.abc import Sequence
from typing import NoReturn

from cyclopts import App, CycloptsError

from dunwu import __version__
from dunwu.cli.commands.building import align, build, doctor, explain, plan, show_batch, status, tune
from dunwu.cli.commands.chains import chainer
from dunwu.cli.commands.deltas import deltas
from dunwu.cli.commands.evaluating import compare, evaluate
from dunwu.cli.commands.judging import best, score
from dunwu.cli.commands.keys import keyring
from dunwu.cli.commands.lab import lab
from dunwu.cli.commands.making import maker
from dunwu.cli.commands.models import export, import_, inspect, quantise
from dunwu.cli.commands.predicting import predict
from dunwu.cli.commands.prompting import prompter
from dunwu.cli.commands.rewards import rewards
from dunwu.cli.commands.serving import serve
from dunwu.cli.commands.talking import chat, generate
from dunwu.cli.failures import Crash, crash_log
from dunwu.core.errors import DunwuError
from dunwu.core.screen import harmless
from dunwu.train.signals import Interrupted

app = App(
    name="dunwu",
    version=__version__,
    help="Grow your own language model from a folder of documents, on the machine that you have.",
    help_format="plaintext",
)
for command in (build, plan, tune, align, status, doctor, explain, show_batch, chat, generate, score, best, serve):
    app.command(command)
app.command(evaluate, name="eval")
app.command(compare)
app.command(predict)
app.command(import_, name="import")
for command in (export, quantise, inspect, deltas, keyring, lab, maker, prompter, chainer, rewards):
    app.command(command)


def main() -> NoReturn:
    """Run a command. Exit codes: 0 done, 1 a fault of dunwu's own, 2 something to mend, 130 and 143 stopped."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: Sequence[str]) -> int:
    """Run a command; returns the exit code."""
    try:
        with crash_log():
            app(list(arguments), exit_on_error=False, print_error=False, result_action="return_value")
    except (DunwuError, CycloptsError) as error:
        return _end(str(error), 2)
    except Crash as error:
        return _end(str(error), 1)
    except Interrupted as stopped:
        return _end(str(stopped), stopped.exit_code)
    except KeyboardInterrupt:
        return _end("stopped by Ctrl-C", 130)
    except BrokenPipeError:  # whoever read our output has left
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


def _end(message: str, code: int) -> int:
    print(f"dunwu: {harmless(message)}", file=sys.stderr)  # it may quote a document, or the name of one
    return code
