import threading
from concurrent.futures import ThreadPoolExecutor

from s3prl_melhubert.support import read_ahead
from s3prl_melhubert.support.read_ahead import ahead, groups_ahead


def test_items_come_in_their_order_with_what_the_function_makes_of_them():
    def read(item):
        if item == 2:
            raise ValueError("no such file")
        return 10 * item

    found = []
    for item, reading in ahead(read, range(5), threads=3, count=2):
        try:
            found.append((item, reading.result()))
        except ValueError as error:
            found.append((item, str(error)))
    assert found == [(0, 0), (1, 10), (2, "no such file"), (3, 30), (4, 40)]


def test_no_more_is_asked_for_than_may_wait():
    asked = []
    reading = ahead(str, (asked.append(i) or i for i in range(100)), threads=2, count=3)
    for done in range(1, 4):
        next(reading)
        assert len(asked) == done + 3


def test_groups_stay_together():
    found = groups_ahead(str, [[1, 2], [3], [4, 5, 6]], threads=2, count=1)
    assert [[reading.result() for _, reading in group] for group in found] == [["1", "2"], ["3"], [*"456"]]


def test_what_has_not_begun_is_given_up_when_the_loop_is_left(monkeypatch):
    begun, go_on = [], threading.Event()

    class Pool(ThreadPoolExecutor):
        """What is being read ends when the rest has been given up, and no sooner."""

        def shutdown(self, wait=True, *, cancel_futures=False):
            super().shutdown(wait=False, cancel_futures=cancel_futures)
            go_on.set()
            super().shutdown(wait=wait)

    def read(item):
        begun.append(item)
        assert item == 0 or go_on.wait(60)

    monkeypatch.setattr(read_ahead, "ThreadPoolExecutor", Pool)
    reading = ahead(read, range(100), threads=1, count=50)
    next(reading)
    reading.close()
    assert go_on.is_set()
    assert len(begun) <= 2
