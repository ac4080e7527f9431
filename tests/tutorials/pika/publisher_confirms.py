"""Tutorial 7: the broker confirms what it has taken over: one by one, in batches, or as it comes."""

import pika
import pika.exceptions

import tutorial

INDIVIDUALLY = 100
IN_BATCHES = 2_000
BATCH = 100
ASYNCHRONOUSLY = 5_000
PERSISTENT = pika.BasicProperties(delivery_mode=2)


def new_queue(channel, name):
    queue = f"pika.confirms.{name}"
    channel.queue_delete(queue)
    channel.queue_declare(queue, durable=True)
    return queue


def verify(queue, count):
    """Everything that was confirmed is in the queue, once, in order."""
    with tutorial.connect() as connection:
        channel = connection.channel()
        tutorial.equal(count, tutorial.ready(channel, queue), f"confirmed and in the queue {queue}")
        for number in range(count):
            method, _, body = channel.basic_get(queue, auto_ack=True)
            tutorial.check(method is not None, f"message {number} is there")
            tutorial.check(body == str(number).encode(), f"expected {number}, found {body}")
            tutorial.check(method.message_count == count - number - 1, "message count after get")
        tutorial.check(channel.basic_get(queue)[0] is None, "nothing else in the queue")
        channel.queue_delete(queue)


def individually():
    """On a blocking connection in confirm mode, basic_publish returns when the confirm has come."""
    with tutorial.connect() as connection:
        channel = connection.channel()
        queue = new_queue(channel, "individually")
        channel.confirm_delivery()
        for number in range(INDIVIDUALLY):
            channel.basic_publish(exchange="", routing_key=queue, body=str(number), properties=PERSISTENT)
        verify(queue, INDIVIDUALLY)
        try:
            channel.basic_publish(exchange="", routing_key="pika.no.such.queue", body="lost?", mandatory=True)
        except pika.exceptions.UnroutableError as unroutable:
            returned = unroutable.messages[0].method
            tutorial.equal((312, "NO_ROUTE"), (returned.reply_code, returned.reply_text), "returned")
        else:
            raise AssertionError("a mandatory message without a queue must come back")


class Publisher:
    """A publisher on pika's asynchronous connection: at most `window` messages wait for their confirm.

    With a window of one batch that is refilled when it is empty it confirms in batches; with an unlimited
    one, as the confirms come.
    """

    def __init__(self, queue, count, window):
        self.queue, self.count, self.window = queue, count, window
        self.published = 0
        self.outstanding = []
        self.multiples = 0
        self.failure = "the connection never opened"
        self.connection = pika.SelectConnection(
            tutorial.parameters(),
            on_open_callback=lambda connection: connection.channel(on_open_callback=self.opened),
            on_open_error_callback=lambda _, error: self.stop(f"open: {error}"),
            on_close_callback=lambda *_: self.connection.ioloop.stop(),
        )

    def run(self):
        self.connection.ioloop.call_later(tutorial.PATIENCE, lambda: self.stop("confirms did not come in time"))
        self.connection.ioloop.start()
        tutorial.check(self.failure is None, self.failure)
        tutorial.equal([], self.outstanding, "messages without a confirm")

    def opened(self, channel):
        self.channel = channel
        self.failure = "closed before all was confirmed"
        channel.confirm_delivery(self.settled, callback=lambda _: self.publish())

    def publish(self):
        while self.published < self.count and len(self.outstanding) < self.window:
            self.channel.basic_publish(
                exchange="", routing_key=self.queue, body=str(self.published), properties=PERSISTENT
            )
            self.published += 1
            self.outstanding.append(self.published)

    def settled(self, frame):
        confirm = frame.method
        if not isinstance(confirm, pika.spec.Basic.Ack):
            return self.stop(f"refused: {confirm}")
        if confirm.delivery_tag not in self.outstanding:
            return self.stop(f"confirmed twice or never published: {confirm}")
        if confirm.multiple:
            self.multiples += 1
            self.outstanding = [n for n in self.outstanding if n > confirm.delivery_tag]
        else:
            self.outstanding.remove(confirm.delivery_tag)
        if self.outstanding:
            return None
        if self.published == self.count:
            return self.stop(None)
        return self.publish()

    def stop(self, failure):
        self.failure = failure
        if self.connection.is_open:
            self.connection.close()
        else:
            self.connection.ioloop.stop()


def pipelined(name, count, window):
    with tutorial.connect() as connection:
        queue = new_queue(connection.channel(), name)
    publisher = Publisher(queue, count, window)
    publisher.run()
    verify(queue, count)
    return publisher.multiples


def publisher_confirms():
    individually()
    pipelined("batches", IN_BATCHES, BATCH)
    multiples = pipelined("asynchronously", ASYNCHRONOUSLY, ASYNCHRONOUSLY)
    tutorial.check(multiples > 0, "some confirms cover several messages (multiple)")
    print(f"  {multiples} confirms covered several messages")


tutorial.run("publisher confirms", publisher_confirms)
