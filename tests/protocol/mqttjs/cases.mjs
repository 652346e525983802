// Drives a running node with MQTT.js, over TCP and over WebSocket as browsers do.
//
//     node cases.mjs HTTP_URL MQTT_PORT
//
// Each function of `cases` is one case, run for both versions and both transports unless it says
// otherwise; a new case is a new function. Packages are found beside this file.

import { randomUUID } from "node:crypto";
import mqtt from "mqtt";

const [http, port] = process.argv.slice(2);
// Milliseconds for what has to come. Nothing takes as long; a machine may be slow or busy.
const WAIT = 60_000;
const QUIET = 300;
const topic = (name) => `mqttjs/${randomUUID().slice(0, 8)}/${name}`;
const sleep = (ms) => new Promise((done) => setTimeout(done, ms));

function same(got, want, what = "") {
  const [a, b] = [got, want].map((v) => JSON.stringify(v));
  if (a !== b) throw new Error(`${what} ${a}, wanted ${b}`);
}

function within(promise, what, ms = WAIT) {
  let timer;
  const late = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error(`waited ${ms} ms for ${what}`)), ms);
  });
  return Promise.race([promise, late]).finally(() => clearTimeout(timer));
}

/** A client whose messages wait in a queue. */
class Client {
  static all = [];

  static async open(how, options = {}) {
    const url = how.transport === "ws" ? `${http.replace("http", "ws")}/mqtt` : `mqtt://127.0.0.1:${port}`;
    const self = new Client();
    Client.all.push(self);
    self.waiting = [];
    self.wanted = [];
    self.mqtt = mqtt.connect(url, {
      protocolVersion: how.version,
      clientId: `mqttjs-${randomUUID().slice(0, 12)}`,
      clean: true,
      reconnectPeriod: 0,
      connectTimeout: WAIT,
      ...options,
    });
    self.mqtt.on("message", (name, payload, packet) => {
      const message = { topic: name, payload, packet };
      const first = self.wanted.shift();
      first ? first(message) : self.waiting.push(message);
    });
    self.connack = await within(
      new Promise((connected, failed) => {
        self.mqtt.once("connect", connected);
        self.mqtt.once("error", failed);
      }),
      "CONNACK",
    );
    self.mqtt.on("error", () => {});
    return self;
  }

  get id() {
    return this.mqtt.options.clientId;
  }

  subscribe(filter, options = {}) {
    return within(this.mqtt.subscribeAsync(filter, { qos: 0, ...options }), "SUBACK");
  }

  publish(name, payload, options = {}) {
    return within(this.mqtt.publishAsync(name, payload, { qos: 0, ...options }), "the acknowledgement");
  }

  message() {
    const first = this.waiting.shift();
    if (first) return Promise.resolve(first);
    return within(new Promise((got) => this.wanted.push(got)), `a message to ${this.id}`);
  }

  async texts(count) {
    const all = [];
    while (all.length < count) all.push(String((await this.message()).payload));
    return all;
  }

  async nothing(ms = QUIET) {
    await sleep(ms);
    same(this.waiting.map((m) => `${m.topic} ${m.payload}`), [], "unexpected");
  }

  close() {
    return within(this.mqtt.endAsync(), "the end");
  }

  /** Ends the connection as a lost network does. */
  async breakOff() {
    const closed = new Promise((done) => this.mqtt.once("close", done));
    this.mqtt.stream.destroy();
    await within(closed, "the end of the connection");
  }
}

const expiry = (how, seconds) =>
  how.version === 5 ? { properties: { sessionExpiryInterval: seconds } } : {};

