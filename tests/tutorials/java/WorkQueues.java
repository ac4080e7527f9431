import com.rabbitmq.client.Channel;
import com.rabbitmq.client.Connection;
import com.rabbitmq.client.Delivery;
import com.rabbitmq.client.MessageProperties;
import java.util.ArrayList;
import java.util.List;

/** Tutorial 2: tasks shared by workers; round robin, acknowledgements, fair dispatch. */
final class WorkQueues {
    private static final String QUEUE = "java.task_queue";

    public static void main(String[] args) {
        Tutorial.run("work queues", () -> {
            try (Connection connection = Tutorial.connect("tasks")) {
                Channel tasks = connection.createChannel();
                tasks.queueDelete(QUEUE);
                tasks.queueDeclare(QUEUE, true, false, false, null);
                tasks.confirmSelect();
                roundRobin(tasks);
                killedWorker(tasks);
                fairDispatch(tasks);
                Tutorial.equal(0, Tutorial.ready(tasks, QUEUE), "tasks left at the end");
                tasks.queueDelete(QUEUE);
            }
        });
    }

    private static void newTask(Channel tasks, String task) throws Exception {
        tasks.basicPublish("", QUEUE, MessageProperties.PERSISTENT_TEXT_PLAIN, Tutorial.bytes(task));
        System.out.println("new task '" + task + "'");
    }

    /** Two workers with automatic acknowledgement get every second task each. */
    private static void roundRobin(Channel tasks) throws Exception {
        try (Connection one = Tutorial.connect("worker 1"); Connection two = Tutorial.connect("worker 2")) {
            Tutorial.Inbox first = new Tutorial.Inbox(one.createChannel(), QUEUE, true);
            Tutorial.Inbox second = new Tutorial.Inbox(two.createChannel(), QUEUE, true);
            for (int n = 1; n <= 6; n++) {
                newTask(tasks, "round robin " + n);
            }
            Tutorial.check(tasks.waitForConfirms(Tutorial.PATIENCE_SECONDS * 1000), "tasks are confirmed");
            List<String> firsts = take(first, 3);
            List<String> seconds = take(second, 3);
            Tutorial.equal(List.of("round robin 1", "round robin 3", "round robin 5"), firsts, "worker 1 did");
            Tutorial.equal(List.of("round robin 2", "round robin 4", "round robin 6"), seconds, "worker 2 did");
        }
    }

    private static List<String> take(Tutorial.Inbox inbox, int count) throws Exception {
        List<String> texts = new ArrayList<>();
        while (texts.size() < count) {
            texts.add(Tutorial.text(inbox.next()));
        }
        return texts;
    }

    /** A worker dies before it acknowledges: its task goes to another one, marked as redelivered. */
    private static void killedWorker(Channel tasks) throws Exception {
        try (Connection healthy = Tutorial.connect("healthy worker")) {
            Connection doomed = Tutorial.connect("doomed worker");
            Tutorial.Inbox dying = new Tutorial.Inbox(doomed.createChannel(), QUEUE, false);
            newTask(tasks, "never lost");
            Delivery begun = dying.next();
            Tutorial.equal(false, begun.getEnvelope().isRedeliver(), "redelivered to the first worker");
            Tutorial.Inbox saving = new Tutorial.Inbox(healthy.createChannel(), QUEUE, false);
            doomed.abort();
            Delivery again = saving.next();
            Tutorial.equal("never lost", Tutorial.text(again), "task taken over");
            Tutorial.equal(true, again.getEnvelope().isRedeliver(), "redelivered to the second worker");
            saving.ack(again);
        }
    }

    /** With prefetch 1 a busy worker gets nothing new; whoever is free does the rest. */
    private static void fairDispatch(Channel tasks) throws Exception {
        try (Connection one = Tutorial.connect("busy worker"); Connection two = Tutorial.connect("free worker")) {
            Channel busyChannel = one.createChannel();
            busyChannel.basicQos(1);
            Tutorial.Inbox busy = new Tutorial.Inbox(busyChannel, QUEUE, false);
            newTask(tasks, "heavy......");
            Delivery heavy = busy.next();
            Channel freeChannel = two.createChannel();
            freeChannel.basicQos(1);
            Tutorial.Inbox free = new Tutorial.Inbox(freeChannel, QUEUE, false);
            for (int n = 1; n <= 5; n++) {
                newTask(tasks, "light " + n);
            }
            for (int n = 1; n <= 5; n++) {
                Delivery light = free.next();
                Tutorial.equal("light " + n, Tutorial.text(light), "the free worker does");
                Tutorial.check(free.isEmpty(), "prefetch 1: no second task before the first is acknowledged");
                free.ack(light);
            }
            Tutorial.check(busy.isEmpty(), "the busy worker got nothing else meanwhile");
            busy.ack(heavy);
            // A synchronous method behind the acks: they have been processed when it returns.
            Tutorial.equal(0, Tutorial.ready(busyChannel, QUEUE), "tasks left");
            Tutorial.equal(0, Tutorial.ready(freeChannel, QUEUE), "tasks left");
        }
    }
}
