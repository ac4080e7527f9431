import com.rabbitmq.client.Channel;
import com.rabbitmq.client.Connection;
import com.rabbitmq.client.ConnectionFactory;
import com.rabbitmq.client.Delivery;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.List;
import java.util.Objects;
import java.util.concurrent.BlockingQueue;
import java.util.concurrent.Callable;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.Future;
import java.util.concurrent.LinkedBlockingQueue;
import java.util.concurrent.TimeUnit;

/** What the tutorial programs share: where the broker is, waiting with a limit, and checks that end the program. */
final class Tutorial {
    /** Nothing in a tutorial takes long; whoever waits longer than this has lost a message. */
    static final long PATIENCE_SECONDS = 30;

    /** The last message of a queue, so that a reader knows that nothing else was in front of it. */
    static final String END = "END";

    private static final ExecutorService THREADS = Executors.newCachedThreadPool(job -> {
        Thread thread = new Thread(job);
        thread.setDaemon(true);
        return thread;
    });

    private Tutorial() {
    }

    interface Body {
        void run() throws Exception;
    }

    /** Runs a tutorial; the exit status says whether every check held. */
    static void run(String name, Body body) {
        int status = 0;
        try {
            body.run();
            System.out.println(name + ": all checks passed");
        } catch (Throwable failure) {
            failure.printStackTrace();
            System.out.println(name + ": FAILED: " + failure);
            status = 1;
        }
        System.exit(status);
    }

    /** AMQP_URL, or AMQP_HOST, AMQP_PORT, AMQP_USER and AMQP_PASSWORD. */
    static ConnectionFactory factory() throws Exception {
        ConnectionFactory factory = new ConnectionFactory();
        String url = System.getenv("AMQP_URL");
        if (url != null) {
            factory.setUri(url);
            return factory;
        }
        factory.setHost(setting("AMQP_HOST", "127.0.0.1"));
        factory.setPort(Integer.parseInt(setting("AMQP_PORT", "5672")));
        factory.setUsername(setting("AMQP_USER", "guest"));
        factory.setPassword(setting("AMQP_PASSWORD", "guest"));
        return factory;
    }

    private static String setting(String name, String fallback) {
        String value = System.getenv(name);
        return value == null ? fallback : value;
    }

    /** A connection without automatic recovery: in a tutorial a lost connection is a failure. */
    static Connection connect(String name) throws Exception {
        ConnectionFactory factory = factory();
        factory.setAutomaticRecoveryEnabled(false);
        return factory.newConnection(name);
    }

    /** Runs one role (producer, worker, ...) in a thread of its own. */
    static <T> Future<T> role(Callable<T> role) {
        return THREADS.submit(role);
    }

    static <T> T await(Future<T> future) throws Exception {
        return future.get(PATIENCE_SECONDS, TimeUnit.SECONDS);
    }

    static void check(boolean holds, String what) {
        if (!holds) {
            throw new AssertionError(what);
        }
    }

    static void equal(Object expected, Object found, String what) {
        check(Objects.equals(expected, found), what + ": expected " + expected + ", found " + found);
        System.out.println("  ok: " + what + ": " + found);
    }

    static byte[] bytes(String text) {
        return text.getBytes(StandardCharsets.UTF_8);
    }

    static String text(Delivery delivery) {
        return new String(delivery.getBody(), StandardCharsets.UTF_8);
    }

    /** Ready messages of a queue, asked of the broker. */
    static int ready(Channel channel, String queue) throws Exception {
        return channel.queueDeclarePassive(queue).getMessageCount();
    }

    /** Deliveries of one consumer, in the order of their arrival. */
    static final class Inbox {
        private final BlockingQueue<Delivery> deliveries = new LinkedBlockingQueue<>();
        final Channel channel;
        final String consumerTag;

        Inbox(Channel channel, String queue, boolean autoAck) throws Exception {
            this.channel = channel;
            this.consumerTag =
                channel.basicConsume(queue, autoAck, (tag, delivery) -> deliveries.add(delivery), tag -> { });
        }

        Delivery next() throws Exception {
            Delivery delivery = deliveries.poll(PATIENCE_SECONDS, TimeUnit.SECONDS);
            check(delivery != null, "no delivery within " + PATIENCE_SECONDS + " s");
            return delivery;
        }

        void ack(Delivery delivery) throws Exception {
            channel.basicAck(delivery.getEnvelope().getDeliveryTag(), false);
        }

        /** Everything in front of the END message, as text. */
        List<String> untilEnd() throws Exception {
            List<String> texts = new ArrayList<>();
            while (true) {
                String text = text(next());
                if (text.equals(END)) {
                    return texts;
                }
                System.out.println("  [" + consumerTag + "] got " + text);
                texts.add(text);
            }
        }

        boolean isEmpty() {
            return deliveries.isEmpty();
        }
    }
}
