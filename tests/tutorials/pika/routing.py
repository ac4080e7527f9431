"""Tutorial 4: a direct exchange delivers log lines by their severity."""

import tutorial

EXCHANGE = "pika.direct_logs"


def subscribe(connection, *severities):
    channel = connection.channel()
    queue = channel.queue_declare("", exclusive=True).method.queue
    for severity in severities:
        channel.queue_bind(queue, EXCHANGE, routing_key=severity)
    return queue, tutorial.Inbox(connection, channel, queue, auto_ack=True)


def routing():
    with tutorial.connect() as connection, tutorial.connect() as disk, tutorial.connect() as screen:
        logs = connection.channel()
        logs.exchange_delete(EXCHANGE)
        logs.exchange_declare(EXCHANGE, exchange_type="direct")
        disk_queue, on_disk = subscribe(disk, "error")
        screen_queue, on_screen = subscribe(screen, "info", "warning", "error")

        def end():
            for queue in (disk_queue, screen_queue):
                logs.basic_publish(exchange="", routing_key=queue, body=tutorial.END)

        for severity in ("info", "error", "debug", "warning", "error", "Error", "info.error"):
            logs.basic_publish(exchange=EXCHANGE, routing_key=severity, body=f"{severity} line")
            print(f"log with severity {severity}")
        end()
        tutorial.equal(["error line", "error line"], on_disk.until_end(), "disk saw")
        tutorial.equal(
            ["info line", "error line", "warning line", "error line"], on_screen.until_end(), "screen saw"
        )

        on_screen.channel.queue_unbind(screen_queue, EXCHANGE, routing_key="error")
        logs.basic_publish(exchange=EXCHANGE, routing_key="error", body="for the disk only")
        end()
        tutorial.equal(["for the disk only"], on_disk.until_end(), "disk saw after the unbind")
        tutorial.equal([], on_screen.until_end(), "screen saw after the unbind")
        logs.exchange_delete(EXCHANGE)


tutorial.run("routing", routing)
