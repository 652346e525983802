import { describe, expect, it } from 'vitest';
import { readFileSync } from 'node:fs';
import zh from '../../src/i18n/api.zh.json';
import { address, curl, operations, textKey, translated } from '../../src/lib/openapi';

const DOCUMENT = {
  paths: {
    '/api/v1/streams/{name}/events': {
      get: {
        operationId: 'get_events',
        tags: ['streams'],
        summary: 'Read events.',
        parameters: [
          { name: 'name', in: 'path', required: true, schema: { type: 'string' } },
          { name: 'limit', in: 'query', schema: { type: ['integer', 'null'] } },
        ],
        responses: { 200: { description: 'Events.', content: { 'application/json': {} } } },
      },
    },
    '/api/v1/users': {
      post: {
        operationId: 'post_users',
        tags: ['access'],
        requestBody: { content: { 'application/json': { schema: { $ref: '#/components/schemas/New' } } } },
        responses: {},
      },
    },
    '/api/v1/live': {
      get: { responses: { 200: { description: '', content: { 'text/event-stream': {} } } } },
    },
  },
  components: {
    schemas: {
      New: {
        type: 'object',
        required: ['name', 'role', 'parent'],
        properties: {
          name: { type: 'string' },
          role: { oneOf: [{ type: 'null' }, { $ref: '#/components/schemas/Role' }] },
          parent: { $ref: '#/components/schemas/New' },
          note: { type: 'string' },
        },
      },
      Role: { type: 'string', enum: ['viewer', 'admin'] },
    },
  },
};

describe('the OpenAPI document', () => {
  const [events, users, live] = operations(DOCUMENT);

  it('is read into operations', () => {
    expect([events?.method, events?.tag, events?.parameters[1]?.type]).toEqual(['GET', 'streams', 'integer']);
    expect([events?.stream, live?.stream]).toEqual([false, true]);
    // Required members only, and a recursive schema ends.
    expect(JSON.parse(users!.example)).toMatchObject({ name: '', role: 'viewer', parent: { name: '' } });
  });

  it('gives addresses and command lines', () => {
    const url = address(events!, { name: '电表/1', limit: '5' });
    expect(url).toBe('/api/v1/streams/%E7%94%B5%E8%A1%A8%2F1/events?limit=5');
    expect(address(events!, { name: 'a' })).toBe('/api/v1/streams/a/events');
    // What is still to be filled in can be seen.
    expect(address(events!, { name: '' })).toBe('/api/v1/streams/{name}/events');
    expect(curl(users!, 'http://h/x', 'application/json', `{"a":"it's"}`)).toBe(
      `curl -X POST -H 'Authorization: Bearer TOKEN' -H 'Content-Type: application/json' --data-binary '{"a":"it'\\''s"}' 'http://h/x'`,
    );
    expect(curl(live!, 'u', '', '')).toContain('curl -N ');
  });

  it('may be anything without harm', () => {
    for (const bad of [null, 1, {}, { paths: [] }, { paths: { '/x': { get: null } } }])
      expect(operations(bad)).toBeInstanceOf(Array);
  });
});

describe('the description of the node in Chinese', () => {
  const path = new URL('../../../docs/reference/openapi.json', import.meta.url).pathname;
  const all = operations(JSON.parse(readFileSync(path, 'utf8')));
  const texts = (of: typeof all): string[] =>
    of.flatMap((operation) => [
      operation.title,
      operation.description,
      ...operation.parameters.map((p) => p.description),
      ...operation.answers.map((answer) => answer.description),
    ]);

  it('has every text that the explorer shows, and no other', () => {
    expect(all.length).toBeGreaterThan(50);
    const shown = new Set(
      texts(all)
        .filter((text) => text !== '')
        .map(textKey),
    );
    expect(Object.keys(zh).sort()).toEqual([...shown].sort());
    const same = Object.entries(zh).filter(([, text]) => !/[\u4e00-\u9fff]/.test(text));
    expect(same.map(([english]) => english).sort()).toEqual(['OpenAPI 3.1.']);
  });

  it('names the same fields and values', () => {
    const code = (text: string): string[] =>
      [...new Set([...text.matchAll(/`([^`]*)`/g)].map((match) => match[1]!))].sort();
    for (const [english, text] of Object.entries(zh))
      expect([english, code(text)]).toEqual([english, code(english)]);
  });

  it('takes the place of the English one', () => {
    const [first] = translated(operations(DOCUMENT), { 'Read events.': '读取事件。', 'Events.': '事件。' });
    expect([first?.title, first?.answers[0]?.description, first?.id]).toEqual([
      '读取事件。',
      '事件。',
      'get_events',
    ]);
  });
});
