import { describe, expect, it } from 'vitest';
import {
  cellShort,
  cellText,
  decimals,
  csv,
  isNumeric,
  isTime,
  numbers,
  suggestion,
  widths,
} from '../../src/lib/cells';
import { diff, folded } from '../../src/lib/diff';
import { layout } from '../../src/lib/layout';
import { dump, hex, size } from '../../src/lib/payload';
import { pushed } from '../../src/lib/ring';
import { href, parse } from '../../src/lib/router.svelte';
import { caret, quoted, replaced, sentence, tokens } from '../../src/lib/sqltext';
import { BACK_OFF_MS_MAX, BACK_OFF_MS_MIN, backOff } from '../../src/lib/sse';
import { Tail, TAIL_CHARS_MAX, TAIL_ROWS_MAX } from '../../src/lib/tail.svelte';
import { readLetters } from '../../src/lib/wire/dead';
import { readEvent } from '../../src/lib/wire/events';
import { readFlow } from '../../src/lib/wire/flows';
import { readLive } from '../../src/lib/wire/live';
import { readStreams } from '../../src/lib/wire/streams';

describe('routes', () => {
  it('go out and come back with any name', () => {
    for (const name of ['host', 'a/b', '流 1', '50%', 'x?y=z#w']) {
      const route = parse(href('streams', [name], { q: 'select 1 & 2' }));
      expect(route.page).toBe('streams');
      expect(route.args).toEqual([name]);
      expect(route.query.get('q')).toBe('select 1 & 2');
    }
    expect(parse('').page).toBe('');
    expect(parse('#/flows/%E0%A4%A').args).toEqual(['%E0%A4%A']);
  });
});

describe('what the node sends', () => {
  it('is read when it is not what we expect', () => {
    for (const bad of ['', 'x', '[]', 'null', '{}', '{"overview":1}']) expect(readLive(bad)).toBeNull();
    const live = readLive('{"overview":{"streams":[{"name":"a"},7,null],"history":3},"flows":"no"}');
    expect(live?.overview.streams[0]).toMatchObject({ name: 'a', rate: 0, topics: [] });
    expect(live?.overview.history).toEqual({ step_s: 1, in: [], out: [] });
    expect(live?.flows).toEqual([]);
    expect(readEvent('{"topic":1}')).toBeNull();
    expect(readStreams([{ name: 'b' }])).toHaveLength(1);
    expect(readStreams({ streams: [{ name: 'b' }] })).toHaveLength(1);
    expect(
      readLetters({
        letters: [
          { id: 1, event: {} },
          { id: 'x', event: { topic: 't' } },
        ],
      }),
    ).toHaveLength(1);
  });

  it('is checked for conservation', () => {
    expect(readFlow({ in: 10, out: 6, filtered: 3, dead: 1, held: 0 }).conservation.balanced).toBe(true);
    expect(readFlow({ in: 10, out: 6, filtered: 3, dead: 0, held: 0 }).conservation.balanced).toBe(false);
  });
});

describe('the live tail', () => {
  let n = 0;
  const message = (topics: string[], matched = topics.length, payload: unknown = {}) =>
    JSON.stringify({
      events: topics.map((topic) => ({ topic, time: '2026-01-01T00:00:00Z', offset: n++, payload })),
      matched,
      rate: 12_345.6,
      behind: 7,
    });

  it('keeps the newest rows and counts all events', () => {
    const tail = new Tail();
    for (let i = 0; i < TAIL_ROWS_MAX; i += 50)
      tail.take(
        message(
          Array.from({ length: 100 }, (_, j) => `t/${i * 2 + j}`),
          1500,
        ),
      );
    expect(tail.rows).toHaveLength(TAIL_ROWS_MAX);
    expect(tail.rows[0]!.event.topic).toBe(`t/${TAIL_ROWS_MAX * 2 - 1}`);
    expect(tail.received).toBe((TAIL_ROWS_MAX / 50) * 1500);
    expect([tail.sampled, tail.bounded, tail.rate, tail.behind]).toEqual([true, true, 12_345.6, 7]);
  });

  it('stands still while paused, counts what comes, and shows it afterwards', () => {
    const tail = new Tail();
    tail.take(message(['a']));
    tail.pause(true);
    for (let i = 0; i < 5; i += 1) tail.take(message([`b/${i}`], 10));
    expect([tail.rows.length, tail.held]).toEqual([1, 50]);
    tail.pause(false);
    expect(tail.rows.map((row) => row.event.topic)).toEqual(['b/4', 'b/3', 'b/2', 'b/1', 'b/0', 'a']);
    expect(tail.held).toBe(0);
  });

  it('is bounded in rows and characters, paused or not', () => {
    const tail = new Tail();
    const large = 'x'.repeat(1024 * 1024);
    const most = Math.ceil(TAIL_CHARS_MAX / large.length);
    for (let i = 0; i < 40; i += 1) tail.take(message([`l/${i}`], 1, large));
    expect(tail.rows.length).toBeLessThanOrEqual(most);
    expect(tail.rows.length).toBeGreaterThanOrEqual(most - 2);
    tail.pause(true);
    for (let i = 40; i < 80; i += 1) tail.take(message([`l/${i}`], 1, large));
    tail.pause(false);
    expect(tail.rows.length).toBeLessThanOrEqual(most);
    expect(tail.rows[0]!.event.topic).toBe('l/79');
    expect(tail.bounded).toBe(true);
  });
});

