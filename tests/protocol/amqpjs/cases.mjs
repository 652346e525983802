// Drives a node with amqplib: node cases.mjs PORT. Ends with 1 and says why at the first case that fails.
import assert from 'node:assert/strict';
import amqp from 'amqplib';

const url = `amqp://guest:guest@127.0.0.1:${process.argv[2]}`;

const next = (channel, queue, options) =>
  new Promise((resolve, reject) => {
    channel.consume(queue, (message) => (message ? resolve(message) : reject(new Error('cancelled'))), options).catch(reject);
  });

const cases = {
  async 'confirms, properties and headers'(connection) {
    const channel = await connection.createConfirmChannel();
    const { queue } = await channel.assertQueue('', { exclusive: true });
    const sent = {
      contentType: 'application/json', persistent: true, correlationId: 'c', replyTo: queue, messageId: 'm',
      timestamp: 1700000000, type: 't', appId: 'a', headers: { site: 'north', level: 3, deep: { list: [1, 'two'] } },
    };
    channel.sendToQueue(queue, Buffer.from('{}'), sent);
    await channel.waitForConfirms();
    const got = await next(channel, queue, { noAck: true });
    assert.equal(got.content.toString(), '{}');
    assert.deepEqual(got.properties.headers, sent.headers);
    assert.equal(got.properties.deliveryMode, 2);
    for (const name of ['contentType', 'correlationId', 'replyTo', 'messageId', 'timestamp', 'type', 'appId']) {
      assert.equal(got.properties[name], sent[name], name);
    }
  },
  async 'ten thousand messages in order with a prefetch'(connection) {
    const channel = await connection.createConfirmChannel();
    await channel.assertQueue('many', { durable: true });
    await channel.prefetch(200);
    const count = 10000;
    const all = new Promise((resolve, reject) => {
      let expected = 0;
      channel.consume('many', (message) => {
        if (Number(message.content) !== expected++) reject(new Error(`${message.content} for ${expected - 1}`));
        channel.ack(message);
        if (expected === count) resolve();
      });
    });
    for (let n = 0; n < count; n++) channel.sendToQueue('many', Buffer.from(String(n)), { persistent: true });
    await channel.waitForConfirms();
    await all;
  },
  async 'returns, get and nack'(connection) {
    const channel = await connection.createConfirmChannel();
    const returned = new Promise((resolve) => channel.on('return', resolve));
    channel.publish('amq.direct', 'nowhere', Buffer.from('x'), { mandatory: true });
    assert.equal((await returned).fields.replyCode, 312);
    await channel.assertQueue('g');
    assert.equal(await channel.get('g'), false);
    channel.sendToQueue('g', Buffer.from('x'));
    await channel.waitForConfirms();
    const message = await channel.get('g');
    channel.nack(message);
    const again = await channel.get('g');
    assert.ok(again.fields.redelivered);
    channel.ack(again);
    assert.deepEqual(await channel.deleteQueue('g'), { messageCount: 0 });
  },
  async 'errors close the channel and not the connection'(connection) {
    const channel = await connection.createChannel();
    channel.on('error', () => {});
    await assert.rejects(channel.checkQueue('none'), /404 \(NOT-FOUND\).*no queue 'none' in vhost '\/'/);
    await (await connection.createChannel()).assertExchange('x', 'headers');
  },
};

const connection = await amqp.connect(url);
for (const [name, run] of Object.entries(cases)) {
  await run(connection);
  console.log(`ok ${name}`);
}
await connection.close();
