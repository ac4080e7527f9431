"""The application: tasks for a worker in Celery's default configuration, results by rpc://."""

import os
import time

from celery import Celery
from kombu import Queue

PRIORITIES = Queue("priorities", routing_key="priorities", max_priority=9)

app = Celery("frameworks", broker=os.environ["AMQP_URL"], backend="rpc://")
# A queue's arguments can't be given on a worker's command line.
if "PRIORITIES" in os.environ:
    app.conf.task_queues = [PRIORITIES]


def note(line):
    """Appends a line to the journal, in which the checks read what the worker did."""
    with open(os.environ["JOURNAL"], "a", encoding="utf-8") as journal:
        journal.write(line + "\n")


@app.task
def add(x, y):
    return x + y


@app.task
def fail(text):
    raise ValueError(text)


@app.task(bind=True, max_retries=3)
def third_time_lucky(self):
    """Fails twice; each retry is a new message with an ETA."""
    if self.request.retries < 2:
        raise self.retry(countdown=0.2, exc=RuntimeError("not yet"))
    return self.request.retries


@app.task
def now():
    return time.time()


@app.task(bind=True, acks_late=True)
def long_job(self, name):
    """Takes for ever the first time, so that its worker can be killed in the middle of it."""
    redelivered = self.request.delivery_info["redelivered"]
    note(f"{name} {'again' if redelivered else 'started'}")
    if not redelivered:
        time.sleep(3600)
    return name


@app.task
def in_turn(number):
    note(f"priority {number}")
    return number
