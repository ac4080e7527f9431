"""Tutorial 3: a fanout exchange copies every log line to every subscriber that is there."""

import tutorial

EXCHANGE = "pika.logs"


class Subscriber:
    def __init__(self):
        self.connection = tutorial.connect()
        channel = self.connection.channel()
        self.queue = channel.queue_declare("", exclusive=True).method.queue
        tutorial.check(self.queue.startswith("amq.gen-"), f"the broker names the queue: {self.queue}")
        channel.queue_bind(self.queue, EXCHANGE)
        self.inbox = tutorial.Inbox(self.connection, channel, self.queue, auto_ack=True)


def emit(logs, line):
    # Confirmed means routed: who subscribes after this must not see the line.
    logs.basic_publish(exchange=EXCHANGE, routing_key="", body=line)
    print(f"log {line!r}")


def publish_subscribe():
    with tutorial.connect() as connection:
        logs = connection.channel()
        logs.exchange_delete(EXCHANGE)
        logs.exchange_declare(EXCHANGE, exchange_type="fanout")
        logs.confirm_delivery()

        emit(logs, "nobody listens")
        screen, file = Subscriber(), Subscriber()
        emit(logs, "two listen")
        emit(logs, "still two")
        late = Subscriber()
        emit(logs, "three listen")
        for subscriber in (screen, file, late):
            logs.basic_publish(exchange="", routing_key=subscriber.queue, body=tutorial.END)
        every = ["two listen", "still two", "three listen"]
        tutorial.equal(every, screen.inbox.until_end(), "screen saw")
        tutorial.equal(every, file.inbox.until_end(), "file saw")
        tutorial.equal(["three listen"], late.inbox.until_end(), "late saw")
        for subscriber in (screen, file, late):
            subscriber.connection.close()
        logs.exchange_delete(EXCHANGE)


tutorial.run("publish/subscribe", publish_subscribe)
