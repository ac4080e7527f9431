"""What the tutorial programs share: where the broker is, waiting with a limit, and checks that end the program."""

import collections
import concurrent.futures
import os
import sys
import time
import traceback

import pika

# Nothing in a tutorial takes long; whoever waits longer than this has lost a message.
PATIENCE = 30

# The last message of a queue, so that a reader knows that nothing else was in front of it.
END = "END"

_roles = concurrent.futures.ThreadPoolExecutor(max_workers=16)


def parameters():
    """AMQP_URL, or AMQP_HOST, AMQP_PORT, AMQP_USER and AMQP_PASSWORD."""
    url = os.environ.get("AMQP_URL")
    if url is not None:
        return pika.URLParameters(url)
    return pika.ConnectionParameters(
        host=os.environ.get("AMQP_HOST", "127.0.0.1"),
        port=int(os.environ.get("AMQP_PORT", "5672")),
        credentials=pika.PlainCredentials(
            os.environ.get("AMQP_USER", "guest"), os.environ.get("AMQP_PASSWORD", "guest")
        ),
    )


def connect():
    return pika.BlockingConnection(parameters())


def run(name, body):
    """Runs a tutorial; the exit status says whether every check held."""
    try:
        body()
    except BaseException as failure:
        traceback.print_exc()
        print(f"{name}: FAILED: {failure!r}", flush=True)
        # Not sys.exit: a thread that still waits for a message must not keep the program alive.
        os._exit(1)
    print(f"{name}: all checks passed")
    sys.exit(0)


def role(function, *arguments):
    """Runs one role (producer, worker, ...) in a thread of its own."""
    return _roles.submit(function, *arguments)


def wait(future):
    return future.result(timeout=PATIENCE)


def check(holds, what):
    if not holds:
        raise AssertionError(what)


def equal(expected, found, what):
    check(expected == found, f"{what}: expected {expected!r}, found {found!r}")
    print(f"  ok: {what}: {found!r}", flush=True)


def ready(channel, queue):
    """Ready messages of a queue, asked of the broker."""
    return channel.queue_declare(queue, passive=True).method.message_count


Delivery = collections.namedtuple("Delivery", "method properties text")


class Inbox:
    """Deliveries of one consumer, in the order of their arrival. To be used by one thread."""

    def __init__(self, connection, channel, queue, auto_ack):
        self._connection = connection
        self._deliveries = collections.deque()
        self.channel = channel
        self.tag = channel.basic_consume(queue, self._arrived, auto_ack=auto_ack)

    def _arrived(self, _channel, method, properties, body):
        self._deliveries.append(Delivery(method, properties, body.decode()))

    def next(self):
        limit = time.monotonic() + PATIENCE
        while not self._deliveries:
            left = limit - time.monotonic()
            check(left > 0, f"no delivery within {PATIENCE} s")
            self._connection.process_data_events(time_limit=left)
        return self._deliveries.popleft()

    def ack(self, delivery):
        self.channel.basic_ack(delivery.method.delivery_tag)

    def is_empty(self):
        return not self._deliveries

    def until_end(self):
        """Everything in front of the END message, as text."""
        texts = []
        while (text := self.next().text) != END:
            print(f"  [{self.tag}] got {text}", flush=True)
            texts.append(text)
        return texts
