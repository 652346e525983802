import { describe, expect, it } from 'vitest';
import { address, curl, operations } from '../../src/lib/openapi';

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
