// A node for the console to be developed and tested against: the same API, made-up events, no disk.
// PORT (default 8090), USERS=1 asks for a login (admin / busbar). It serves dist/ with the node's own
// Content-Security-Policy, so what the policy would refuse fails here too.
import { createServer } from 'node:http';
import { readFile } from 'node:fs/promises';
import { extname, join, normalize } from 'node:path';
import { fileURLToPath } from 'node:url';
import { World } from './world.mjs';

const DIST = fileURLToPath(new URL('../../dist/', import.meta.url));
const CSP =
  "default-src 'self'; img-src 'self' data:; style-src 'self' 'unsafe-inline'; connect-src 'self'; object-src 'none'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'";
const TYPES = {
  '.html': 'text/html; charset=utf-8',
  '.js': 'text/javascript',
  '.css': 'text/css',
  '.svg': 'image/svg+xml',
};

const users = process.env.USERS === '1';
const world = new World();
const live = new Set();
const tails = new Set();
let refuse = 0;

world.onEvent = (event) => {
  for (const tail of tails) if (tail.wants(event)) tail.send(event);
};
setInterval(() => {
  world.tick();
  const text = JSON.stringify(world.live());
  for (const response of live) response.write(`event: live\ndata: ${text}\n\n`);
}, 1000).unref();
setInterval(() => world.make(), 100);

const problem = (status, code, message, message_zh, more = {}) => ({
  status,
  body: { error: { class: 'permanent', code, message, message_zh, args: {}, ...more } },
});

function sse(request, response) {
  response.writeHead(200, { 'content-type': 'text/event-stream', 'cache-control': 'no-store' });
  response.write(': hello\n\n');
  const closed = (set, what) => request.on('close', () => set.delete(what));
  return closed;
}

/** MQTT wildcards, as far as the console's tests use them. */
function matcher(filter) {
  const parts = filter.split('/');
  return (topic) => {
    const levels = topic.split('/');
    for (let i = 0; i < parts.length; i += 1) {
      if (parts[i] === '#') return true;
      if (levels[i] === undefined || (parts[i] !== '+' && parts[i] !== levels[i])) return false;
    }
    return parts.length === levels.length;
  };
}

const routes = [
  ['GET', /^\/session$/, () => ({ body: { user: users ? 'admin' : 'local', role: 'admin', users } })],
  ['DELETE', /^\/session$/, () => ({ status: 204, cookie: 'busbar_session=; Path=/; Max-Age=0' })],
  ['GET', /^\/overview$/, () => ({ body: world.overview() })],
  ['GET', /^\/streams$/, () => ({ body: { streams: world.streamList() } })],
  [
    'GET',
    /^\/streams\/([^/]+)$/,
    ({ name }) => (world.stream(name) ? { body: world.stream(name) } : missing('stream', name)),
  ],
  ['GET', /^\/topics$/, ({ query }) => ({ body: { topics: world.topics(matcher(query.filter ?? '#')) } })],
  ['GET', /^\/flows$/, () => ({ body: { flows: world.flowList() } })],
  [
    'GET',
    /^\/flows\/([^/]+)$/,
    ({ name }) => (world.flow(name) ? { body: world.flow(name) } : missing('flow', name)),
  ],
  ['GET', /^\/flows\/([^/]+)\/versions$/, ({ name }) => ({ body: { versions: world.versions(name) } })],
  ['GET', /^\/flows\/([^/]+)\/diff$/, ({ name, query }) => ({ body: world.diff(name, query) })],
  [
    'POST',
    /^\/flows\/([^/]+)\/(pause|resume|replay|rollback)$/,
    ({ name, action, body }) => ({ body: world.act(name, action, body) }),
  ],
  ['GET', /^\/tables$/, () => ({ body: { tables: world.tableList() } })],
  [
    'GET',
    /^\/tables\/([^/]+)$/,
    ({ name }) => (world.table(name) ? { body: world.table(name) } : missing('table', name)),
  ],
  ['POST', /^\/sql$/, ({ body }) => world.sql(String(body.sql ?? ''), Number(body.limit ?? 1000), problem)],
  ['GET', /^\/dead-letters\/groups$/, () => ({ body: { groups: world.deadGroups() } })],
  ['GET', /^\/dead-letters$/, ({ query }) => ({ body: { letters: world.deadLetters(query) } })],
  ['POST', /^\/dead-letters\/redrive$/, ({ body }) => ({ body: { redriven: world.redrive(body) } })],
  ['GET', /^\/connections$/, () => ({ body: { connections: world.connectionList() } })],
  ['GET', /^\/project$/, () => ({ body: { files: world.files } })],
  ['GET', /^\/history$/, () => ({ body: { versions: world.history() } })],
  ['POST', /^\/events$/, ({ body }) => world.publish(body)],
];

