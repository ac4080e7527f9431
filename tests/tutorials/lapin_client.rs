//! With lapin, the Rust client: one connection per role, as separate programs would have.

use crate::Broker;
use lapin::options::{
    BasicAckOptions, BasicConsumeOptions, BasicGetOptions, BasicPublishOptions, BasicQosOptions, ConfirmSelectOptions,
    ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions,
};
use lapin::types::{FieldTable, ShortString};
use lapin::{
    BasicProperties, Channel, Confirmation, Connection, ConnectionProperties, Consumer, ExchangeKind, message::Delivery,
};
use std::time::Duration;
use tokio::time::timeout;
use tokio_stream::StreamExt;

/// Nothing in a tutorial takes long; whoever waits longer than this has lost a message.
const PATIENCE: Duration = Duration::from_secs(30);
/// The last message of a queue, so that a reader knows that nothing else was in front of it.
const END: &str = "END";

/// One program of a tutorial: a connection of its own and a channel.
struct Role {
    connection: Connection,
    channel: Channel,
}

impl Role {
    async fn new(broker: &Broker) -> Role {
        let connection = Connection::connect(&broker.url(), ConnectionProperties::default()).await.unwrap();
        let channel = connection.create_channel().await.unwrap();
        Role { connection, channel }
    }

    async fn declare(&self, queue: &str, options: QueueDeclareOptions) -> ShortString {
        let queue = self.channel.queue_declare(queue.into(), options, FieldTable::default()).await.unwrap();
        queue.name().clone()
    }

    async fn exchange(&self, exchange: &str, kind: ExchangeKind) {
        let options = ExchangeDeclareOptions::default();
        self.channel.exchange_declare(exchange.into(), kind, options, FieldTable::default()).await.unwrap();
    }

    /// A queue named by the broker, for this connection only, bound with these keys.
    async fn subscribe(&self, exchange: &str, keys: &[&str]) -> ShortString {
        let queue = self.declare("", QueueDeclareOptions::exclusive()).await;
        assert!(queue.as_str().starts_with("amq.gen-"), "the broker names the queue: {queue}");
        for key in keys {
            let (queue, options) = (queue.clone(), QueueBindOptions::default());
            let arguments = FieldTable::default();
            self.channel.queue_bind(queue, exchange.into(), (*key).into(), options, arguments).await.unwrap();
        }
        queue
    }

    async fn consume(&self, queue: &str, no_ack: bool) -> Inbox {
        let options = BasicConsumeOptions { no_ack, ..BasicConsumeOptions::default() };
        let consumer =
            self.channel.basic_consume(queue.into(), "".into(), options, FieldTable::default()).await.unwrap();
        Inbox(consumer)
    }

    /// Publishes, and waits for the confirm if the channel has been asked for confirms.
    async fn publish(&self, exchange: &str, key: &str, text: &str) -> Confirmation {
        self.publish_with(exchange, key, text, BasicProperties::default()).await
    }

    async fn publish_with(&self, exchange: &str, key: &str, text: &str, properties: BasicProperties) -> Confirmation {
        let options = BasicPublishOptions::default();
        let published =
            self.channel.basic_publish(exchange.into(), key.into(), options, text.as_bytes(), properties).await;
        timeout(PATIENCE, published.unwrap()).await.expect("a confirm in time").unwrap()
    }

    async fn confirm_select(&self) {
        self.channel.confirm_select(ConfirmSelectOptions::default()).await.unwrap();
    }

    /// Ready messages of a queue, asked of the broker.
    async fn ready(&self, queue: &str) -> u32 {
        let options = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
        let queue = self.channel.queue_declare(queue.into(), options, FieldTable::default()).await.unwrap();
        queue.message_count()
    }

    async fn leave(self) {
        self.connection.close(200, "done".into()).await.unwrap();
    }
}

/// The deliveries of one consumer.
struct Inbox(Consumer);

impl Inbox {
    async fn next(&mut self) -> Delivery {
        let next = timeout(PATIENCE, self.0.next()).await.expect("a delivery in time");
        next.expect("the consumer is still there").unwrap()
    }

    /// The next task, acknowledged at once.
    async fn take(&mut self) -> String {
        let delivery = self.next().await;
        delivery.ack(BasicAckOptions::default()).await.unwrap();
        text(&delivery)
    }

    /// Everything in front of the END message.
    async fn until_end(&mut self) -> Vec<String> {
        let mut texts = Vec::new();
        loop {
            match text(&self.next().await) {
                end if end == END => return texts,
                other => texts.push(other),
            }
        }
    }
}

