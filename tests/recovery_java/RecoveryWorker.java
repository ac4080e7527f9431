import com.rabbitmq.client.AlreadyClosedException;
import com.rabbitmq.client.Channel;
import com.rabbitmq.client.Connection;
import com.rabbitmq.client.ConnectionFactory;
import com.rabbitmq.client.Delivery;
import com.rabbitmq.client.ShutdownSignalException;
import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.List;
import java.util.Optional;
import java.util.concurrent.BlockingQueue;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.LinkedBlockingQueue;
import java.util.concurrent.TimeUnit;

/**
 * Does tasks with manual acknowledgements, until standard input closes.
 *
 * <p>Says {@code done COPY TASK REDELIVERED} for each task, before it acknowledges it; and {@code settled COPY} for each
 * whose acknowledgement the broker has certainly processed: the reply to a later synchronous method on the channel has
 * come. With {@code automatic} as third argument, reconnecting is left to the client's automatic recovery, and nothing
 * is said about what is settled, as that recovery hides which acknowledgements went nowhere.
 */
final class RecoveryWorker {
    private static final int SETTLE_EVERY = 10;

    private static volatile boolean stopping;

    public static void main(String[] args) throws Exception {
        String queue = args[0];
        int prefetch = Integer.parseInt(args[1]);
        if (args.length > 2 && args[2].equals("automatic")) {
            automatic(queue, prefetch);
        } else {
            Retry.whenInputCloses(() -> stopping = true);
            ConnectionFactory factory = Retry.factory();
            while (!stopping) {
                work(factory, queue, prefetch);
            }
        }
        System.exit(0);
    }

    /** One connection's life. */
    private static void work(ConnectionFactory factory, String queue, int prefetch) throws Exception {
        Connection connection = Retry.connect(factory, "recovery worker");
        // An empty one stands for the end of the connection.
        BlockingQueue<Optional<Delivery>> inbox = new LinkedBlockingQueue<>();
        connection.addShutdownListener(cause -> inbox.add(Optional.empty()));
        try {
            Channel channel = connection.createChannel();
            Retry.declare(channel, queue);
            channel.basicQos(prefetch);
            channel.basicConsume(queue, false, (tag, delivery) -> inbox.add(Optional.of(delivery)), tag -> { });
            List<String> acknowledged = new ArrayList<>();
            while (true) {
                Optional<Delivery> next = inbox.poll(50, TimeUnit.MILLISECONDS);
                if (next == null || acknowledged.size() >= SETTLE_EVERY) {
                    settle(channel, queue, acknowledged);
                    if (next == null && stopping) {
                        return;
                    }
                }
                if (next == null) {
                    continue;
                }
                if (next.isEmpty()) {
                    return;
                }
                Delivery delivery = next.get();
                done(delivery);
                channel.basicAck(delivery.getEnvelope().getDeliveryTag(), false);
                acknowledged.add(delivery.getProperties().getMessageId());
            }
        } catch (IOException | AlreadyClosedException gone) {
            System.err.println("connection lost: " + gone);
        } finally {
            connection.abort();
        }
    }

    private static void settle(Channel channel, String queue, List<String> acknowledged) throws IOException {
        if (acknowledged.isEmpty()) {
            return;
        }
        channel.queueDeclarePassive(queue);
        acknowledged.forEach(copy -> System.out.println("settled " + copy));
        acknowledged.clear();
    }

    private static void done(Delivery delivery) {
        System.out.println("done " + delivery.getProperties().getMessageId()
            + " " + new String(delivery.getBody(), StandardCharsets.UTF_8)
            + " " + delivery.getEnvelope().isRedeliver());
    }

    private static void automatic(String queue, int prefetch) throws Exception {
        CountDownLatch inputClosed = new CountDownLatch(1);
        Retry.whenInputCloses(inputClosed::countDown);
        ConnectionFactory factory = Retry.factory();
        factory.setAutomaticRecoveryEnabled(true);
        factory.setNetworkRecoveryInterval(100);
        Connection connection = Retry.connect(factory, "recovering worker");
        Channel channel = connection.createChannel();
        Retry.declare(channel, queue);
        channel.basicQos(prefetch);
        channel.basicConsume(queue, false, (tag, delivery) -> {
            done(delivery);
            try {
                channel.basicAck(delivery.getEnvelope().getDeliveryTag(), false);
            } catch (IOException | ShutdownSignalException gone) {
                // Out of the callback, it would make the client close the channel for good, and not recover it.
                System.err.println("not acknowledged: " + gone);
            }
        }, tag -> { });
        inputClosed.await();
        // A synchronous method behind all acknowledgements.
        channel.queueDeclarePassive(queue);
        connection.close();
    }
}
