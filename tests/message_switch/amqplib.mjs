// SPDX-License-Identifier: Apache-2.0
// amqplib, unmodified: `node amqplib.mjs URL` does what a client may do, and then idles until a line comes on standard input.
import assert from "node:assert/strict";
import { once } from "node:events";
import amqp from "amqplib";

const REPLY_TO = "amq.rabbitmq.reply-to";
const connection = await amqp.connect(process.argv[2] + "?heartbeat=1");
const channel = await connection.createConfirmChannel();

// What the broker sends of its own accord, as promises.
function inbox() {
  const come = [], wanted = [];
  return {
    put: (it) => (wanted.length ? wanted.shift()(it) : come.push(it)),
    next: () => (come.length ? Promise.resolve(come.shift()) : new Promise((resolve) => wanted.push(resolve))),
  };
}

// Declare, publish with confirms, consume, give back.
const { queue } = await channel.assertQueue("", { exclusive: true, maxPriority: 3 });
await channel.assertExchange("amqplib-topic", "topic", { autoDelete: true });
await channel.assertExchange("amqplib-entry", "fanout", { autoDelete: true });
await channel.bindExchange("amqplib-topic", "amqplib-entry");
await channel.bindQueue(queue, "amqplib-topic", "host.#");
await channel.prefetch(1);
for (const body of ["a", "b"]) channel.publish("amqplib-entry", "host.vm", Buffer.from(body), { persistent: true, headers: { n: 1 } });
await channel.waitForConfirms();
const messages = inbox();
await channel.consume(queue, messages.put);
for (const [body, redelivered] of [["a", false], ["a", true], ["b", false]]) {
  const message = await messages.next();
  assert.deepEqual([message.content.toString(), message.fields.redelivered], [body, redelivered]);
  assert.equal(message.properties.headers.n, 1);
  if (body === "a" && !redelivered) channel.nack(message, false, true);
  else channel.ack(message);
}
console.log("consumed");

// A full queue refuses.
const full = await channel.assertQueue("", { exclusive: true, maxLength: 0, arguments: { "x-overflow": "reject-publish" } });
await assert.rejects(new Promise((resolve, reject) =>
  channel.sendToQueue(full.queue, Buffer.from("1"), {}, (error) => (error ? reject(error) : resolve()))));
console.log("refused");

// What nobody is there for comes back.
const returned = once(channel, "return");
channel.publish("", "amqplib-nobody", Buffer.from("lost"), { mandatory: true });
const [back] = await returned;
assert.deepEqual([back.fields.replyCode, back.content.toString()], [312, "lost"]);
console.log("returned");

// A call with a direct reply.
const replies = inbox();
const requests = await channel.assertQueue("", { exclusive: true });
await channel.consume(requests.queue, ({ content, properties }) =>
  channel.sendToQueue(properties.replyTo, Buffer.concat([content, Buffer.from("!")]), { correlationId: properties.correlationId }),
  { noAck: true });
await channel.consume(REPLY_TO, replies.put, { noAck: true });
channel.sendToQueue(requests.queue, Buffer.from("x"), { replyTo: REPLY_TO, correlationId: "7" });
const reply = await replies.next();
assert.deepEqual([reply.content.toString(), reply.properties.correlationId], ["x!", "7"]);
console.log("replied");

// A consumer is told when its queue goes.
const last = inbox();
await channel.assertQueue("amqplib-goes", { durable: true });
await channel.consume("amqplib-goes", last.put);
await channel.deleteQueue("amqplib-goes");
assert.equal(await last.next(), null);
console.log("cancelled");

// Heartbeats keep an idle connection.
await once(process.stdin, "data");
assert.ok((await channel.assertQueue("", { exclusive: true })).queue.startsWith("amq.gen-"));
console.log("alive");
await connection.close();
process.stdin.unref();
