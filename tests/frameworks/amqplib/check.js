// amqplib, the client for Node.js, against the broker named by AMQP_URL: `check.js SCENARIO`; the exit status says
// whether all held.

'use strict';

const assert = require('node:assert/strict');
const { once } = require('node:events');
const amqp = require('amqplib');

// Whoever waits longer than this has lost a message.
const PATIENCE = 30_000;

/** The next `count` values given to `take`, in order. */
class Inbox {
  constructor() {
    this.values = [];
    this.waiting = null;
    this.take = (value) => {
      this.values.push(value);
      if (this.waiting && this.values.length >= this.waiting.count) this.waiting.resolve();
    };
  }

  async next(count) {
    if (this.values.length < count) {
      await new Promise((resolve) => (this.waiting = { count, resolve }));
      this.waiting = null;
    }
    return this.values.splice(0, count);
  }
}

const text = (message) => message.content.toString();

/** What a channel is closed with by the broker. */
async function failure(connection, act) {
  const channel = await connection.createChannel();
  const closed = once(channel, 'error');
  const refused = assert.rejects(act(channel));
  const [error] = await closed;
  await refused;
  const words = error.message.match(/with message "(.*)"$/);
  return [error.code, error.classId, error.methodId, words && words[1]];
}

const scenarios = {
  /** Every publish is confirmed, many at once, after it has been returned if it could not be routed. */
  async confirms(connection) {
    const channel = await connection.createConfirmChannel();
    const { queue } = await channel.assertQueue('', { exclusive: true, durable: true });
    const order = [];
    let coalesced = 0;
    channel.on('ack', ({ multiple }) => (coalesced += multiple));
    const count = 2_000;
    for (let number = 0; number < count; number += 1) {
      channel.sendToQueue(queue, Buffer.from(String(number)), { persistent: true }, (error) => {
        order.push(error || number);
      });
    }
    await channel.waitForConfirms();
    assert.deepEqual([...order].sort((a, b) => a - b), [...Array(count).keys()], 'each is confirmed once');
    assert.ok(coalesced > 0, 'some confirms are for several publishes');
    assert.equal((await channel.checkQueue(queue)).messageCount, count);

    const heard = [];
    channel.on('return', (message) => heard.push(`return ${message.fields.replyCode} ${text(message)}`));
    await new Promise((resolve) => {
      channel.publish('', 'no.such.queue', Buffer.from('lost'), { mandatory: true }, (error) => {
        heard.push(`confirm ${error}`);
        resolve();
      });
    });
    assert.deepEqual(heard, ['return 312 lost', 'confirm null']);

    const full = await channel.assertQueue('', {
      exclusive: true,
      maxLength: 1,
      arguments: { 'x-overflow': 'reject-publish' },
    });
    const outcome = () =>
      new Promise((resolve) => {
        channel.sendToQueue(full.queue, Buffer.from('one'), {}, (error) => resolve(error ? error.message : 'taken'));
      });
    assert.deepEqual([await outcome(), await outcome()], ['taken', 'message nacked']);
  },

  /** A consumer has no more unacked than its prefetch, a channel no more than its own. */
  async prefetch(connection) {
    const channel = await connection.createChannel();
    const { queue } = await channel.assertQueue('', { exclusive: true });
    for (let number = 0; number < 10; number += 1) channel.sendToQueue(queue, Buffer.from(String(number)));
    await channel.prefetch(3);
    const inbox = new Inbox();
    await channel.consume(queue, inbox.take);
    const first = await inbox.next(3);
    // Whatever else had been delivered would have come before this answer.
    assert.equal((await channel.checkQueue(queue)).messageCount, 7);
    assert.equal(inbox.values.length, 0);
    channel.ack(first[1], true);
    const second = await inbox.next(2);
    channel.nack(second[0]);
    const again = await inbox.next(1);
    assert.deepEqual([...first, ...second, ...again].map(text), ['0', '1', '2', '3', '4', '3']);
    assert.deepEqual([second[0], again[0]].map((message) => message.fields.redelivered), [false, true]);

    const shared = await connection.createChannel();
    await shared.prefetch(4, true);
    const boxes = [new Inbox(), new Inbox()];
    await shared.consume(queue, boxes[0].take, { consumerTag: 'a' });
    await shared.consume(queue, boxes[1].take, { consumerTag: 'b' });
    await shared.checkQueue(queue);
    assert.equal(boxes[0].values.length + boxes[1].values.length, 4, 'both consumers share one limit');
    await channel.close();
    assert.equal((await shared.checkQueue(queue)).messageCount, 4, 'what the closed channel had is back');
    shared.ackAll();
    await until(() => boxes[0].values.length + boxes[1].values.length === 8);
  },

  /** Whoever consumes from a queue that is deleted is told so: the callback gets null. */
  async cancelled(connection) {
    const channel = await connection.createChannel();
    const own = await channel.assertQueue('', { exclusive: true });
    const inbox = new Inbox();
    await channel.consume(own.queue, inbox.take);
    await channel.deleteQueue(own.queue);
    assert.deepEqual(await inbox.next(1), [null], 'deleted by the channel itself');

    const name = `amqplib.cancelled.${process.pid}`;
    await channel.assertQueue(name, { durable: false });
    await channel.consume(name, inbox.take, { consumerTag: 'tag' });
    const other = await amqp.connect(process.env.AMQP_URL);
    await (await other.createChannel()).deleteQueue(name);
    assert.deepEqual(await inbox.next(1), [null], 'deleted by another connection');
    await other.close();

    // The tag is free again, and the channel works as before.
    const next = await channel.assertQueue('', { exclusive: true, autoDelete: true });
    await channel.consume(next.queue, inbox.take, { consumerTag: 'tag' });
    channel.sendToQueue(next.queue, Buffer.from('still here'));
    assert.deepEqual((await inbox.next(1)).map(text), ['still here']);
    await channel.cancel('tag');
    const gone = await failure(connection, (asking) => asking.checkQueue(next.queue));
    assert.equal(gone[0], 404, 'auto-delete at the last cancel');
  },

  /** What can't be routed comes back as it was, before anything that is asked afterwards. */
  async returns(connection) {
    const channel = await connection.createChannel();
    const back = new Inbox();
    channel.on('return', back.take);
    const { exchange } = await channel.assertExchange(`amqplib.returns.${process.pid}`, 'headers', {
      autoDelete: true,
      durable: false,
    });
    const headers = { word: 'text', list: [1, 'two', { three: 3.5 }], yes: true, nothing: null };
    const options = { mandatory: true, messageId: 'one', priority: 4, timestamp: 1_000_000, headers };
    channel.publish(exchange, 'key', Buffer.from('body'), options);
    await channel.checkExchange(exchange);
    assert.equal(back.values.length, 1);
    const { fields, properties, content } = back.values[0];
    assert.deepEqual(fields, { replyCode: 312, replyText: 'NO_ROUTE', exchange, routingKey: 'key' });
    assert.equal(content.toString(), 'body');
    assert.deepEqual(properties.headers, headers);
    assert.deepEqual([properties.messageId, properties.priority, properties.timestamp], ['one', 4, 1_000_000]);
    assert.equal(properties.contentType, undefined);

    const { queue } = await channel.assertQueue('', { exclusive: true });
    await channel.bindQueue(queue, exchange, '', { 'x-match': 'any', word: 'text', other: 1 });
    channel.publish(exchange, 'key', Buffer.from('routed'), options);
    assert.equal(text(await channel.get(queue, { noAck: true })), 'routed');
    assert.equal(await channel.get(queue), false);
    assert.equal(back.values.length, 1);
  },

  /** An error closes its channel with code, class and method; the connection and its other channels go on. */
  async errors(connection) {
    const bystander = await connection.createChannel();
    const name = `amqplib.errors.${process.pid}`;
    await bystander.assertQueue(name, { durable: false, messageTtl: 60_000 });
    await bystander.assertExchange(name, 'direct', { durable: false });

    const inequivalent = (what, kind, difference) =>
      `PRECONDITION_FAILED - inequivalent arg '${what}' for ${kind} '${name}' in vhost '/': ${difference}`;
    assert.deepEqual(
      await failure(connection, (channel) => channel.assertQueue(name, { durable: true, messageTtl: 60_000 })),
      [406, 50, 10, inequivalent('durable', 'queue', "received 'true' but current is 'false'")],
    );
    assert.deepEqual(
      await failure(connection, (channel) => channel.assertQueue(name, { durable: false, messageTtl: 1 })),
      [406, 50, 10, inequivalent('x-message-ttl', 'queue', "received '1' but current is '60000'")],
    );
    assert.deepEqual(
      await failure(connection, (channel) => channel.assertExchange(name, 'fanout', { durable: false })),
      [406, 40, 10, inequivalent('type', 'exchange', "received 'fanout' but current is 'direct'")],
    );
    const missing = (kind) => `NOT_FOUND - no ${kind} 'amqplib.missing' in vhost '/'`;
    assert.deepEqual(
      await failure(connection, (channel) => channel.checkQueue('amqplib.missing')),
      [404, 50, 10, missing('queue')],
    );
    assert.deepEqual(
      await failure(connection, (channel) => channel.get('amqplib.missing')),
      [404, 60, 70, missing('queue')],
    );
    assert.deepEqual(
      await failure(connection, (channel) => {
        channel.publish('amqplib.missing', '', Buffer.from('x'));
        // An answer to this never comes.
        return channel.checkQueue(name);
      }),
      [404, 60, 40, missing('exchange')],
    );
    assert.deepEqual(
      await failure(connection, (channel) => {
        channel.ack({ fields: { deliveryTag: 82 } });
        return channel.checkQueue(name);
      }),
      [406, 60, 80, 'PRECONDITION_FAILED - unknown delivery tag 82'],
    );

    // Equivalent declarations are none of these, and nobody else has noticed anything.
    await bystander.assertQueue(name, { durable: false, messageTtl: 60_000 });
    await bystander.deleteQueue(name);
    await bystander.deleteExchange(name);
  },
};

async function until(condition) {
  while (!condition()) await new Promise((resolve) => setTimeout(resolve, 5));
}

async function main() {
  const [name] = process.argv.slice(2);
  const late = setTimeout(() => {
    console.error(`${name}: nothing happened for ${PATIENCE} ms`);
    process.exit(1);
  }, PATIENCE);
  const connection = await amqp.connect(process.env.AMQP_URL);
  await scenarios[name](connection);
  await connection.close();
  clearTimeout(late);
  console.log(`${name}: all checks passed`);
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