function missing(kind, name) {
  const kinds = { stream: '流', flow: '流程', table: '表' };
  return problem(
    404,
    `server.unknown-${kind}`,
    `There is no ${kind} named ${name}. Look at the list of ${kind}s for the right name.`,
    `没有名为 ${name} 的${kinds[kind]}，请在列表中查看正确的名称。`,
  );
}

const server = createServer(async (request, response) => {
  const url = new URL(request.url, 'http://mock');
  try {
    if (url.pathname === '/mock/drop') {
      // Cuts every live connection and refuses the next few, as a node that restarts would.
      refuse = Number(url.searchParams.get('refuse') ?? 2);
      for (const one of live) one.destroy();
      for (const one of tails) one.response.destroy();
      return response.end('ok');
    }
    if (url.pathname.startsWith('/api/v1/')) return await api(request, response, url);
    await file(response, url.pathname);
  } catch (cause) {
    console.error(cause);
    response.writeHead(500).end();
  }
});

async function api(request, response, url) {
  const path = url.pathname.slice('/api/v1'.length);
  const query = Object.fromEntries(url.searchParams);
  const json = (status, body, cookie) => {
    response.writeHead(status, {
      'content-type': 'application/json',
      ...(cookie ? { 'set-cookie': cookie } : {}),
    });
    response.end(status === 204 ? undefined : JSON.stringify(body));
  };
  const text = request.method === 'GET' ? '' : await body(request);
  const sent = text === '' ? {} : JSON.parse(text);

  if (request.method === 'POST' && path === '/session') {
    if (sent.user === 'admin' && sent.password === 'busbar') {
      return json(
        200,
        { user: 'admin', role: 'admin', users: true },
        'busbar_session=mock; Path=/; HttpOnly; SameSite=Strict',
      );
    }
    return json(
      401,
      problem(401, 'access.refused', 'User or password is wrong.', '用户名或密码不正确。').body,
    );
  }
  if (
    request.method === 'GET' &&
    path === '/session' &&
    users &&
    !/busbar_session=mock/.test(request.headers.cookie ?? '')
  ) {
    return json(200, { user: null, role: null, users: true });
  }
  if (users && !/busbar_session=mock/.test(request.headers.cookie ?? '')) {
    return json(401, problem(401, 'access.login-needed', 'Log in first.', '请先登录。').body);
  }
  if (path === '/live' || (path === '/events' && request.method === 'GET')) {
    if (refuse > 0) {
      refuse -= 1;
      return request.destroy();
    }
    const closed = sse(request, response);
    if (path === '/live') {
      live.add(response);
      response.write(`event: live\ndata: ${JSON.stringify(world.live())}\n\n`);
      return closed(live, response);
    }
    const stream = world.streams.find((s) => s.name === query.stream);
    const home = (stream?.topics ?? ['#']).map(matcher);
    const filter = matcher(query.filter ?? '#');
    const matches = (topic) => filter(topic) && home.some((one) => one(topic));
    const tail = {
      response,
      wants: (event) => matches(event.topic),
      send: (event) => response.write(`event: event\ndata: ${JSON.stringify(event)}\n\n`),
    };
    tails.add(tail);
    return closed(tails, tail);
  }
  for (const [method, pattern, answer] of routes) {
    const found = method === request.method && pattern.exec(path);
    if (!found) continue;
    const [, name, action] = found;
    const result = await answer({ name: name && decodeURIComponent(name), action, query, body: sent });
    return json(result.status ?? 200, result.body, result.cookie);
  }
  return json(
    404,
    problem(404, 'server.unknown-route', `There is nothing at ${url.pathname}.`, `${url.pathname} 不存在。`)
      .body,
  );
}

async function body(request) {
  const parts = [];
  for await (const part of request) parts.push(part);
  return Buffer.concat(parts).toString('utf8');
}

async function file(response, pathname) {
  const name = normalize(decodeURIComponent(pathname)).replace(/^(\.\.[/\\])+/, '');
  const send = async (path) => {
    const data = await readFile(join(DIST, path));
    response.writeHead(200, {
      'content-type': TYPES[extname(path)] ?? 'application/octet-stream',
      'content-security-policy': CSP,
    });
    response.end(data);
  };
  try {
    await send(name === '/' ? 'index.html' : name);
  } catch {
    if (extname(name)) return response.writeHead(404).end('not found\n');
    await send('index.html');
  }
}

const port = Number(process.env.PORT ?? 8090);
server.listen(port, '127.0.0.1', () => console.log(`mock node on http://127.0.0.1:${server.address().port}`));
