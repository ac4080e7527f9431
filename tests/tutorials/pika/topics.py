"""Tutorial 5: patterns over words; '*' stands for one word, '#' for any number of them."""

import tutorial

EXCHANGE = "pika.topic_logs"

KEYS = [
    "quick.orange.rabbit",
    "lazy.orange.elephant",
    "quick.orange.fox",
    "lazy.brown.fox",
    "lazy.pink.rabbit",
    "quick.brown.fox",
    "orange",
    "quick.orange.new.rabbit",
    "lazy.orange.new.rabbit",
    "lazy",
    "",
]

EXPECTED = {
    ("*.orange.*",): ["quick.orange.rabbit", "lazy.orange.elephant", "quick.orange.fox"],
    # Two patterns may match the same message: one copy all the same.
    ("*.*.rabbit", "lazy.#"): [
        "quick.orange.rabbit",
        "lazy.orange.elephant",
        "lazy.brown.fox",
        "lazy.pink.rabbit",
        "lazy.orange.new.rabbit",
        "lazy",
    ],
    ("#",): KEYS,
    ("*",): ["orange", "lazy"],
    ("quick.orange.rabbit",): ["quick.orange.rabbit"],
    ("#.rabbit",): [
        "quick.orange.rabbit",
        "lazy.pink.rabbit",
        "quick.orange.new.rabbit",
        "lazy.orange.new.rabbit",
    ],
}


def topics():
    with tutorial.connect() as emitter, tutorial.connect() as receiver:
        logs = emitter.channel()
        logs.exchange_delete(EXCHANGE)
        logs.exchange_declare(EXCHANGE, exchange_type="topic")
        inboxes = {}
        for patterns in EXPECTED:
            channel = receiver.channel()
            queue = channel.queue_declare("", exclusive=True).method.queue
            for pattern in patterns:
                channel.queue_bind(queue, EXCHANGE, routing_key=pattern)
            inboxes[patterns] = queue, tutorial.Inbox(receiver, channel, queue, auto_ack=True)
        for key in KEYS:
            logs.basic_publish(exchange=EXCHANGE, routing_key=key, body=key)
        for queue, _ in inboxes.values():
            logs.basic_publish(exchange="", routing_key=queue, body=tutorial.END)
        for patterns, expected in EXPECTED.items():
            _, inbox = inboxes[patterns]
            tutorial.equal(expected, inbox.until_end(), f"matches of {' and '.join(patterns)}")
        logs.exchange_delete(EXCHANGE)


tutorial.run("topics", topics)