const cases = {
  async everyQosInOrder(how) {
    const name = topic("qos");
    const reader = await Client.open(how);
    const sender = await Client.open(how);
    for (const qos of [0, 1, 2]) {
      await reader.subscribe(name, { qos });
      const texts = Array.from({ length: 200 }, (_, n) => `${qos}/${n}`);
      await Promise.all(texts.map((text) => sender.publish(name, text, { qos })));
      same(await reader.texts(texts.length), texts);
    }
    await reader.nothing();
  },

  async largePayloads(how) {
    const name = topic("large");
    const client = await Client.open(how);
    await client.subscribe(name, { qos: 1 });
    for (const size of [0, 1, 127, 128, 16_383, 70_000, 1 << 20, 4 << 20]) {
      const payload = Buffer.alloc(size, "x");
      await client.publish(name, payload, { qos: 1 });
      same((await client.message()).payload.length, size);
    }
  },

  async retainedIsKeptAndRemoved(how) {
    const name = topic("retained");
    const sender = await Client.open(how);
    for (const text of ["old", "new"]) await sender.publish(name, text, { qos: 1, retain: true });
    const reader = await Client.open(how);
    await reader.subscribe(name, { qos: 1 });
    const { payload, packet } = await reader.message();
    same([String(payload), packet.retain], ["new", true]);
    await sender.publish(name, "", { qos: 1, retain: true });
    same((await reader.message()).payload.length, 0);
    const late = await Client.open(how);
    await late.subscribe(name, { qos: 1 });
    await late.nothing();
  },

  async sessionResumes(how) {
    const name = topic("session");
    const kept = { clean: false, clientId: `mqttjs-kept-${randomUUID().slice(0, 8)}`, ...expiry(how, 60) };
    const first = await Client.open(how, kept);
    same(first.connack.sessionPresent, false);
    await first.subscribe(name, { qos: 2 });
    await first.breakOff();
    const sender = await Client.open(how);
    for (const n of [0, 1, 2, 3]) await sender.publish(name, `missed ${n}`, { qos: 1 + (n % 2) });
    const again = await Client.open(how, kept);
    same(again.connack.sessionPresent, true);
    // QoS 2 is handed on when it is released, which may be after a later one of QoS 1.
    same((await again.texts(4)).sort(), [0, 1, 2, 3].map((n) => `missed ${n}`));
    await again.nothing();
    await again.close();
    await (await Client.open(how, { clientId: kept.clientId })).close();
  },

  async willOfALostConnection(how) {
    const name = topic("will");
    const reader = await Client.open(how);
    await reader.subscribe(name, { qos: 1 });
    const will = { topic: name, payload: Buffer.from("gone"), qos: 1, retain: false };
    await (await Client.open(how, { will })).breakOff();
    same(await reader.texts(1), ["gone"]);
    await (await Client.open(how, { will })).close();
    await reader.nothing();
  },

  async sharedSubscription(how) {
    const name = topic("shared");
    const members = [];
    for (let n = 0; n < 3; n += 1) {
      members.push(await Client.open(how));
      await members[n].subscribe(`$share/team/${name}`, { qos: 1 });
    }
    const sender = await Client.open(how);
    const texts = Array.from({ length: 90 }, (_, n) => `${n}`);
    await Promise.all(texts.map((text) => sender.publish(name, text, { qos: 1 })));
    await sleep(QUIET);
    const shares = members.map((m) => m.waiting.map((w) => Number(w.payload)));
    same(shares.flat().sort((a, b) => a - b), texts.map(Number));
    if (shares.some((share) => share.length === 0)) throw new Error("a member got nothing");
  },

  async thousandsOfSubscriptions(how) {
    const name = topic("many");
    const client = await Client.open(how);
    const filters = Array.from({ length: 3000 }, (_, n) => `${name}/${n}/+`);
    for (let at = 0; at < filters.length; at += 500) await client.subscribe(filters.slice(at, at + 500), { qos: 1 });
    for (const n of [0, 1499, 2999]) await client.publish(`${name}/${n}/x`, `${n}`, { qos: 1 });
    same(await client.texts(3), ["0", "1499", "2999"]);
    await within(client.mqtt.unsubscribeAsync(filters.slice(0, 1500)), "UNSUBACK");
    for (const n of [1499, 1500]) await client.publish(`${name}/${n}/x`, `${n}`, { qos: 1 });
    same(await client.texts(1), ["1500"]);
  },

  async propertiesAndAliases(how) {
    if (how.version !== 5) return;
    const name = topic("properties");
    const aliases = { properties: { topicAliasMaximum: 10 }, autoUseTopicAlias: true, autoAssignTopicAlias: true };
    const client = await Client.open(how, aliases);
    await client.subscribe(name, { qos: 1, properties: { subscriptionIdentifier: 77 } });
    const properties = {
      payloadFormatIndicator: true,
      messageExpiryInterval: 60,
      contentType: "text/plain",
      responseTopic: "answer/here",
      correlationData: Buffer.from([0, 255]),
      userProperties: { site: ["north", "south"], "": "empty" },
    };
    for (let n = 0; n < 5; n += 1) await client.publish(name, `${n}`, { qos: 1, properties: { ...properties } });
    for (let n = 0; n < 5; n += 1) {
      const got = await client.message();
      const p = got.packet.properties;
      same([got.topic, String(got.payload)], [name, `${n}`]);
      same([p.contentType, p.responseTopic, [...p.correlationData], p.payloadFormatIndicator, p.subscriptionIdentifier],
        ["text/plain", "answer/here", [0, 255], true, 77]);
      same(p.userProperties, { site: ["north", "south"], "": "empty" });
      if (!(p.messageExpiryInterval > 0 && p.messageExpiryInterval <= 60)) throw new Error("expiry");
    }
  },

  async refusalsAreHeard(how) {
    const client = await Client.open(how);
    if (how.version !== 5) return;
    const why = await client.publish("$SYS/mine", "x", { qos: 1 }).then(() => null, (e) => e.code);
    same(why, 0x87, "reason");
    const ended = new Promise((done) => client.mqtt.once("disconnect", done));
    await Client.open(how, { clientId: client.id });
    same((await within(ended, "DISCONNECT")).reasonCode, 0x8e, "reason");
  },

  async sysTopics(how) {
    const client = await Client.open(how);
    await client.subscribe("$SYS/broker/version");
    // What is sent once an interval may come before what a new subscription is told.
    let told;
    do {
      told = await client.message();
      same(/^busbar \d/.test(String(told.payload)), true);
    } while (!told.packet.retain);
  },
};

let [passed, failed] = [0, 0];
for (const [name, run] of Object.entries(cases)) {
  for (const version of [4, 5]) {
    for (const transport of ["tcp", "ws"]) {
      const label = `${name} ${version === 4 ? "3.1.1" : "5.0"} ${transport}`;
      try {
        await run({ version, transport });
        passed += 1;
        console.log(`ok ${label}`);
      } catch (why) {
        failed += 1;
        console.log(`FAILED ${label}: ${why.stack ?? why}`);
      }
      for (const client of Client.all.splice(0)) client.mqtt.end(true);
    }
  }
}
console.log(`${passed} passed, ${failed} failed`);
process.exit(failed || !passed ? 1 : 0);
