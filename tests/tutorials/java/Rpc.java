import com.rabbitmq.client.AMQP;
import com.rabbitmq.client.Channel;
import com.rabbitmq.client.Connection;
import com.rabbitmq.client.Delivery;
import java.util.ArrayList;
import java.util.List;
import java.util.UUID;
import java.util.concurrent.Callable;
import java.util.concurrent.Future;

/** Tutorial 6: remote calls; requests in one queue, answers in the callback queue each caller names. */
final class Rpc {
    private static final String QUEUE = "java.rpc_queue";
    private static final List<Long> FIBONACCI = List.of(0L, 1L, 1L, 2L, 3L, 5L, 8L, 13L, 21L, 34L, 55L, 89L);

    public static void main(String[] args) {
        Tutorial.run("rpc", () -> {
            try (Connection connection = Tutorial.connect("rpc server")) {
                serve(connection);
                List<Future<List<Long>>> clients = new ArrayList<>();
                for (int n = 0; n < 4; n++) {
                    clients.add(Tutorial.role(client("rpc client " + n)));
                }
                for (Future<List<Long>> client : clients) {
                    Tutorial.equal(FIBONACCI, Tutorial.await(client), "fibonacci numbers");
                }
                Channel channel = connection.createChannel();
                Tutorial.equal(0, Tutorial.ready(channel, QUEUE), "requests left");
                channel.queueDelete(QUEUE);
            }
        });
    }

    private static void serve(Connection connection) throws Exception {
        Channel channel = connection.createChannel();
        channel.queueDelete(QUEUE);
        channel.queueDeclare(QUEUE, false, false, false, null);
        channel.basicQos(1);
        channel.basicConsume(QUEUE, false, (tag, request) -> {
            long answer = fibonacci(Integer.parseInt(Tutorial.text(request)));
            AMQP.BasicProperties properties = new AMQP.BasicProperties.Builder()
                .correlationId(request.getProperties().getCorrelationId())
                .build();
            channel.basicPublish("", request.getProperties().getReplyTo(), properties,
                Tutorial.bytes(Long.toString(answer)));
            channel.basicAck(request.getEnvelope().getDeliveryTag(), false);
        }, tag -> { });
    }

    private static long fibonacci(int n) {
        return n < 2 ? n : fibonacci(n - 1) + fibonacci(n - 2);
    }

    /** Sends all its calls at once and matches the answers by correlation id. */
    private static Callable<List<Long>> client(String name) {
        return () -> {
            try (Connection connection = Tutorial.connect(name)) {
                Channel channel = connection.createChannel();
                String callback = channel.queueDeclare().getQueue();
                Tutorial.Inbox answers = new Tutorial.Inbox(channel, callback, true);
                // An answer to a call this client never made must be recognised by its correlation id.
                channel.basicPublish("", callback,
                    new AMQP.BasicProperties.Builder().correlationId("stranger").build(), Tutorial.bytes("-1"));
                List<String> calls = new ArrayList<>();
                for (int n = 0; n < FIBONACCI.size(); n++) {
                    String call = UUID.randomUUID().toString();
                    calls.add(call);
                    channel.basicPublish("", QUEUE,
                        new AMQP.BasicProperties.Builder().correlationId(call).replyTo(callback).build(),
                        Tutorial.bytes(Integer.toString(n)));
                }
                Long[] results = new Long[calls.size()];
                int strangers = 0;
                for (int n = 0; n < calls.size() + 1; n++) {
                    Delivery answer = answers.next();
                    int call = calls.indexOf(answer.getProperties().getCorrelationId());
                    if (call < 0) {
                        strangers++;
                        continue;
                    }
                    Tutorial.check(results[call] == null, name + ": answered once only");
                    results[call] = Long.valueOf(Tutorial.text(answer));
                }
                Tutorial.equal(1, strangers, name + ": answers to ignore");
                return List.of(results);
            }
        };
    }
}
