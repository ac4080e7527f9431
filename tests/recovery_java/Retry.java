import com.rabbitmq.client.Channel;
import com.rabbitmq.client.Connection;
import com.rabbitmq.client.ConnectionFactory;
import java.io.IOException;
import java.util.concurrent.TimeoutException;

/** What publisher and worker share: connecting to a broker that may be down just now. */
final class Retry {
    private static final long PATIENCE_MILLISECONDS = 60_000;

    private Retry() {
    }

    static ConnectionFactory factory() throws Exception {
        ConnectionFactory factory = new ConnectionFactory();
        factory.setUri(System.getenv("AMQP_URL"));
        factory.setAutomaticRecoveryEnabled(false);
        return factory;
    }

    /** Tries until the broker is there. */
    static Connection connect(ConnectionFactory factory, String name) throws Exception {
        long limit = System.currentTimeMillis() + PATIENCE_MILLISECONDS;
        while (true) {
            try {
                return factory.newConnection(name);
            } catch (IOException | TimeoutException refused) {
                if (System.currentTimeMillis() > limit) {
                    throw refused;
                }
                Thread.sleep(20);
            }
        }
    }

    static void declare(Channel channel, String queue) throws IOException {
        channel.queueDeclare(queue, true, false, false, null);
    }

    /** Runs this when standard input closes: on request, or when the driver is gone. */
    static void whenInputCloses(Runnable action) {
        Thread thread = new Thread(() -> {
            try {
                while (System.in.read() >= 0) {
                    // Only the end matters.
                }
            } catch (IOException broken) {
                // That is an end too.
            }
            action.run();
        });
        thread.setDaemon(true);
        thread.start();
    }
}
