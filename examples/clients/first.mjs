// SPDX-License-Identifier: Apache-2.0
// A first client with plain AMQP and JSON-RPC 2.0:  npm install amqplib && node first.mjs "$(xenops-cli where --json)"
import amqp from "amqplib";

const where = JSON.parse(process.argv[2]);
const connection = await amqp.connect(where.amqp);
const channel = await connection.createChannel();
const waiting = new Map();
const REPLIES = "amq.rabbitmq.reply-to";
await channel.consume(REPLIES, (m) => waiting.get(m.properties.correlationId)(JSON.parse(m.content)), { noAck: true });

async function call(method, params = {}) {
  const id = String(waiting.size + 1);
  const properties = { contentType: "application/json", replyTo: REPLIES, correlationId: id, messageId: `${process.pid}-${id}` };
  const reply = new Promise((resolve) => waiting.set(id, resolve));
  channel.sendToQueue(where.queue, Buffer.from(JSON.stringify({ jsonrpc: "2.0", id, method, params })), properties);
  const { result, error } = await reply;
  if (error) throw new Error(`${error.data.name}: ${error.message}`);
  return result;
}

const finished = async (task) => {
  const { state } = await call("Task.wait", { id: await task, timeout: 60 });
  if (state.type !== "Completed") throw new Error(JSON.stringify(state));
};

console.log("queue", (await call("query")).queue);
await call("VM.add", { vm: { id: "first", name: "first", ty: { type: "HVM" } } });
await finished(call("VM.start", { id: "first", paused: false }));
console.log("first is", (await call("VM.stat", { id: "first" })).state.power_state);
await finished(call("VM.shutdown", { id: "first" }));
await call("VM.remove", { id: "first" });
await connection.close();