describe('a payload that is not text', () => {
  const base64 = (bytes: number[]) => Buffer.from(bytes).toString('base64');

  it('is shown as bytes, with its size', () => {
    for (const n of [0, 1, 2, 3, 17, 300]) expect(size(base64(Array<number>(n).fill(7)))).toBe(n);
    expect(hex(base64([0, 255, 16]), 8)).toBe('00 ff 10');
    expect(hex(base64([0, 255, 16]), 2)).toBe('00 ff …');
    const text = [...'AB'].map((c) => c.charCodeAt(0));
    expect(dump(base64([...text, 0, 0x80, ...Array<number>(12).fill(0x2e), 0x43]), 64).split('\n')).toEqual([
      '00000000  41 42 00 80 2e 2e 2e 2e 2e 2e 2e 2e 2e 2e 2e 2e  AB..............',
      `00000010  43${' '.repeat(45)}  C`,
    ]);
    expect(dump(base64(Array<number>(1000).fill(1)), 32).split('\n')).toHaveLength(2);
  });
});

describe('reconnecting', () => {
  it('waits longer each time, within bounds', () => {
    expect(backOff(0, () => 0)).toBe(BACK_OFF_MS_MIN / 2);
    expect(backOff(3, () => 1)).toBe(BACK_OFF_MS_MIN * 8);
    for (const n of [10, 100, 10_000]) expect(backOff(n, () => 1)).toBe(BACK_OFF_MS_MAX);
  });

  it('has a ring for its history', () => {
    expect(pushed([1, 2, 3], 4, 3)).toEqual([2, 3, 4]);
    expect(pushed([], 1, 3)).toEqual([1]);
  });
});

describe('differences', () => {
  const text = (lines: ReturnType<typeof diff>, sides: string[]) =>
    lines.filter((l) => sides.includes(l.kind)).map((l) => l.text);

  it('rebuild both sides', () => {
    let seed = 1;
    const random = (n: number) => (seed = (seed * 16807) % 2147483647) % n;
    for (let round = 0; round < 200; round += 1) {
      const a = Array.from({ length: random(12) }, () => String(random(4)));
      const b = Array.from({ length: random(12) }, () => String(random(4)));
      const lines = diff(a.join('\n'), b.join('\n'));
      const clean = (l: string[]) => (l.length === 1 && l[0] === '' ? [] : l);
      expect(text(lines, ['same', 'removed'])).toEqual(clean(a));
      expect(text(lines, ['same', 'added'])).toEqual(clean(b));
    }
  });

  it('fold what did not change', () => {
    const a = Array.from({ length: 40 }, (_, i) => `line ${i}`);
    const b = a.with(20, 'other');
    const lines = folded(diff(a.join('\n'), b.join('\n')));
    expect(lines.filter((l) => l.kind === 'fold').map((l) => l.text)).toEqual(['17', '16']);
    expect(lines.find((l) => l.kind === 'added')).toMatchObject({ text: 'other', new: 21 });
  });
});

describe('SQL text', () => {
  it('is coloured without losing a character', () => {
    for (const sql of ["select 'it''s', \"x\" -- c\nfrom t where a >= 1.5", "'open", '', '流 #!', '--']) {
      expect(
        tokens(sql)
          .map((x) => x.text)
          .join(''),
      ).toBe(sql);
    }
    expect(tokens('Select a').map((x) => x.kind)).toEqual(['keyword', 'plain', 'word']);
  });

  it('shows where an error is, by bytes of UTF-8', () => {
    expect(caret('select a,\n  valu from t', { start: 12, end: 16 })).toEqual({
      line: 2,
      column: 3,
      text: '  valu from t',
      mark: '  ^^^^',
    });
    // 表 is three bytes and two columns wide.
    expect(caret('select 表, valu', { start: 12, end: 16 })).toMatchObject({
      column: 11,
      mark: '       \u3000  ^^^^',
    });
    expect(caret('select 表', { start: 7, end: 10 })?.mark).toBe('       ^^');
    expect(caret('ab', { start: 99, end: 120 })?.mark).toBe('  ^');
    expect(caret('a\nb', { start: 0, end: 3 })).toBeNull();
  });

  it('puts a suggestion in the place of what it is for', () => {
    expect(replaced('select 表, metre from t', { start: 12, end: 17 }, 'meter')).toBe(
      'select 表, meter from t',
    );
  });

  it('begins a sentence as one, but no name', () => {
    expect(sentence('there is no column "a"')).toBe('There is no column "a"');
    expect(sentence('no result: Cast error')).toBe('No result: Cast error');
    for (const same of ['http://a/b does not answer', 'busbar.toml is missing', '没有列', ''])
      expect(sentence(same)).toBe(same);
  });

  it('quotes a name only when it must', () => {
    expect([quoted('host'), quoted('dead-letters'), quoted('a"b')]).toEqual([
      'host',
      '"dead-letters"',
      '"a""b"',
    ]);
  });
});

