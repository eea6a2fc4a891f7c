// SPDX-License-Identifier: Apache-2.0
// A first client with plain AMQP and JSON-RPC 2.0:  npm install amqplib && node first.mjs "$(xenops-cli where --json)"
import { randomUUID } from "node:crypto";
import amqp from "amqplib";

const where = JSON.parse(process.argv[2]);
const connection = await amqp.connect(where.amqp);
const channel = await connection.createChannel();
const replyTo = "amq.rabbitmq.reply-to";
const waiting = new Map();
await channel.consume(replyTo, (m) => waiting.get(m.properties.correlationId)(JSON.parse(m.content)), { noAck: true });

async function call(method, params = {}) {
  const id = randomUUID();
  const reply = new Promise((resolve) => waiting.set(id, resolve));
  const request = Buffer.from(JSON.stringify({ jsonrpc: "2.0", id, method, params }));
  channel.sendToQueue(where.queue, request, { contentType: "application/json", replyTo, correlationId: id, messageId: id });
  const { result, error } = await reply;
  if (error) throw new Error(error.message);
  return result;
}

await call("VM.add", { vm: { id: "first", name: "first", ty: { type: "HVM" } } });
await call("Task.wait", { id: await call("VM.start", { id: "first", paused: false }) });
console.log("first is", (await call("VM.stat", { id: "first" })).state.power_state);
await call("Task.wait", { id: await call("VM.shutdown", { id: "first" }) });
await call("VM.remove", { id: "first" });
await connection.close();
