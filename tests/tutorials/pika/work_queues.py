"""Tutorial 2: tasks shared by workers; round robin, acknowledgements, fair dispatch."""

import pika

import tutorial

QUEUE = "pika.task_queue"
PERSISTENT = pika.BasicProperties(delivery_mode=2)


def new_task(tasks, task):
    # The channel is in confirm mode: this returns when the broker has taken the task over.
    tasks.basic_publish(exchange="", routing_key=QUEUE, body=task, properties=PERSISTENT)
    print(f"new task {task!r}")


def round_robin(tasks):
    """Two workers with automatic acknowledgement get every second task each."""
    with tutorial.connect() as one, tutorial.connect() as two:
        first = tutorial.Inbox(one, one.channel(), QUEUE, auto_ack=True)
        second = tutorial.Inbox(two, two.channel(), QUEUE, auto_ack=True)
        for n in range(1, 7):
            new_task(tasks, f"round robin {n}")
        tutorial.equal(
            ["round robin 1", "round robin 3", "round robin 5"],
            [first.next().text for _ in range(3)],
            "worker 1 did",
        )
        tutorial.equal(
            ["round robin 2", "round robin 4", "round robin 6"],
            [second.next().text for _ in range(3)],
            "worker 2 did",
        )


def killed_worker(tasks):
    """A worker goes before it acknowledges: its task goes to another one, marked as redelivered."""
    doomed = tutorial.connect()
    dying = tutorial.Inbox(doomed, doomed.channel(), QUEUE, auto_ack=False)
    new_task(tasks, "never lost")
    tutorial.equal(False, dying.next().method.redelivered, "redelivered to the first worker")
    with tutorial.connect() as healthy:
        saving = tutorial.Inbox(healthy, healthy.channel(), QUEUE, auto_ack=False)
        doomed.close()
        again = saving.next()
        tutorial.equal("never lost", again.text, "task taken over")
        tutorial.equal(True, again.method.redelivered, "redelivered to the second worker")
        saving.ack(again)


def fair_dispatch(tasks):
    """With prefetch 1 a busy worker gets nothing new; whoever is free does the rest."""
    with tutorial.connect() as one, tutorial.connect() as two:
        busy_channel = one.channel()
        busy_channel.basic_qos(prefetch_count=1)
        busy = tutorial.Inbox(one, busy_channel, QUEUE, auto_ack=False)
        new_task(tasks, "heavy......")
        heavy = busy.next()
        free_channel = two.channel()
        free_channel.basic_qos(prefetch_count=1)
        free = tutorial.Inbox(two, free_channel, QUEUE, auto_ack=False)
        for n in range(1, 6):
            new_task(tasks, f"light {n}")
        for n in range(1, 6):
            light = free.next()
            tutorial.equal(f"light {n}", light.text, "the free worker does")
            tutorial.check(free.is_empty(), "prefetch 1: no second task before the first is acknowledged")
            free.ack(light)
        # The reply comes behind anything that had been sent to this worker before.
        tutorial.equal(0, tutorial.ready(busy_channel, QUEUE), "tasks nobody has")
        tutorial.check(busy.is_empty(), "the busy worker got nothing else meanwhile")
        busy.ack(heavy)
        tutorial.equal(0, tutorial.ready(busy_channel, QUEUE), "tasks left")


def work_queues():
    with tutorial.connect() as connection:
        tasks = connection.channel()
        tasks.queue_delete(QUEUE)
        tasks.queue_declare(QUEUE, durable=True)
        tasks.confirm_delivery()
        round_robin(tasks)
        killed_worker(tasks)
        fair_dispatch(tasks)
        tutorial.equal(0, tutorial.ready(tasks, QUEUE), "tasks left at the end")
        tasks.queue_delete(QUEUE)


tutorial.run("work queues", work_queues)
