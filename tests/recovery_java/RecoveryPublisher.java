import com.rabbitmq.client.AMQP;
import com.rabbitmq.client.AlreadyClosedException;
import com.rabbitmq.client.Channel;
import com.rabbitmq.client.Connection;
import com.rabbitmq.client.ConnectionFactory;
import com.rabbitmq.client.MessageProperties;
import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.util.ArrayDeque;
import java.util.Deque;
import java.util.NavigableMap;
import java.util.TreeMap;

/**
 * Publishes tasks FIRST .. LAST and does not rest until each of them is confirmed, whatever happens to the broker.
 *
 * <p>A task without a confirm when the connection is lost may or may not have arrived, so it is published again, as
 * another copy. Says on standard output {@code confirmed COPY TASK} for each copy, and {@code finished}.
 */
final class RecoveryPublisher {
    private static final int WINDOW = 100;

    private final String queue;
    private final Deque<Integer> tasks = new ArrayDeque<>();
    private final Object lock = new Object();
    /** Publish number on this connection: task and copy. */
    private final NavigableMap<Long, int[]> outstanding = new TreeMap<>();
    private boolean lost;
    private int copies;

    private RecoveryPublisher(String queue, int firstCopy) {
        this.queue = queue;
        this.copies = firstCopy;
    }

    public static void main(String[] args) throws Exception {
        Retry.whenInputCloses(() -> Runtime.getRuntime().halt(2));
        int first = Integer.parseInt(args[1]);
        int last = Integer.parseInt(args[2]);
        RecoveryPublisher publisher = new RecoveryPublisher(args[0], Integer.parseInt(args[3]));
        for (int task = first; task <= last; task++) {
            publisher.tasks.add(task);
        }
        ConnectionFactory factory = Retry.factory();
        while (!publisher.run(factory)) {
            publisher.takeBack();
        }
        System.out.println("finished");
        System.exit(0);
    }

    /** One connection's life. True when everything is confirmed. */
    private boolean run(ConnectionFactory factory) throws Exception {
        Connection connection = Retry.connect(factory, "recovery publisher");
        try {
            lost = false;
            connection.addShutdownListener(cause -> {
                synchronized (lock) {
                    lost = true;
                    lock.notifyAll();
                }
            });
            Channel channel = connection.createChannel();
            Retry.declare(channel, queue);
            channel.confirmSelect();
            channel.addConfirmListener(this::confirmed, (number, multiple) -> {
                System.out.println("refused " + number);
                Runtime.getRuntime().halt(3);
            });
            while (!tasks.isEmpty()) {
                if (!waitUntilFewerThan(WINDOW)) {
                    return false;
                }
                int task = tasks.remove();
                int copy = copies++;
                synchronized (lock) {
                    outstanding.put(channel.getNextPublishSeqNo(), new int[] {copy, task});
                }
                AMQP.BasicProperties properties =
                    MessageProperties.PERSISTENT_BASIC.builder().messageId(Integer.toString(copy)).build();
                channel.basicPublish("", queue, properties,
                    Integer.toString(task).getBytes(StandardCharsets.UTF_8));
            }
            return waitUntilFewerThan(1);
        } catch (IOException | AlreadyClosedException gone) {
            return false;
        } finally {
            connection.abort();
        }
    }

    private void confirmed(long number, boolean multiple) {
        synchronized (lock) {
            NavigableMap<Long, int[]> settled =
                multiple ? outstanding.headMap(number, true) : outstanding.subMap(number, true, number, true);
            if (settled.isEmpty()) {
                System.out.println("confirmed twice, or never published: " + number);
                Runtime.getRuntime().halt(4);
            }
            for (int[] copy : settled.values()) {
                System.out.println("confirmed " + copy[0] + " " + copy[1]);
            }
            settled.clear();
            lock.notifyAll();
        }
    }

    /** False when the connection is lost. */
    private boolean waitUntilFewerThan(int count) throws InterruptedException {
        synchronized (lock) {
            while (!lost && outstanding.size() >= count) {
                lock.wait();
            }
            return outstanding.size() < count;
        }
    }

    /** What was not confirmed has to be published again, before the rest. */
    private void takeBack() {
        synchronized (lock) {
            for (int[] copy : outstanding.descendingMap().values()) {
                tasks.addFirst(copy[1]);
            }
            outstanding.clear();
        }
    }
}