fn text(delivery: &Delivery) -> String {
    String::from_utf8(delivery.data.clone()).unwrap()
}

fn persistent() -> BasicProperties {
    BasicProperties::default().with_delivery_mode(2)
}

#[tokio::test]
async fn lapin_1_hello() {
    let broker = Broker::start(&[]);
    let (producer, consumer) = (Role::new(&broker).await, Role::new(&broker).await);
    producer.declare("hello", QueueDeclareOptions::default()).await;
    consumer.declare("hello", QueueDeclareOptions::default()).await;
    let mut inbox = consumer.consume("hello", true).await;

    producer.publish("", "hello", "Hello World!").await;

    let delivery = inbox.next().await;
    assert_eq!(text(&delivery), "Hello World!");
    assert_eq!((delivery.exchange.as_str(), delivery.routing_key.as_str()), ("", "hello"));
    assert!(!delivery.redelivered);
    assert_eq!(consumer.ready("hello").await, 0);
}

#[tokio::test]
async fn lapin_2_work_queues() {
    let broker = Broker::start(&[]);
    let boss = Role::new(&broker).await;
    boss.declare("tasks", QueueDeclareOptions::durable()).await;
    boss.confirm_select().await;

    // Round robin: with automatic acknowledgement each of two workers gets every second task.
    let (one, two) = (Role::new(&broker).await, Role::new(&broker).await);
    let (mut first, mut second) = (one.consume("tasks", true).await, two.consume("tasks", true).await);
    for n in 1..=6 {
        boss.publish_with("", "tasks", &format!("task {n}"), persistent()).await;
    }
    for n in [1, 3, 5] {
        assert_eq!(text(&first.next().await), format!("task {n}"));
    }
    for n in [2, 4, 6] {
        assert_eq!(text(&second.next().await), format!("task {n}"));
    }
    one.leave().await;
    two.leave().await;

    // A worker that goes before it acknowledges: its task goes to another, marked.
    let (doomed, healthy) = (Role::new(&broker).await, Role::new(&broker).await);
    let mut dying = doomed.consume("tasks", false).await;
    boss.publish_with("", "tasks", "never lost", persistent()).await;
    assert!(!dying.next().await.redelivered);
    let mut saving = healthy.consume("tasks", false).await;
    doomed.leave().await;
    let again = saving.next().await;
    assert_eq!((text(&again).as_str(), again.redelivered), ("never lost", true));
    again.ack(BasicAckOptions::default()).await.unwrap();
    healthy.leave().await;

    // Fair dispatch: with prefetch 1 a busy worker gets nothing new; whoever is free does the rest.
    let (busy, free) = (Role::new(&broker).await, Role::new(&broker).await);
    busy.channel.basic_qos(1, BasicQosOptions::default()).await.unwrap();
    free.channel.basic_qos(1, BasicQosOptions::default()).await.unwrap();
    let mut busy_inbox = busy.consume("tasks", false).await;
    boss.publish_with("", "tasks", "heavy", persistent()).await;
    let heavy = busy_inbox.next().await;
    assert_eq!(text(&heavy), "heavy");
    let mut free_inbox = free.consume("tasks", false).await;
    for n in 1..=5 {
        boss.publish_with("", "tasks", &format!("light {n}"), persistent()).await;
    }
    for n in 1..=5 {
        assert_eq!(free_inbox.take().await, format!("light {n}"));
    }
    heavy.ack(BasicAckOptions::default()).await.unwrap();
    // The replies come behind the acks.
    assert_eq!(busy.ready("tasks").await, 0);
    assert_eq!(free.ready("tasks").await, 0);
}

#[tokio::test]
async fn lapin_3_publish_subscribe() {
    let broker = Broker::start(&[]);
    let logs = Role::new(&broker).await;
    logs.exchange("logs", ExchangeKind::Fanout).await;
    // Confirmed means routed: who subscribes after a confirm must not see the line.
    logs.confirm_select().await;
    logs.publish("logs", "", "nobody listens").await;

    let (screen, file, late) = (Role::new(&broker).await, Role::new(&broker).await, Role::new(&broker).await);
    let screen_queue = screen.subscribe("logs", &[""]).await;
    let file_queue = file.subscribe("logs", &["ignored by a fanout exchange"]).await;
    logs.publish("logs", "", "two listen").await;
    logs.publish("logs", "any key", "still two").await;
    let late_queue = late.subscribe("logs", &[""]).await;
    logs.publish("logs", "", "three listen").await;
    for queue in [&screen_queue, &file_queue, &late_queue] {
        logs.publish("", queue.as_str(), END).await;
    }

    let all = ["two listen", "still two", "three listen"];
    assert_eq!(screen.consume(screen_queue.as_str(), true).await.until_end().await, all);
    assert_eq!(file.consume(file_queue.as_str(), true).await.until_end().await, all);
    assert_eq!(late.consume(late_queue.as_str(), true).await.until_end().await, ["three listen"]);
}

