import { readFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { generate } from '../../scripts/types.mjs';

const file = (path: string): string => readFileSync(new URL(`../../${path}`, import.meta.url), 'utf8');

describe('the types of the API', () => {
  it('are those of its description', () => {
    const document: unknown = JSON.parse(file('../docs/reference/openapi.json'));
    // When this fails: `busbar reference docs/reference`, then `npm run types` in web/.
    expect(file('src/lib/api.gen.ts')).toBe(generate(document));
  });

  it('follow each kind of schema', () => {
    const text = generate({
      components: {
        schemas: {
          B: {
            type: 'object',
            description: 'A thing.',
            required: ['id', 'of'],
            properties: {
              id: { type: 'integer', description: 'Its number.' },
              of: { $ref: '#/components/schemas/A' },
              list: { type: ['array', 'null'], items: { oneOf: [{ type: 'string' }, { type: 'null' }] } },
              map: { type: 'object', additionalProperties: { type: 'boolean' } },
              any: {},
              'a-b': { type: 'object' },
            },
          },
          A: { type: 'string', enum: ['x', 'y'] },
        },
      },
    });
    expect(text.slice(text.indexOf('\n\n') + 1)).toBe(`
export type A = "x" | "y";

/** A thing. */
export interface B {
  /** Its number. */
  id: number;
  of: A;
  list?: (string | null)[] | null;
  map?: Record<string, boolean>;
  any?: unknown;
  "a-b"?: Record<string, unknown>;
}
`);
  });
});
