/**
 * A real node for the tests: the program that BUSBAR names (target/release/busbar otherwise), with a copy of
 * examples/host-watch that may be edited, on ports and a data folder of its own. It shows the console that is
 * built into it; with CONSOLE=dist the one in dist/ stands in front of it, for work on the console alone.
 */
import { spawn, type ChildProcess } from 'node:child_process';
import { randomInt } from 'node:crypto';
import { once } from 'node:events';
import {
  cpSync,
  createWriteStream,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { createServer, type Server } from 'node:http';
import { createServer as createSocket } from 'node:net';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

const ROOT = fileURLToPath(new URL('../../../', import.meta.url));
const BUSBAR =
  process.env.BUSBAR ?? join(process.env.CARGO_TARGET_DIR ?? join(ROOT, 'target'), 'release', 'busbar');
/** A start takes a fraction of a second; a machine that compiles beside it may need much more. */
const START_MS_MAX = 120_000;
const STOP_MS_MAX = 20_000;

/** Resources beside those of the example: states that a healthy project does not have. */
const MORE: Record<string, (ports: { erp: number }) => string> = {
  // Nobody listens there until a test says so.
  'connections/erp.yaml': ({ erp }) => `http:\n  url: http://127.0.0.1:${erp}/readings\n  timeout: 2s\n`,
  'flows/meter-billing.yaml': () =>
    'from: meter\nsteps:\n  - where: kw > 0\n  - select: topic_part(topic, 2) as meter, kw\nto:\n  - connection: erp\n',
  // Windows over two partitions: state, two stages, and events that come late.
  'streams/power.yaml': () =>
    'topics: power/#\nformat: json\npartitions: 2\ntime: at\nschema: { site: text, at: time, kw: float }\n',
  'flows/power-windows.yaml': () =>
    "from: power\nsteps:\n  - where: kw >= 0\n  - window: { name: tens, tumble: 10s, by: [site], select: 'site, window_end, max(kw) as kw' }\nto:\n  - topic: peak/${site}\n",
  // A route with named cases.
  'streams/shelf.yaml': () => 'topics: [shelf/#]\nformat: json\n',
  'flows/horn-route.yaml': () =>
    "from: horn\nsteps:\n  - route:\n      cases:\n        - { name: very-loud, when: \"subject = 'a'\", to: [loud] }\n      default: { to: [quiet] }\nto:\n  - { name: loud, topic: 'shelf/loud' }\n  - { name: quiet, topic: 'shelf/quiet' }\n",
  // Waits for a person.
  'orchestrations/leave.yaml': () =>
    'description: Leave that a person grants.\ninput: { who: { type: text, required: true } }\nkey: ${who}\nparts:\n- name: grant\n  person: { title: "May ${who} leave?", form: { granted: { type: bool, required: true }, note: text } }\nanswer: granted, note\n',
  // A mapping that is drawn.
  'flows/crates.yaml': () =>
    "from: crate\nsteps:\n  - map:\n      fields: { loud: db, size: { from: db, codes: { '1': small, '2': large }, otherwise: other }, age: { from: time, years_until: time }, unit: { value: dB } }\nto:\n  - topic: shelf/crates\n",
  // APIs: a query, and a request that a flow replies to.
  'streams/twice.yaml': () => 'topics: twice/ask\nformat: json\nschema: { n: int }\n',
  'streams/twice-reply.yaml': () => 'topics: twice/reply\nformat: json\n',
  'flows/twice.yaml': () => 'from: twice\nsteps:\n  - select: n * 2 as twice\nto:\n  - topic: twice/reply\n',
  'apis/twice.yaml': () =>
    'description: Doubles a number.\nparameters: { n: { type: int, required: true } }\nrequest: { topic: twice/ask, reply: twice-reply }\nwithin: 2m\n',
  'apis/horns.yaml': () =>
    'description: Horns that were heard.\nparameters: { least: { type: float, required: true } }\nquery: select payload from horn where cast(key as double) >= $least\n',
  // A plug-in, and what it makes.
  'streams/horn.yaml': () => 'topics: horn/#\nformat: json\n',
  'streams/crate.yaml': () => 'topics: crate/#\nformat: json\nschema: { db: int }\n',
  'flows/loud.yaml': () => 'from: horn\nsteps:\n  - script: loud\nto:\n  - topic: loud/${subject}\n',
  'plugins/loud/plugin.yaml': () =>
    'language: javascript\ndescription: Doubles what is loud.\ntests:\n  - given:\n      - { topic: horn/a, payload: { db: 2 } }\n    expect:\n      - { payload: { db: 4 } }\n',
  'plugins/loud/main.js': () => loudScript('event.payload.db * 2'),
  'streams/share.yaml': () => 'topics: share/#\nformat: json\n',
  'streams/ticket.yaml': () => 'topics: ticket/+\nformat: json\nschema:\n  hours: float\n',
  // Only tickets with a number in their topic can be worked on.
  'flows/tickets.yaml': () => ticketFlow('cast(topic_part(topic, 2) as int)'),
  'tables/tickets.yaml': () => 'relational: {}\nkey: [ticket]\n',
};

export const loudScript = (db: string): string =>
  `export default function (event) {\n  event.payload.db = ${db};\n  busbar.log(\`db \${event.payload.db}\`);\n  return event;\n}\n`;

export const ticketFlow = (ticket: string): string =>
  `from: ticket\nsteps:\n  - select: ${ticket} as ticket, hours\nto:\n  - table: tickets\n`;

export class RealNode {
  readonly folder = mkdtempSync(join(tmpdir(), 'busbar-console-'));
  readonly project = join(this.folder, 'project');
  #process: ChildProcess | null = null;
  #erp: Server | null = null;
  #front: { close: () => Promise<void> } | null = null;

  private constructor(
    readonly http: number,
    readonly mqtt: number,
    readonly erp: number,
    /** Where the console is. */
    readonly url: string,
  ) {}

  static async start(example: 'host-watch' | 'minimal'): Promise<RealNode> {
    if (!existsSync(BUSBAR))
      throw new Error(`there is no ${BUSBAR}: run make release, or name the program with BUSBAR`);
    const [http, mqtt, erp, front] = await Promise.all([freePort(), freePort(), freePort(), freePort()]);
    const dist = process.env.CONSOLE === 'dist';
    const node = new RealNode(http, mqtt, erp, `http://127.0.0.1:${dist ? front : http}`);
    cpSync(join(ROOT, 'examples', example), node.project, { recursive: true });
    if (example === 'host-watch')
      for (const [path, text] of Object.entries(MORE)) node.write(path, text({ erp }));
    await node.run();
    if (dist) node.#front = await serveDist(front, http);
    return node;
  }

  /** Starts the program and waits until it is ready. */
  async run(): Promise<void> {
    const child = spawn(BUSBAR, ['run', this.project], {
      env: {
        ...process.env,
        BUSBAR_DATA_DIR: join(this.folder, 'data'),
        BUSBAR_HTTP_LISTEN: `127.0.0.1:${this.http}`,
        BUSBAR_MQTT_LISTEN: `127.0.0.1:${this.mqtt}`,
        BUSBAR_AMQP_LISTEN: 'off',
      },
      stdio: ['ignore', 'pipe', 'pipe'],
    });
    this.#process = child;
    const log = createWriteStream(join(this.folder, 'node.out'), { flags: 'a' });
    child.stdout.pipe(log, { end: false });
    child.stderr.pipe(log, { end: false });
    const deadline = Date.now() + START_MS_MAX;
    for (;;) {
      const ready = await fetch(`http://127.0.0.1:${this.http}/readyz`).catch(() => null);
      if (ready?.ok) return;
      if (child.exitCode !== null || Date.now() > deadline)
        throw new Error(`the node did not become ready:\n${this.output()}`);
      await pause(30);
    }
  }

  /** Ends it as a power cut would, without a word. */
  async kill(): Promise<void> {
    const child = this.#process;
    if (!child || child.exitCode !== null) return;
    const gone = once(child, 'exit');
    child.kill('SIGKILL');
    await gone;
  }

  async stop(): Promise<void> {
    const child = this.#process;
    if (child && child.exitCode === null && child.signalCode === null) {
      const gone = once(child, 'exit');
      child.kill('SIGTERM');
      const late = setTimeout(() => child.kill('SIGKILL'), STOP_MS_MAX);
      await gone;
      clearTimeout(late);
    }
    await this.#front?.close();
    await new Promise((done) => (this.#erp ? this.#erp.close(done) : done(null)));
    rmSync(this.folder, { recursive: true, force: true });
  }

  /** What the node said. */
  output(): string {
    return readFileSync(join(this.folder, 'node.out'), 'utf8');
  }

  read(path: string): string {
    return readFileSync(join(this.project, path), 'utf8');
  }

  /** Saves a file of the project: the node takes it over by itself. */
  write(path: string, text: string): void {
    const file = join(this.project, path);
    mkdirSync(dirname(file), { recursive: true });
    writeFileSync(file, text);
  }

  /** Publishes with the stock client and comes back when the node has acknowledged it. */
  async mosquitto(topic: string, payload: string, ...more: string[]): Promise<void> {
    const args = ['-p', String(this.mqtt), '-q', '1', '-t', topic, '-m', payload, ...more];
    const child = spawn('mosquitto_pub', args, { stdio: ['ignore', 'inherit', 'inherit'] });
    const [code] = (await once(child, 'exit')) as [number | null];
    if (code !== 0) throw new Error(`mosquitto_pub ended with ${code}`);
  }

  /** Publishes events, one a line, and comes back when all are committed. */
  async events(lines: string[]): Promise<void> {
    const answer = await fetch(`http://127.0.0.1:${this.http}/api/v1/events`, {
      method: 'POST',
      headers: { 'content-type': 'application/x-ndjson' },
      body: lines.join('\n'),
    });
    if (!answer.ok) throw new Error(`publishing: ${answer.status} ${await answer.text()}`);
  }

  /** Publishes lines of JSON to one topic and comes back when all are committed. */
  async lines(topic: string, lines: string[]): Promise<void> {
    const answer = await fetch(
      `http://127.0.0.1:${this.http}/api/v1/events?topic=${encodeURIComponent(topic)}`,
      { method: 'POST', headers: { 'content-type': 'application/x-ndjson' }, body: lines.join('\n') },
    );
    if (!answer.ok) throw new Error(`publishing: ${answer.status} ${await answer.text()}`);
  }

  /** The system that a flow writes to, from now on there. Counts what it is sent. */
  async openErp(): Promise<{ rows: number }> {
    const seen = { rows: 0 };
    this.#erp = createServer((request, response) => {
      let text = '';
      request.on('data', (part: Buffer) => (text += part.toString()));
      request.on('end', () => {
        const body: unknown = JSON.parse(text);
        seen.rows += Array.isArray(body) ? body.length : 1;
        response.writeHead(204).end();
      });
    }).listen(this.erp, '127.0.0.1');
    await once(this.#erp, 'listening');
    return seen;
  }
}

async function serveDist(port: number, to: number) {
  process.env.BUSBAR_URL = `http://127.0.0.1:${to}`;
  const { preview } = await import('vite');
  const root = dirname(fileURLToPath(new URL('../../vite.config.ts', import.meta.url)));
  return preview({ root, preview: { port, strictPort: true, host: '127.0.0.1' }, logLevel: 'error' });
}

/** A port where nothing listens, below those that Linux gives to outgoing connections. */
async function freePort(): Promise<number> {
  for (;;) {
    const port = randomInt(12_000, 32_000);
    const probe = createSocket().listen(port, '127.0.0.1');
    const taken = await once(probe, 'listening').catch((error: NodeJS.ErrnoException) => error);
    if (!(taken instanceof Error)) {
      probe.close();
      await once(probe, 'close');
      return port;
    }
    if (taken.code !== 'EADDRINUSE') throw taken;
  }
}

const pause = (ms: number): Promise<void> => new Promise((done) => setTimeout(done, ms));
