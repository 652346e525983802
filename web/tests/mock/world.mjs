// What the mock node holds: a machine that is watched, as in examples/host-watch, with made-up readings.

const micros = (ms) => `${new Date(ms).toISOString().slice(0, -1)}000Z`;

/** The same numbers in each run. */
function random(seed) {
  let s = seed;
  return () => {
    s = (s * 1664525 + 1013904223) >>> 0;
    return s / 2 ** 32;
  };
}

const FILES = {
  'busbar.toml':
    '# The machine this runs on, watched.\n[data]\ndir = "data"\n\n[http]\nlisten = "127.0.0.1:8080"\n\n[mqtt]\nlisten = "127.0.0.1:1883"\n',
  'connections/host.yaml': 'host: { every: 1s }\ntopic: host/${host}/${reading}\n',
  'connections/archive.yaml': 'file: { path: out/alarms.ndjson, format: json }\n',
  'connections/head-office.yaml': 'mqtt:\n  url: mqtts://broker.example.net:8883\n  out: ["alarm/#"]\n',
  'streams/host.yaml': 'topics: host/#\nformat: json\nretention: { age: 7d, bytes: 2GiB }\n',
  'streams/alarms.yaml': 'topics: alarm/#\nformat: json\nretention: { age: 90d }\n',
  'streams/meter.yaml': 'topics: meter/+/reading\nformat: json\npartitions: 2\n',
  'tables/latest.yaml': 'hot: { ttl: 10m }\nkey: [host, reading]\n',
  'tables/busy_minutes.yaml': 'relational: {}\nkey: [host, at]\n',
  'flows/latest.yaml':
    '# The newest reading of everything, for live boards.\nfrom: host\nsteps:\n  - select: host, reading, value, unit, time as at\nto:\n  - table: latest\n',
  'flows/cpu-alarm.yaml':
    "# Tells when a processor is busy.\nfrom: host\nsteps:\n  - where: reading = 'cpu' and value >= 80\n  - select: host, reading, value, 'high' as level\nto:\n  - topic: alarm/${host}/cpu\n  - table: busy_minutes\n  - connection: archive\ntests:\n  - given:  [{ topic: host/a/cpu, payload: { host: a, reading: cpu, value: 91 } }]\n    expect: [{ host: a, value: 91, level: high }]\n",
  'flows/meter-check.yaml':
    'from: meter\nsteps:\n  - where: kw >= 0\n  - select: meter, kw\nto:\n  - connection: head-office\n',
};

const OLD_ALARM = FILES['flows/cpu-alarm.yaml']
  .replace('value >= 80', 'value >= 95')
  .replace('  - connection: archive\n', '');

