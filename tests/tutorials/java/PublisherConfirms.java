import com.rabbitmq.client.Channel;
import com.rabbitmq.client.Connection;
import com.rabbitmq.client.GetResponse;
import com.rabbitmq.client.MessageProperties;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.Collections;
import java.util.List;
import java.util.concurrent.ConcurrentNavigableMap;
import java.util.concurrent.ConcurrentSkipListMap;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicInteger;

/** Tutorial 7: the broker confirms what it has taken over: one by one, in batches, or as it comes. */
final class PublisherConfirms {
    private static final int INDIVIDUALLY = 100;
    private static final int IN_BATCHES = 2_000;
    private static final int BATCH = 100;
    private static final int ASYNCHRONOUSLY = 5_000;
    private static final long PATIENCE = Tutorial.PATIENCE_SECONDS * 1000;

    public static void main(String[] args) {
        Tutorial.run("publisher confirms", () -> {
            try (Connection connection = Tutorial.connect("publisher confirms")) {
                individually(connection);
                inBatches(connection);
                asynchronously(connection);
                returnedFirst(connection);
            }
        });
    }

    private static String newQueue(Channel channel, String name) throws Exception {
        String queue = "java.confirms." + name;
        channel.queueDelete(queue);
        channel.queueDeclare(queue, true, false, false, null);
        channel.confirmSelect();
        return queue;
    }

    private static void publish(Channel channel, String queue, int number) throws Exception {
        channel.basicPublish("", queue, MessageProperties.PERSISTENT_TEXT_PLAIN,
            Tutorial.bytes(Integer.toString(number)));
    }

    /** Everything that was confirmed is in the queue, once, in order. */
    private static void verify(Channel channel, String queue, int count) throws Exception {
        Tutorial.equal(count, Tutorial.ready(channel, queue), "confirmed and in the queue " + queue);
        for (int number = 0; number < count; number++) {
            GetResponse response = channel.basicGet(queue, true);
            Tutorial.check(response != null, "message " + number + " is there");
            String text = new String(response.getBody(), StandardCharsets.UTF_8);
            Tutorial.check(text.equals(Integer.toString(number)), "expected " + number + ", found " + text);
            Tutorial.check(response.getMessageCount() == count - number - 1, "message count after get");
        }
        Tutorial.check(channel.basicGet(queue, true) == null, "nothing else in the queue");
        channel.queueDelete(queue);
    }

    private static void individually(Connection connection) throws Exception {
        Channel channel = connection.createChannel();
        String queue = newQueue(channel, "individually");
        for (int number = 0; number < INDIVIDUALLY; number++) {
            publish(channel, queue, number);
            Tutorial.check(channel.waitForConfirms(PATIENCE), "confirmed, not refused");
        }
        verify(channel, queue, INDIVIDUALLY);
    }

    private static void inBatches(Connection connection) throws Exception {
        Channel channel = connection.createChannel();
        String queue = newQueue(channel, "batches");
        for (int number = 0; number < IN_BATCHES; number++) {
            publish(channel, queue, number);
            if ((number + 1) % BATCH == 0) {
                channel.waitForConfirmsOrDie(PATIENCE);
            }
        }
        verify(channel, queue, IN_BATCHES);
    }

    private static void asynchronously(Connection connection) throws Exception {
        Channel channel = connection.createChannel();
        String queue = newQueue(channel, "asynchronously");
        ConcurrentNavigableMap<Long, String> outstanding = new ConcurrentSkipListMap<>();
        AtomicInteger confirmed = new AtomicInteger();
        AtomicInteger multiples = new AtomicInteger();
        AtomicInteger refused = new AtomicInteger();
        CountDownLatch all = new CountDownLatch(ASYNCHRONOUSLY);
        channel.addConfirmListener((number, multiple) -> {
            List<Long> settled = multiple
                ? new ArrayList<>(outstanding.headMap(number, true).keySet())
                : Collections.singletonList(number);
            for (Long each : settled) {
                // Nothing may be confirmed twice, nor anything that was never published.
                if (outstanding.remove(each) != null) {
                    confirmed.incrementAndGet();
                    all.countDown();
                } else {
                    refused.incrementAndGet();
                }
            }
            if (multiple) {
                multiples.incrementAndGet();
            }
        }, (number, multiple) -> refused.incrementAndGet());
        for (int number = 0; number < ASYNCHRONOUSLY; number++) {
            outstanding.put(channel.getNextPublishSeqNo(), Integer.toString(number));
            publish(channel, queue, number);
        }
        Tutorial.check(all.await(Tutorial.PATIENCE_SECONDS, TimeUnit.SECONDS),
            "all confirmed within " + Tutorial.PATIENCE_SECONDS + " s; outstanding: " + outstanding.size());
        Tutorial.equal(0, refused.get(), "refused, confirmed twice or never published");
        Tutorial.equal(ASYNCHRONOUSLY, confirmed.get(), "confirmed asynchronously");
        Tutorial.check(multiples.get() > 0, "some confirms cover several messages (multiple)");
        System.out.println("  " + multiples.get() + " confirms covered several messages");
        verify(channel, queue, ASYNCHRONOUSLY);
    }

    /** A mandatory message that no queue takes is returned, and then confirmed. */
    private static void returnedFirst(Connection connection) throws Exception {
        Channel channel = connection.createChannel();
        channel.confirmSelect();
        List<String> events = Collections.synchronizedList(new ArrayList<>());
        channel.addReturnListener((code, text, exchange, key, properties, body) ->
            events.add("returned " + code + " " + text + " " + key));
        channel.addConfirmListener((number, multiple) -> events.add("confirmed " + number),
            (number, multiple) -> events.add("refused " + number));
        channel.basicPublish("", "java.no.such.queue", true, null, Tutorial.bytes("lost?"));
        Tutorial.check(channel.waitForConfirms(PATIENCE), "confirmed though unroutable");
        Tutorial.equal(List.of("returned 312 NO_ROUTE java.no.such.queue", "confirmed 1"),
            new ArrayList<>(events), "order");
    }
}
