"""Tutorial 6: remote calls; requests in one queue, answers in the callback queue each caller names."""

import threading
import uuid

import pika

import tutorial

QUEUE = "pika.rpc_queue"
FIBONACCI = [0, 1, 1, 2, 3, 5, 8, 13, 21, 34, 55, 89]


def fibonacci(n):
    return n if n < 2 else fibonacci(n - 1) + fibonacci(n - 2)


def serve(is_up, requests):
    """Answers that many requests and goes."""
    with tutorial.connect() as connection:
        channel = connection.channel()
        channel.queue_delete(QUEUE)
        channel.queue_declare(QUEUE)
        channel.basic_qos(prefetch_count=1)
        inbox = tutorial.Inbox(connection, channel, QUEUE, auto_ack=False)
        is_up.set()
        for _ in range(requests):
            request = inbox.next()
            channel.basic_publish(
                exchange="",
                routing_key=request.properties.reply_to,
                properties=pika.BasicProperties(correlation_id=request.properties.correlation_id),
                body=str(fibonacci(int(request.text))),
            )
            inbox.ack(request)
        tutorial.equal(0, tutorial.ready(channel, QUEUE), "requests left")
        tutorial.check(inbox.is_empty(), "no other request was delivered")
        channel.queue_delete(QUEUE)


def client(name):
    """Sends all its calls at once and matches the answers by correlation id."""
    with tutorial.connect() as connection:
        channel = connection.channel()
        callback = channel.queue_declare("", exclusive=True).method.queue
        answers = tutorial.Inbox(connection, channel, callback, auto_ack=True)
        # An answer to a call this client never made must be recognised by its correlation id.
        channel.basic_publish(
            exchange="",
            routing_key=callback,
            properties=pika.BasicProperties(correlation_id="stranger"),
            body="-1",
        )
        calls = [str(uuid.uuid4()) for _ in FIBONACCI]
        for n, call in enumerate(calls):
            channel.basic_publish(
                exchange="",
                routing_key=QUEUE,
                properties=pika.BasicProperties(correlation_id=call, reply_to=callback),
                body=str(n),
            )
        results = {}
        for _ in range(len(calls) + 1):
            answer = answers.next()
            call = answer.properties.correlation_id
            tutorial.check(call not in results, f"{name}: answered once only")
            results[call] = int(answer.text)
        tutorial.equal(-1, results.pop("stranger"), f"{name}: the answer to ignore")
        return [results[call] for call in calls]


def rpc():
    clients = 4
    is_up = threading.Event()
    server = tutorial.role(serve, is_up, clients * len(FIBONACCI))
    tutorial.check(is_up.wait(tutorial.PATIENCE), "the server is up")
    callers = [tutorial.role(client, f"client {n}") for n in range(clients)]
    for caller in callers:
        tutorial.equal(FIBONACCI, tutorial.wait(caller), "fibonacci numbers")
    tutorial.wait(server)


tutorial.run("rpc", rpc)
