import com.rabbitmq.client.BuiltinExchangeType;
import com.rabbitmq.client.Channel;
import com.rabbitmq.client.Connection;
import java.util.List;

/** Tutorial 3: a fanout exchange copies every log line to every subscriber that is there. */
final class PublishSubscribe {
    private static final String EXCHANGE = "java.logs";

    public static void main(String[] args) {
        Tutorial.run("publish/subscribe", () -> {
            try (Connection connection = Tutorial.connect("emit log")) {
                Channel logs = connection.createChannel();
                logs.exchangeDelete(EXCHANGE);
                logs.exchangeDeclare(EXCHANGE, BuiltinExchangeType.FANOUT);
                logs.confirmSelect();

                emit(logs, "nobody listens");
                Subscriber screen = new Subscriber("screen");
                Subscriber file = new Subscriber("file");
                emit(logs, "two listen", "still two");
                Subscriber late = new Subscriber("late");
                emit(logs, "three listen");
                for (Subscriber subscriber : List.of(screen, file, late)) {
                    logs.basicPublish("", subscriber.queue, null, Tutorial.bytes(Tutorial.END));
                }
                List<String> all = List.of("two listen", "still two", "three listen");
                Tutorial.equal(all, screen.inbox.untilEnd(), "screen saw");
                Tutorial.equal(all, file.inbox.untilEnd(), "file saw");
                Tutorial.equal(List.of("three listen"), late.inbox.untilEnd(), "late saw");
                for (Subscriber subscriber : List.of(screen, file, late)) {
                    subscriber.connection.close();
                }
                logs.exchangeDelete(EXCHANGE);
            }
        });
    }

    private static void emit(Channel logs, String... lines) throws Exception {
        for (String line : lines) {
            logs.basicPublish(EXCHANGE, "", null, Tutorial.bytes(line));
            System.out.println("log '" + line + "'");
        }
        // Confirmed means routed: who subscribes from here on must not see these.
        Tutorial.check(logs.waitForConfirms(Tutorial.PATIENCE_SECONDS * 1000), "log lines are confirmed");
    }

    private static final class Subscriber {
        final Connection connection;
        final String queue;
        final Tutorial.Inbox inbox;

        Subscriber(String name) throws Exception {
            connection = Tutorial.connect(name);
            Channel channel = connection.createChannel();
            queue = channel.queueDeclare().getQueue();
            Tutorial.check(queue.startsWith("amq.gen-"), "the broker names the queue: " + queue);
            channel.queueBind(queue, EXCHANGE, "");
            inbox = new Tutorial.Inbox(channel, queue, true);
        }
    }
}