#[tokio::test]
async fn lapin_4_routing() {
    let broker = Broker::start(&[]);
    let (logs, disk, screen) = (Role::new(&broker).await, Role::new(&broker).await, Role::new(&broker).await);
    logs.exchange("direct_logs", ExchangeKind::Direct).await;
    let disk_queue = disk.subscribe("direct_logs", &["error"]).await;
    let screen_queue = screen.subscribe("direct_logs", &["info", "warning", "error"]).await;
    let mut on_disk = disk.consume(disk_queue.as_str(), true).await;
    let mut on_screen = screen.consume(screen_queue.as_str(), true).await;

    for severity in ["info", "error", "debug", "warning", "error", "Error", "info.error"] {
        logs.publish("direct_logs", severity, severity).await;
    }
    logs.publish("", disk_queue.as_str(), END).await;
    logs.publish("", screen_queue.as_str(), END).await;
    assert_eq!(on_disk.until_end().await, ["error", "error"]);
    assert_eq!(on_screen.until_end().await, ["info", "error", "warning", "error"]);

    let arguments = FieldTable::default();
    screen.channel.queue_unbind(screen_queue.clone(), "direct_logs".into(), "error".into(), arguments).await.unwrap();
    logs.publish("direct_logs", "error", "for the disk only").await;
    logs.publish("", disk_queue.as_str(), END).await;
    logs.publish("", screen_queue.as_str(), END).await;
    assert_eq!(on_disk.until_end().await, ["for the disk only"]);
    assert_eq!(on_screen.until_end().await, [""; 0]);
}

#[tokio::test]
async fn lapin_5_topics() {
    let broker = Broker::start(&[]);
    let (logs, receiver) = (Role::new(&broker).await, Role::new(&broker).await);
    logs.exchange("topic_logs", ExchangeKind::Topic).await;
    let keys = [
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
        "",
    ];
    let expected: [(&[&str], Vec<&str>); 6] = [
        (&["*.orange.*"], keys[0..3].to_vec()),
        // Two patterns may match the same message: one copy all the same.
        (&["*.*.rabbit", "lazy.#"], vec![keys[0], keys[1], keys[3], keys[4], keys[8], keys[9]]),
        (&["#"], keys.to_vec()),
        (&["*"], vec!["orange", "lazy"]),
        (&["quick.orange.rabbit"], vec!["quick.orange.rabbit"]),
        (&["#.rabbit"], vec![keys[0], keys[4], keys[7], keys[8]]),
    ];
    let mut queues = Vec::new();
    for (patterns, _) in &expected {
        queues.push(receiver.subscribe("topic_logs", patterns).await);
    }
    for key in keys {
        logs.publish("topic_logs", key, key).await;
    }
    for queue in &queues {
        logs.publish("", queue.as_str(), END).await;
    }
    for ((patterns, matches), queue) in expected.iter().zip(&queues) {
        let mut inbox = receiver.consume(queue.as_str(), true).await;
        assert_eq!(&inbox.until_end().await, matches, "{patterns:?}");
    }
}

#[tokio::test]
async fn lapin_6_rpc() {
    let broker = Broker::start(&[]);
    let server = Role::new(&broker).await;
    server.declare("rpc_queue", QueueDeclareOptions::default()).await;
    server.channel.basic_qos(1, BasicQosOptions::default()).await.unwrap();
    let mut requests = server.consume("rpc_queue", false).await;
    let serving = tokio::spawn(async move {
        for _ in 0..3 * 12 {
            let request = requests.next().await;
            let n: u32 = text(&request).parse().unwrap();
            let reply_to = request.properties.reply_to().clone().unwrap();
            let call = request.properties.correlation_id().clone().unwrap();
            let properties = BasicProperties::default().with_correlation_id(call);
            server.publish_with("", reply_to.as_str(), &fibonacci(n).to_string(), properties).await;
            request.ack(BasicAckOptions::default()).await.unwrap();
        }
        assert_eq!(server.ready("rpc_queue").await, 0);
    });

    let clients = [(); 3].map(|()| Role::new(&broker));
    let mut calling = Vec::new();
    for client in clients {
        calling.push(tokio::spawn(call_twelve(client.await)));
    }
    for client in calling {
        assert_eq!(client.await.unwrap(), [0, 1, 1, 2, 3, 5, 8, 13, 21, 34, 55, 89]);
    }
    serving.await.unwrap();
}

