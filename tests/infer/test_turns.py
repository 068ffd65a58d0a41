import threading
import time

import pytest
import torch

from dunwu.infer.turns import Turns, turn_on


def test_turns_go_to_who_waited_longest_and_to_one_at_a_time():
    turns, inside, seen = Turns(), [0], []

    def work(name: int) -> None:
        for _ in range(20):
            with turns:
                inside[0] += 1
                assert inside[0] == 1
                seen.append(name)
                time.sleep(0.001)  # whoever wants a turn asks meanwhile
                inside[0] -= 1

    threads = [threading.Thread(target=work, args=(name,)) for name in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(seen) == [0] * 20 + [1] * 20 + [2] * 20
    middle = seen[6:54]  # all three are there
    assert all(len(set(middle[at : at + 3])) == 3 for at in range(len(middle) - 3))


def test_a_turn_that_fails_is_over():
    turns, had = Turns(), threading.Event()

    def have_one() -> None:
        with turns:
            had.set()

    for _ in range(2):
        with pytest.raises(ValueError, match="within"), turns:
            raise ValueError("within")
    threading.Thread(target=have_one, daemon=True).start()
    assert had.wait(20), "the next one still waits for a turn that failed"


def test_only_gpus_need_turns():
    assert isinstance(turn_on(torch.device("cuda:0")), Turns)
    assert turn_on(torch.device("cuda:0")) is turn_on(torch.device("cuda:1"))
    assert not isinstance(turn_on(torch.device("cpu")), Turns)