export class World {
  constructor() {
    this.random = random(7);
    this.began = Date.now();
    this.files = { ...FILES };
    this.onEvent = () => {};
    /** The last event of each topic. */
    this.last = new Map();
    this.history_in = [];
    this.history_out = [];
    for (let i = 0; i < 180; i += 1) this.#rates(i);
    const stream = (name, topics, events, durability = 'fsync', partitions = 1) => ({
      name,
      topics,
      events,
      durability,
      partitions,
      bytes: events * 61,
      rate: 0,
      damaged: 0,
      made: 0,
    });
    this.streams = [
      stream('host', ['host/#'], 184_233),
      stream('alarms', ['alarm/#'], 1_204),
      stream('meter', ['meter/+/reading'], 2_481_930, 'memory', 2),
      stream('inbox', ['#'], 311),
    ];
    this.flows = new Map();
    this.#flow(
      'cpu-alarm',
      'host',
      [
        ['where', "reading = 'cpu' and value >= 80"],
        ['select', "host, reading, value, 'high' as level"],
      ],
      [
        ['topic', 'alarm/${host}/cpu', 'exactly-once'],
        ['table', 'busy_minutes', 'exactly-once'],
        ['connection', 'archive', 'at-least-once'],
      ],
      0.1,
    );
    this.#flow(
      'latest',
      'host',
      [['select', 'host, reading, value, unit, time as at']],
      [['table', 'latest', 'at-least-once']],
      1,
    );
    this.#flow(
      'meter-check',
      'meter',
      [
        ['where', 'kw >= 0'],
        ['select', 'meter, kw'],
      ],
      [['connection', 'head-office', 'at-least-once']],
      1,
    );
    const failed = this.flows.get('meter-check');
    failed.state = 'retrying';
    failed.error = {
      class: 'transient',
      code: 'connect.mqtt-refused',
      message:
        'Connection head-office: broker.example.net:8883 refused the connection. It is tried again in 8 s; check the address and that the broker runs.',
      message_zh:
        '连接 head-office：broker.example.net:8883 拒绝连接，8 秒后重试。请检查地址，并确认代理正在运行。',
    };
    failed.version = 2;
    this.versionsOf = new Map([
      [
        'cpu-alarm',
        [OLD_ALARM, OLD_ALARM.replace('value >= 95', 'value >= 90'), FILES['flows/cpu-alarm.yaml']],
      ],
    ]);
    this.dead = [];
    for (let i = 0; i < 37; i += 1)
      this.#bury(
        'cpu-alarm',
        'decode',
        'flow.not-json',
        `The payload is not JSON: a value is expected at byte ${12}.`,
        '载荷不是合法的 JSON：第 12 字节处应为一个值。',
        { topic: `host/web-${i % 3}/cpu`, payload: `{"value": 9${i % 10},, "host": "web-${i % 3}"}` },
      );
    for (let i = 0; i < 12; i += 1)
      this.#bury(
        'latest',
        'step:0',
        'flow.column-type',
        'Column value: "n/a" is not a number (float).',
        '列 value：“n/a”不是数值（浮点数）。',
        {
          topic: 'host/db-1/disk',
          key: 'db-1',
          payload: { host: 'db-1', reading: 'disk', value: 'n/a' },
          tags: { site: 'north' },
        },
      );
    for (let i = 0; i < 4; i += 1)
      this.#bury(
        'meter-check',
        'to:0',
        'connect.too-large',
        'The event is larger (1.2 MiB) than the broker takes (1 MiB).',
        '事件过大（1.2 MiB），超出对端代理允许的 1 MiB。',
        { topic: 'meter/m9/reading', payload_base64: 'AAECAwQFBgcICQ==' },
      );
  }

  #flow(name, from, steps, outputs, pass) {
    const node = (id, kind, label, guarantee = null) => ({
      id,
      role: id.split('-')[0],
      kind,
      label,
      guarantee,
      in: 0,
      out: 0,
      filtered: 0,
      dead: 0,
      held: 0,
      rate: 0,
      lag: 0,
      watermark: null,
      error: null,
    });
    const nodes = [
      node('from', 'stream', from),
      ...steps.map(([k, l], i) => node(`step-${i}`, k, l)),
      ...outputs.map(([k, l, g], i) => node(`to-${i}`, k, l, g)),
    ];
    const chain = nodes.slice(0, steps.length + 1);
    const edges = [];
    for (let i = 1; i < chain.length; i += 1) edges.push({ from: chain[i - 1].id, to: chain[i].id });
    for (let i = 0; i < outputs.length; i += 1) edges.push({ from: chain.at(-1).id, to: `to-${i}` });
    this.flows.set(name, {
      name,
      from,
      state: 'running',
      version: name === 'cpu-alarm' ? 3 : 1,
      nodes,
      edges,
      pass,
      dead: name === 'cpu-alarm' ? 37 : name === 'latest' ? 12 : 4,
      in: 184_233,
      error: null,
    });
  }

  #bury(flow, step, code, cause, cause_zh, event) {
    const n = this.dead.length;
    const at = Date.now() - 3_600_000 + n * 41_000;
    this.dead.push({
      id: `d${n}`,
      flow,
      step,
      code,
      cause,
      cause_zh,
      time: micros(at),
      stream: 'host',
      partition: 0,
      offset: 90_000 + n * 13,
      event: { time: micros(at), ...event },
    });
  }

  #rates(i) {
    const wave = 1400 + 380 * Math.sin(i / 17) + 160 * Math.sin(i / 5);
    this.history_in.push(Math.round(wave + this.random() * 220));
    this.history_out.push(Math.round(wave * 0.62 + this.random() * 160));
    if (this.history_in.length > 300) {
      this.history_in.shift();
      this.history_out.shift();
    }
  }

  #say(event) {
    this.last.set(event.topic, event);
    this.onEvent(event);
  }

  /** Some events, ten times a second. */
  make() {
    const hosts = ['web-1', 'web-2', 'db-1'];
    const readings = [
      ['cpu', '%'],
      ['memory', 'MiB'],
      ['disk', '%'],
      ['network', 'kB/s'],
    ];
    for (let i = 0; i < 3; i += 1) {
      const host = hosts[Math.floor(this.random() * hosts.length)];
      const [reading, unit] = readings[Math.floor(this.random() * readings.length)];
      const host_stream = this.streams[0];
      host_stream.events += 1;
      host_stream.bytes += 64;
      host_stream.made += 1;
      this.#say({
        topic: `host/${host}/${reading}`,
        key: host,
        time: micros(Date.now()),
        tags: { site: host.startsWith('web') ? 'north' : 'south' },
        client: 'connection:host',
        payload: { host, reading, value: Math.round(this.random() * 1000) / 10, unit },
        stream: 'host',
        partition: 0,
        offset: host_stream.events,
      });
    }
    const meters = this.streams[2];
    const many = 120 + Math.floor(this.random() * 60);
    meters.events += many;
    meters.bytes += many * 48;
    meters.made += many;
  }

  tick() {
    this.#rates(Date.now() / 1000);
    for (const stream of this.streams) {
      stream.rate = stream.made;
      stream.made = 0;
    }
    for (const flow of this.flows.values()) this.#run(flow);
  }

  #run(flow) {
    const read = this.streams.find((s) => s.name === flow.from).rate;
    const moving = flow.state !== 'paused';
    const now = moving ? read : 0;
    flow.in += now;
    const passed = Math.round(flow.in * flow.pass);
    const filtered = flow.in - passed - flow.dead;
    const first = flow.nodes.findIndex((n) => n.id.startsWith('step'));
    flow.nodes.forEach((node, i) => {
      const before = i > first;
      node.in = before ? passed : flow.in;
      node.out = i >= first ? passed : flow.in;
      node.filtered = i === first && flow.pass < 1 ? Math.max(0, filtered) : 0;
      node.rate = before ? now * flow.pass : now;
      node.dead = i === first ? flow.dead : 0;
      node.watermark = micros(Date.now() - (moving ? 400 : 60_000));
      if (flow.pass === 1) node.out = i >= first ? flow.in - flow.dead : flow.in;
    });
    const sink = flow.nodes.at(-1);
    if (flow.error) {
      sink.error = flow.error;
      sink.lag = 48_000 + Math.round(this.random() * 300);
      sink.rate = 0;
    }
    for (const edge of flow.edges) {
      const to = flow.nodes.find((n) => n.id === edge.to);
      edge.rate = to.rate;
      edge.backlog = to.lag;
      edge.watermark = edge.from === 'from' ? to.watermark : null;
    }
    flow.out = flow.pass === 1 ? flow.in - flow.dead : passed;
    flow.filtered = flow.pass === 1 ? 0 : Math.max(0, filtered);
    flow.rate = now;
    flow.lag = flow.error ? sink.lag : Math.round(this.random() * 4);
  }

  topics(matches) {
    return [...this.last.values()]
      .filter((event) => matches(event.topic))
      .sort((a, b) => (a.topic < b.topic ? -1 : 1));
  }

  flowList() {
    return [...this.flows.values()].map((f) => this.#summary(f));
  }

  #summary({ name, state, from, version, in: taken, out = 0, filtered = 0, dead, rate = 0, lag = 0, error }) {
    return { name, state, from, version, in: taken, out, filtered, dead, held: 0, rate, lag, error };
  }

  flow(name) {
    const flow = this.flows.get(name);
    if (!flow) return null;
    const summary = this.#summary(flow);
    const { in: taken, out, filtered, dead, held } = summary;
    return {
      ...summary,
      graph: { nodes: flow.nodes, edges: flow.edges },
      conservation: {
        in: taken,
        out,
        filtered,
        dead,
        held,
        balanced: taken === out + filtered + dead + held,
      },
      source: this.files[`flows/${name}.yaml`],
    };
  }

  versions(name) {
    const texts = this.versionsOf.get(name) ?? [this.files[`flows/${name}.yaml`]];
    return texts.map((_, i) => ({
      version: i + 1,
      time: micros(this.began - (texts.length - 1 - i) * 7_200_000),
      by: 'admin',
      changes: [{ path: `flows/${name}.yaml`, kind: i === 0 ? 'added' : 'changed', meaning: true }],
    }));
  }

  diff(name, { from, to }) {
    const texts = this.versionsOf.get(name) ?? [this.files[`flows/${name}.yaml`]];
    return { before: texts[from - 1] ?? '', after: texts[to - 1] ?? '' };
  }

  act(name, action, body) {
    const flow = this.flows.get(name);
    if (action === 'pause') flow.state = 'paused';
    if (action === 'resume') flow.state = 'running';
    if (action === 'rollback') {
      const texts = this.versionsOf.get(name);
      texts.push(texts[body.version - 1]);
      this.files[`flows/${name}.yaml`] = texts.at(-1);
      flow.version = texts.length;
    }
    return { name, state: flow.state, version: flow.version };
  }

  streamList() {
    return this.streams.map(({ made: _, ...s }) => s);
  }

  stream(name) {
    const found = this.streams.find((s) => s.name === name);
    if (!found) return null;
    const share = Math.floor(found.events / found.partitions);
    const columns = [
      ['topic', 'text'],
      ['key', 'text'],
      ['time', 'time'],
      ['tags', 'map'],
    ];
    const own =
      name === 'host'
        ? [
            ['host', 'text'],
            ['reading', 'text'],
            ['value', 'float'],
            ['unit', 'text'],
          ]
        : [['payload', 'binary']];
    return {
      ...found,
      spec: {
        format: name === 'inbox' ? 'raw' : { json: {} },
        retention: name === 'host' ? { age: '7d', bytes: '2GiB' } : name === 'alarms' ? { age: '90d' } : {},
      },
      partition_list: Array.from({ length: found.partitions }, (_, index) => ({
        index,
        start: 0,
        end: share,
        bytes: Math.floor(found.bytes / found.partitions),
      })),
      schema: [...columns, ...own].map(([n, type]) => ({ name: n, type })),
      damage: [],
    };
  }

  tableList() {
    return [
      {
        name: 'latest',
        kind: 'hot',
        rows: 12,
        key: ['host', 'reading'],
        spec: { hot: { ttl: '10m' } },
        columns: [
          { name: 'host', type: 'text' },
          { name: 'reading', type: 'text' },
          { name: 'value', type: 'float' },
          { name: 'unit', type: 'text' },
          { name: 'at', type: 'time' },
        ],
      },
      {
        name: 'busy_minutes',
        kind: 'relational',
        rows: 1204 + Math.floor((Date.now() - this.began) / 2000),
        key: ['host', 'at'],
        spec: { relational: {} },
        columns: [
          { name: 'host', type: 'text' },
          { name: 'at', type: 'time' },
          { name: 'value', type: 'float' },
          { name: 'level', type: 'text' },
        ],
      },
    ];
  }

  table(name) {
    return this.tableList().find((one) => one.name === name) ?? null;
  }

  connectionList() {
    const c = (name, kind, direction, state, taken, out, rate, guarantee, error = null) => ({
      name,
      kind,
      direction,
      state,
      in: taken,
      out,
      rate,
      guarantee,
      error,
    });
    return [
      c(
        'host',
        'host',
        'source',
        'running',
        this.streams[0].events,
        0,
        this.streams[0].rate,
        'at-least-once',
      ),
      c('archive', 'file', 'sink', 'running', 0, this.streams[1].events, 3, 'at-least-once'),
      c(
        'head-office',
        'mqtt',
        'both',
        'retrying',
        0,
        2_433_000,
        0,
        'at-least-once',
        this.flows.get('meter-check').error,
      ),
    ];
  }

  sql(sql, limit, problem) {
    const unknown = /\b(valu|temprature)\b/.exec(sql);
    if (unknown) {
      return problem(
        400,
        'sql.unknown-column',
        `There is no column "${unknown[0]}" in host.`,
        `host 中没有名为“${unknown[0]}”的列。`,
        {
          span: { start: unknown.index, end: unknown.index + unknown[0].length },
          suggestion: 'value',
        },
      );
    }
    if (!/^\s*(select|with|explain)\b/i.test(sql)) {
      return problem(
        400,
        'sql.read-only',
        'Only queries are answered here: the statement must be a SELECT.',
        '此处只接受查询：语句必须是 SELECT。',
      );
    }
    if (/group by/i.test(sql)) {
      const rows = ['web-1', 'web-2', 'db-1', 'db-2', 'cache-1'].map((h, i) => [
        h,
        Math.round((34 + i * 11.3) * 10) / 10,
        4000 + i * 977,
      ]);
      return {
        body: {
          columns: [
            { name: 'host', type: 'text' },
            { name: 'mean', type: 'float' },
            { name: 'readings', type: 'int' },
          ],
          rows,
          truncated: false,
          elapsed_ms: 4.8,
        },
      };
    }
    const asked = Number(/limit\s+(\d+)/i.exec(sql)?.[1] ?? Infinity);
    const count = Math.min(limit, asked, 5000);
    const rows = Array.from({ length: count }, (_, i) => {
      const host = ['web-1', 'web-2', 'db-1'][i % 3];
      return [
        `host/${host}/cpu`,
        host,
        micros(this.began - i * 1000),
        host,
        'cpu',
        Math.round((50 + 30 * Math.sin(i / 9) + (i % 7)) * 10) / 10,
        '%',
        i % 11 === 0 ? null : { site: 'north' },
      ];
    });
    const columns = [
      ['topic', 'text'],
      ['key', 'text'],
      ['time', 'time'],
      ['host', 'text'],
      ['reading', 'text'],
      ['value', 'float'],
      ['unit', 'text'],
      ['tags', 'map'],
    ].map(([name, type]) => ({ name, type }));
    return { body: { columns, rows, truncated: count < Math.min(asked, 5000), elapsed_ms: 12.4 } };
  }

  deadGroups() {
    const groups = new Map();
    for (const d of this.dead) {
      const key = `${d.flow}/${d.step}/${d.code}`;
      const g = groups.get(key) ?? {
        flow: d.flow,
        step: d.step,
        code: d.code,
        cause: d.cause,
        cause_zh: d.cause_zh,
        count: 0,
        first: d.time,
        last: d.time,
      };
      g.count += 1;
      g.last = d.time;
      groups.set(key, g);
    }
    return [...groups.values()];
  }

  deadLetters({ flow, cause, limit }) {
    return this.dead
      .filter((d) => (!flow || d.flow === flow) && (!cause || d.code === cause))
      .slice(0, Number(limit ?? 100));
  }

  redrive({ flow, cause, ids }) {
    const before = this.dead.length;
    this.dead = this.dead.filter((d) =>
      ids ? !ids.includes(d.id) : !((!flow || d.flow === flow) && (!cause || d.code === cause)),
    );
    const n = before - this.dead.length;
    const f = this.flows.get(flow ?? 'cpu-alarm');
    if (f) f.dead = Math.max(0, f.dead - n);
    return n;
  }

  history() {
    return [
      {
        version: 2,
        time: micros(this.began),
        by: 'admin',
        changes: [
          { path: 'flows/cpu-alarm.yaml', kind: 'changed', meaning: true },
          { path: 'streams/host.yaml', kind: 'changed', meaning: false },
        ],
      },
      {
        version: 1,
        time: micros(this.began - 7_200_000),
        by: null,
        changes: Object.keys(FILES).map((path) => ({ path, kind: 'added', meaning: true })),
      },
    ];
  }

  publish(body) {
    if (!body.topic || /[#+]/.test(body.topic)) {
      const rejected = {
        index: 0,
        code: 'event.topic-wildcard',
        message: `The topic "${body.topic ?? ''}" has a wildcard: + and # are for filters only. Publish to one topic.`,
        message_zh: `主题“${body.topic ?? ''}”中含有通配符；+ 和 # 只能用于过滤器，请发布到一个确定的主题。`,
        retry: false,
      };
      return {
        status: 400,
        body: { accepted: 0, rejected: [rejected], rejected_count: 1, durability: 'fsync' },
      };
    }
    this.#say({
      topic: body.topic,
      key: body.key ?? null,
      time: micros(Date.now()),
      tags: body.tags ?? {},
      payload: body.payload,
    });
    const memory = body.topic.startsWith('meter/');
    return { body: { accepted: 1, rejected: [], durability: memory ? 'memory' : 'fsync' } };
  }

  overview() {
    return {
      version: '0.1.0',
      time: micros(Date.now()),
      uptime_s: 7200 + Math.floor((Date.now() - this.began) / 1000),
      memory_bytes: 41_300_000 + Math.floor(this.random() * 200_000),
      cores: 2,
      durability: 'fsync',
      events_in_per_s: this.history_in.at(-1),
      events_out_per_s: this.history_out.at(-1),
      history: { step_s: 1, in: this.history_in, out: this.history_out },
      streams: this.streamList(),
      flows: this.flowList(),
      connections: this.connectionList(),
      dead: { count: this.dead.length },
      disk: {
        used_bytes: this.streams.reduce((n, s) => n + s.bytes, 0),
        free_bytes: 61_200_000_000,
        total_bytes: 256_000_000_000,
      },
      sessions: 14,
      budget: { used_bytes: 3_400_000, max_bytes: 268_435_456 },
    };
  }

  live() {
    return { overview: this.overview(), flows: [...this.flows.keys()].map((name) => this.flow(name)) };
  }
}
