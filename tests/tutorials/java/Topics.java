import com.rabbitmq.client.BuiltinExchangeType;
import com.rabbitmq.client.Channel;
import com.rabbitmq.client.Connection;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;

/** Tutorial 5: patterns over words; '*' stands for one word, '#' for any number of them. */
final class Topics {
    private static final String EXCHANGE = "java.topic_logs";

    private static final List<String> KEYS = List.of(
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
        "");

    public static void main(String[] args) {
        Map<String[], List<String>> expected = new LinkedHashMap<>();
        expected.put(new String[] {"*.orange.*"},
            List.of("quick.orange.rabbit", "lazy.orange.elephant", "quick.orange.fox"));
        // Two patterns may match the same message: one copy all the same.
        expected.put(new String[] {"*.*.rabbit", "lazy.#"},
            List.of("quick.orange.rabbit", "lazy.orange.elephant", "lazy.brown.fox", "lazy.pink.rabbit",
                "lazy.orange.new.rabbit", "lazy"));
        expected.put(new String[] {"#"}, KEYS);
        expected.put(new String[] {"*"}, List.of("orange", "lazy"));
        expected.put(new String[] {"quick.orange.rabbit"}, List.of("quick.orange.rabbit"));
        expected.put(new String[] {"#.rabbit"},
            List.of("quick.orange.rabbit", "lazy.pink.rabbit", "quick.orange.new.rabbit", "lazy.orange.new.rabbit"));

        Tutorial.run("topics", () -> {
            try (Connection emitter = Tutorial.connect("emit log topic");
                 Connection receiver = Tutorial.connect("receive logs topic")) {
                Channel logs = emitter.createChannel();
                logs.exchangeDelete(EXCHANGE);
                logs.exchangeDeclare(EXCHANGE, BuiltinExchangeType.TOPIC);
                List<String> queues = new ArrayList<>();
                List<Tutorial.Inbox> inboxes = new ArrayList<>();
                for (String[] patterns : expected.keySet()) {
                    Channel channel = receiver.createChannel();
                    String queue = channel.queueDeclare().getQueue();
                    for (String pattern : patterns) {
                        channel.queueBind(queue, EXCHANGE, pattern);
                    }
                    queues.add(queue);
                    inboxes.add(new Tutorial.Inbox(channel, queue, true));
                }
                for (String key : KEYS) {
                    logs.basicPublish(EXCHANGE, key, null, Tutorial.bytes(key));
                }
                for (String queue : queues) {
                    logs.basicPublish("", queue, null, Tutorial.bytes(Tutorial.END));
                }
                int number = 0;
                for (Map.Entry<String[], List<String>> entry : expected.entrySet()) {
                    Tutorial.equal(entry.getValue(), inboxes.get(number).untilEnd(),
                        "matches of " + String.join(" and ", entry.getKey()));
                    number++;
                }
                logs.exchangeDelete(EXCHANGE);
            }
        });
    }
}
