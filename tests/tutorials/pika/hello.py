"""Tutorial 1: one producer, one queue, one consumer."""

import tutorial

QUEUE = "pika.hello"


def send(text):
    with tutorial.connect() as connection:
        channel = connection.channel()
        channel.queue_declare(QUEUE)
        channel.basic_publish(exchange="", routing_key=QUEUE, body=text)
        print(f"sent {text!r}")


def receive():
    with tutorial.connect() as connection:
        channel = connection.channel()
        channel.queue_declare(QUEUE)
        return tutorial.Inbox(connection, channel, QUEUE, auto_ack=True).next()


def hello():
    # Both sides declare the queue, as neither knows who comes first.
    consumer = tutorial.role(receive)
    producer = tutorial.role(send, "Hello World!")
    tutorial.wait(producer)
    delivery = tutorial.wait(consumer)
    tutorial.equal("Hello World!", delivery.text, "body")
    tutorial.equal("", delivery.method.exchange, "exchange")
    tutorial.equal(QUEUE, delivery.method.routing_key, "routing key")
    tutorial.equal(False, delivery.method.redelivered, "redelivered")
    with tutorial.connect() as connection:
        channel = connection.channel()
        tutorial.equal(0, tutorial.ready(channel, QUEUE), "messages left")
        channel.queue_delete(QUEUE)


tutorial.run("hello", hello)
