import { describe, expect, it } from 'vitest';
import { helpsReplay, readFailed } from '../../src/lib/wire/versions';

const problem = (code: string) => ({ class: 'configuration', code, message: 'no', message_zh: '不' });

describe('what a deployment could not start', () => {
  it('is told of by flow', () => {
    const failed = { a: problem('flow.state-holds'), b: problem('flow.unknown-column') };
    const read = readFailed({ version: 3, applied: { deployed: ['c'], failed } });
    expect([...read.keys()]).toEqual(['a', 'b']);
    expect(helpsReplay(read.get('a')!)).toBe(true);
    expect(helpsReplay(read.get('b')!)).toBe(false);
    // A dry run applies nothing.
    expect(readFailed({ version: null, applied: null }).size).toBe(0);
  });
});