fn fibonacci(n: u32) -> u64 {
    if n < 2 { u64::from(n) } else { fibonacci(n - 1) + fibonacci(n - 2) }
}

/// Sends all its calls at once and matches the answers by correlation id.
async fn call_twelve(client: Role) -> Vec<u64> {
    let callback = client.declare("", QueueDeclareOptions::exclusive()).await;
    let mut inbox = client.consume(callback.as_str(), true).await;
    let stranger = BasicProperties::default().with_correlation_id("stranger".into());
    client.publish_with("", callback.as_str(), "an answer nobody asked for", stranger).await;
    for n in 0..12 {
        let properties =
            BasicProperties::default().with_correlation_id(format!("call {n}").into()).with_reply_to(callback.clone());
        client.publish_with("", "rpc_queue", &n.to_string(), properties).await;
    }
    let mut answers = vec![None; 12];
    let mut strangers = 0;
    for _ in 0..=answers.len() {
        let answer = inbox.next().await;
        let call = answer.properties.correlation_id().clone().unwrap();
        match call.as_str().strip_prefix("call ").and_then(|n| n.parse::<usize>().ok()) {
            Some(n) => assert_eq!(answers[n].replace(text(&answer).parse().unwrap()), None, "answered once only"),
            None => strangers += 1,
        }
    }
    assert_eq!(strangers, 1);
    answers.into_iter().map(Option::unwrap).collect()
}

#[tokio::test]
async fn lapin_7_publisher_confirms() {
    const EACH: u32 = 1000;
    let broker = Broker::start(&[]);
    let publisher = Role::new(&broker).await;
    publisher.declare("confirmed", QueueDeclareOptions::durable()).await;
    publisher.confirm_select().await;
    let mut number = 0..;

    // One by one.
    for n in number.by_ref().take(100) {
        let confirm = publisher.publish_with("", "confirmed", &n.to_string(), persistent()).await;
        assert_eq!(confirm, Confirmation::Ack(None));
    }
    // In batches: the confirms that nobody awaits are gathered by the channel.
    for batch in 0..EACH / 100 {
        for n in number.by_ref().take(100) {
            drop(send(&publisher, n).await);
        }
        let returned = timeout(PATIENCE, publisher.channel.wait_for_confirms()).await.expect("confirms in time");
        assert!(returned.unwrap().is_empty(), "batch {batch} is routed");
    }
    // As they come: everything is sent before the first confirm is looked at.
    let mut waiting = Vec::new();
    for n in number.by_ref().take(EACH as usize) {
        waiting.push(send(&publisher, n).await);
    }
    for confirm in waiting {
        assert_eq!(timeout(PATIENCE, confirm).await.expect("a confirm in time").unwrap(), Confirmation::Ack(None));
    }
    // A mandatory message that no queue takes comes back, and is confirmed.
    let mandatory = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
    let nowhere = publisher.channel.basic_publish("".into(), "nowhere".into(), mandatory, b"", persistent()).await;
    let Confirmation::Ack(Some(returned)) = nowhere.unwrap().await.unwrap() else {
        panic!("confirmed with the returned message");
    };
    assert_eq!((returned.reply_code, returned.reply_text.as_str()), (312, "NO_ROUTE"));

    // Everything confirmed is in the queue: once, in order.
    let total = 100 + 2 * EACH;
    assert_eq!(publisher.ready("confirmed").await, total);
    let get = BasicGetOptions { no_ack: true };
    for n in 0..total {
        let message = publisher.channel.basic_get("confirmed".into(), get).await.unwrap().expect("a message");
        assert_eq!(message.delivery.data, n.to_string().as_bytes());
        assert_eq!(message.message_count, total - n - 1);
    }
    assert!(publisher.channel.basic_get("confirmed".into(), get).await.unwrap().is_none());
}

async fn send(publisher: &Role, n: u32) -> lapin::PublisherConfirm {
    let options = BasicPublishOptions::default();
    let (key, body) = ("confirmed".into(), n.to_string());
    publisher.channel.basic_publish("".into(), key, options, body.as_bytes(), persistent()).await.unwrap()
}