describe('answers', () => {
  const columns = [
    { name: 'at', type: 'time' },
    { name: 'host', type: 'text' },
    { name: 'n', type: 'int' },
  ];

  it('suggest a chart', () => {
    expect(suggestion(columns)).toEqual({ x: 0, y: 2 });
    expect(suggestion(columns.slice(1))).toEqual({ x: 0, y: 1 });
    expect(suggestion([columns[1]!])).toBeNull();
    expect([
      isNumeric('uint'),
      isNumeric('Float64'),
      isNumeric('text'),
      isTime('time'),
      isTime('Timestamp(µs)'),
    ]).toEqual([true, true, false, true, true]);
    expect(numbers([[1], ['2.5'], [null], ['x'], ['']], 0)).toEqual([1, 2.5, null, null, null]);
  });

  it('become CSV that spreadsheets read', () => {
    expect(
      csv(columns.slice(1), [
        ['a,"b"', 1],
        [null, 2],
      ]),
    ).toBe('\uFEFFhost,n\r\n"a,""b""",1\r\n,2\r\n');
  });

  it('have columns as wide as what is in them, within bounds', () => {
    expect(widths([{ name: 'x', type: 'text' }], [['网络网络']])).toEqual([12]);
    expect(widths([{ name: 'x', type: 'text' }], [['y'.repeat(500)]])).toEqual([48]);
    expect(cellText({ a: 1 })).toBe('{"a":1}');
  });

  it('stand with their decimal points in one line', () => {
    const rows = [[1.64], [2.123], [0], [12], [1.2345678901]];
    expect(decimals(rows, 0)).toBe(6);
    expect(rows.slice(0, 4).map((row) => cellShort(row[0], 'float', 3))).toEqual([
      '1.640',
      '2.123',
      '0.000',
      '12.000',
    ]);
    // What so few decimals would show as nothing is shown as it is.
    expect(cellShort(0.0000012, 'float', 3)).toBe('0.0000012');
    expect(cellShort(7, 'int', 0)).toBe('7');
  });

  it('show times as SQL has them, without empty decimals', () => {
    expect(cellShort('2026-11-22T05:24:00.000000Z', 'time', 0)).toBe('2026-11-22 05:24:00Z');
    expect(cellShort('2026-11-22T05:24:00.120000Z', 'time', 0)).toBe('2026-11-22 05:24:00.120000Z');
    expect(cellShort('2026-11-22T05:24:00.000000Z', 'text', 0)).toBe('2026-11-22T05:24:00.000000Z');
  });
});

describe('the graph', () => {
  const edges = [
    { from: 'a', to: 'b' },
    { from: 'b', to: 'c' },
    { from: 'b', to: 'd' },
  ];
  const size = { width: 100, height: 50, gapX: 20, gapY: 10 };

  it('runs from left to right, outputs above one another', () => {
    const at = Object.fromEntries(
      layout(['a', 'b', 'c', 'd'], edges, { ...size, down: false }).map((p) => [p.id, [p.x, p.y]]),
    );
    expect(at).toEqual({ a: [0, 0], b: [120, 0], c: [240, -30], d: [240, 30] });
  });

  it('is one column on a phone', () => {
    const placed = layout(['a', 'b', 'c', 'd'], edges, { ...size, down: true });
    expect(placed.map((p) => [p.x, p.y, p.branch])).toEqual([
      [0, 0, false],
      [0, 60, false],
      [20, 120, true],
      [20, 180, true],
    ]);
  });

  it('does not hang on a cycle', () => {
    expect(
      layout(
        ['a', 'b'],
        [
          { from: 'a', to: 'b' },
          { from: 'b', to: 'a' },
        ],
        { ...size, down: false },
      ),
    ).toHaveLength(2);
  });
});
