import com.rabbitmq.client.Channel;
import com.rabbitmq.client.Connection;
import com.rabbitmq.client.Delivery;
import java.util.concurrent.Future;

/** Tutorial 1: one producer, one queue, one consumer. */
final class Hello {
    private static final String QUEUE = "java.hello";

    public static void main(String[] args) {
        Tutorial.run("hello", () -> {
            // Both sides declare the queue, as neither knows who comes first.
            Future<Void> producer = Tutorial.role(() -> {
                send("Hello World!");
                return null;
            });
            Future<Delivery> consumer = Tutorial.role(Hello::receive);
            Tutorial.await(producer);
            Delivery delivery = Tutorial.await(consumer);
            Tutorial.equal("Hello World!", Tutorial.text(delivery), "body");
            Tutorial.equal("", delivery.getEnvelope().getExchange(), "exchange");
            Tutorial.equal(QUEUE, delivery.getEnvelope().getRoutingKey(), "routing key");
            Tutorial.equal(false, delivery.getEnvelope().isRedeliver(), "redelivered");
            try (Connection connection = Tutorial.connect("hello check")) {
                Channel channel = connection.createChannel();
                Tutorial.equal(0, Tutorial.ready(channel, QUEUE), "messages left");
                channel.queueDelete(QUEUE);
            }
        });
    }

    private static void send(String text) throws Exception {
        try (Connection connection = Tutorial.connect("hello producer")) {
            Channel channel = connection.createChannel();
            channel.queueDeclare(QUEUE, false, false, false, null);
            channel.basicPublish("", QUEUE, null, Tutorial.bytes(text));
            System.out.println("sent '" + text + "'");
        }
    }

    private static Delivery receive() throws Exception {
        try (Connection connection = Tutorial.connect("hello consumer")) {
            Channel channel = connection.createChannel();
            channel.queueDeclare(QUEUE, false, false, false, null);
            Delivery delivery = new Tutorial.Inbox(channel, QUEUE, true).next();
            System.out.println("received '" + Tutorial.text(delivery) + "'");
            return delivery;
        }
    }
}
