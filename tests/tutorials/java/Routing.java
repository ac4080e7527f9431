import com.rabbitmq.client.BuiltinExchangeType;
import com.rabbitmq.client.Channel;
import com.rabbitmq.client.Connection;
import java.util.List;

/** Tutorial 4: a direct exchange delivers log lines by their severity. */
final class Routing {
    private static final String EXCHANGE = "java.direct_logs";

    public static void main(String[] args) {
        Tutorial.run("routing", () -> {
            try (Connection emitter = Tutorial.connect("emit log direct");
                 Connection disk = Tutorial.connect("disk");
                 Connection screen = Tutorial.connect("screen")) {
                Channel logs = emitter.createChannel();
                logs.exchangeDelete(EXCHANGE);
                logs.exchangeDeclare(EXCHANGE, BuiltinExchangeType.DIRECT);
                Channel onDisk = disk.createChannel();
                String diskQueue = subscribe(onDisk, "error");
                Channel onScreen = screen.createChannel();
                String screenQueue = subscribe(onScreen, "info", "warning", "error");
                Tutorial.Inbox diskInbox = new Tutorial.Inbox(onDisk, diskQueue, true);
                Tutorial.Inbox screenInbox = new Tutorial.Inbox(onScreen, screenQueue, true);

                for (String severity : List.of("info", "error", "debug", "warning", "error", "Error", "info.error")) {
                    logs.basicPublish(EXCHANGE, severity, null, Tutorial.bytes(severity + " line"));
                    System.out.println("log with severity " + severity);
                }
                logs.basicPublish("", diskQueue, null, Tutorial.bytes(Tutorial.END));
                logs.basicPublish("", screenQueue, null, Tutorial.bytes(Tutorial.END));
                Tutorial.equal(List.of("error line", "error line"), diskInbox.untilEnd(), "disk saw");
                Tutorial.equal(
                    List.of("info line", "error line", "warning line", "error line"),
                    screenInbox.untilEnd(),
                    "screen saw");

                onScreen.queueUnbind(screenQueue, EXCHANGE, "error");
                logs.basicPublish(EXCHANGE, "error", null, Tutorial.bytes("for the disk only"));
                logs.basicPublish("", diskQueue, null, Tutorial.bytes(Tutorial.END));
                logs.basicPublish("", screenQueue, null, Tutorial.bytes(Tutorial.END));
                Tutorial.equal(List.of("for the disk only"), diskInbox.untilEnd(), "disk saw after the unbind");
                Tutorial.equal(List.of(), screenInbox.untilEnd(), "screen saw after the unbind");
                logs.exchangeDelete(EXCHANGE);
            }
        });
    }

    private static String subscribe(Channel channel, String... severities) throws Exception {
        String queue = channel.queueDeclare().getQueue();
        for (String severity : severities) {
            channel.queueBind(queue, EXCHANGE, severity);
        }
        return queue;
    }
}
