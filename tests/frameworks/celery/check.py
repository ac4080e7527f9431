"""A Celery worker against the broker named by AMQP_URL: `check.py SCENARIO`; the exit status says whether all held."""

import os
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from datetime import datetime, timedelta, timezone

# Whoever waits longer than this has lost a message.
PATIENCE = 60

journal = tempfile.NamedTemporaryFile(prefix="celery-journal-")
os.environ["JOURNAL"] = journal.name

import tasks  # noqa: E402 (it reads the environment)


class Worker:
    """`celery worker` as a process group of its own, of which nothing is left at the end."""

    def __init__(self, *arguments):
        command = [sys.executable, "-m", "celery", "-A", "tasks", "worker", "--loglevel=INFO", *arguments]
        self.process = subprocess.Popen(command, start_new_session=True)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.kill()

    def kill(self):
        """With all its children, as a machine that goes down does; not if it has ended."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()

    def stops(self):
        """Warm shutdown: it ends by itself, without an error."""
        self.process.terminate()
        equal(0, self.process.wait(PATIENCE), "exit code of the worker")


def equal(expected, found, what):
    if expected != found:
        raise AssertionError(f"{what}: expected {expected!r}, found {found!r}")


def until(what, condition):
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        found = condition()
        if found:
            return found
        time.sleep(0.05)
    raise AssertionError(f"waited {PATIENCE} s in vain for {what}")


def noted():
    with open(journal.name, encoding="utf-8") as lines:
        return lines.read().splitlines()


def results():
    """Results, errors and groups come back through the caller's reply queue."""
    with Worker("--concurrency=2") as worker:
        equal(5, tasks.add.delay(2, 3).get(timeout=PATIENCE), "2 + 3")
        try:
            tasks.fail.delay("as it should").get(timeout=PATIENCE)
        except ValueError as error:
            equal("as it should", str(error), "the error's text")
        else:
            raise AssertionError("a failed task must raise")
        from celery import group

        sums = group(tasks.add.s(n, n) for n in range(50)).apply_async().get(timeout=PATIENCE)
        equal([2 * n for n in range(50)], sums, "results of a group")
        worker.stops()


def later():
    """Retries, countdown and ETA: the worker keeps such tasks unacked until they are due."""
    with Worker("--concurrency=2") as worker:
        equal(2, tasks.add.delay(1, 1).get(timeout=PATIENCE), "1 + 1, once the worker is up")
        lucky = tasks.third_time_lucky.delay()
        due = time.time() + 1.0
        # Fewer than the worker's prefetch, which celery widens for them only where it is the whole channel's.
        counted = [tasks.now.apply_async(countdown=1.0) for _ in range(5)]
        dated = tasks.now.apply_async(eta=datetime.now(timezone.utc) + timedelta(seconds=1.5))
        # What is due comes first, although it was sent last.
        at_once = tasks.now.delay().get(timeout=PATIENCE)
        equal(2, lucky.get(timeout=PATIENCE), "retries")
        times = [task.get(timeout=PATIENCE) for task in counted]
        if min(times) < due or dated.get(timeout=PATIENCE) < due + 0.5:
            raise AssertionError("a task was done before its time")
        if at_once > min(times):
            raise AssertionError("a task that was due waited for those that were not")
        worker.stops()


def remote_control():
    """ping, inspect and rate limits go through the fanout exchange of the pidbox; answers through a reply queue."""
    with Worker("--concurrency=1", "--hostname=first@here") as first, Worker(
        "--concurrency=1", "--hostname=second@here"
    ) as second:
        control = tasks.app.control
        until("both workers to answer a ping", lambda: len(control.ping(timeout=1)) == 2)
        answers = {name for answer in control.ping(timeout=2, limit=2) for name in answer}
        equal({"first@here", "second@here"}, answers, "who answered a ping")
        inspect = control.inspect(timeout=2, limit=2)
        queues = {name: [queue["name"] for queue in found] for name, found in inspect.active_queues().items()}
        equal({"first@here": ["celery"], "second@here": ["celery"]}, queues, "queues of the workers")
        only = control.inspect(destination=["first@here"], timeout=2, limit=1).registered()
        equal(["first@here"], list(only), "who answered a question to one")
        if "tasks.add" not in only["first@here"]:
            raise AssertionError(f"tasks.add is not registered: {only}")
        control.rate_limit("tasks.add", "100/s", destination=["second@here"])
        # The other worker goes on when this one is told to leave.
        control.shutdown(destination=["first@here"])
        equal(0, first.process.wait(PATIENCE), "exit code of a worker that was told to leave")
        equal(9, tasks.add.delay(4, 5).get(timeout=PATIENCE), "4 + 5")
        second.stops()


def killed_worker():
    """acks_late: a task whose worker was killed in the middle of it is done by another one."""
    with Worker("--concurrency=1") as killed:
        job = tasks.long_job.delay("job")
        waiting = [tasks.add.delay(n, 1) for n in range(10)]
        until("the job to be started", lambda: "job started" in noted())
        killed.kill()
    with Worker("--concurrency=1") as worker:
        equal("job", job.get(timeout=PATIENCE), "result of the job")
        equal(["job started", "job again"], noted(), "what was done")
        # Those that the killed worker had fetched, and not begun, are not lost either.
        equal([n + 1 for n in range(10)], [task.get(timeout=PATIENCE) for task in waiting], "tasks behind it")
        worker.stops()


def priorities():
    """What waits in a queue with priorities is done in their order, first come first served within one."""
    with tasks.app.connection_for_write() as connection:
        tasks.PRIORITIES(connection).declare()
    sent = [(priority, place) for place in range(3) for priority in (1, 9, 5, 0)]
    for priority, place in sent:
        tasks.in_turn.apply_async((f"{priority}.{place}",), queue=tasks.PRIORITIES, priority=priority)
    os.environ["PRIORITIES"] = "yes"
    # Fetching one at a time: what has been fetched is not sorted any more.
    with Worker("--concurrency=1", "--prefetch-multiplier=1") as worker:
        until("all tasks to be done", lambda: len(noted()) == len(sent))
        expected = sorted(sent, key=lambda one: (-one[0], one[1]))
        equal([f"priority {priority}.{place}" for priority, place in expected], noted(), "order")
        worker.stops()


SCENARIOS = [results, later, remote_control, killed_worker, priorities]

if __name__ == "__main__":
    (wanted,) = [scenario for scenario in SCENARIOS if scenario.__name__ == sys.argv[1]]
    try:
        wanted()
        print(f"{wanted.__name__}: all checks passed")
    except BaseException:
        traceback.print_exc()
        sys.exit(1)
