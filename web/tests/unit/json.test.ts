import { describe, expect, it } from 'vitest';
import { cellShort, cellText, csv, numbers } from '../../src/lib/cells';
import { Exact, parse, stringify, typedNumber } from '../../src/lib/json';
import { text } from '../../src/lib/payload';
import { readEvent } from '../../src/lib/wire/events';
import { readInstance } from '../../src/lib/wire/orchestrations';

describe('JSON without loss', () => {
  it('prints every number back as it came', () => {
    for (const number of [
      '0',
      '-0',
      '7',
      '9007199254740993',
      '18446744073709551615',
      '-9223372036854775808',
      '1.10',
      '1.0',
      '0.1',
      '1e5',
      '1E400',
      '123456789.123456789',
      '3.141592653589793',
      '12345678901234567890.5',
    ]) {
      const document = `{"a":[${number},{"b":${number}}],"c":"${number}"}`;
      expect(stringify(parse(document))).toBe(document);
    }
  });

  it('sends numbers that were typed with all of their digits, and what is none as it was typed', () => {
    const sent = (text: string) => stringify({ n: typedNumber(text) });
    expect(sent('9007199254740993')).toBe('{"n":9007199254740993}');
    expect(sent(' 1.10 ')).toBe('{"n":1.10}');
    expect(sent('7')).toBe('{"n":7}');
    for (const none of ['abc', '1,5', '0x1f', 'NaN', '1 2'])
      expect(sent(none)).toBe(`{"n":${JSON.stringify(none)}}`);
  });

  it('shows what happened to an instance with the numbers as they came', () => {
    const answer =
      '{"history":[{"before":null,"after":{"amount":9000.0,"id":9007199254740993}}],' +
      '"failure":{"message":"no","message_zh":"否"}}';
    const [happened] = readInstance(parse(answer)).history;
    expect(readInstance(parse(answer)).failure).toEqual({ message: 'no', message_zh: '否' });
    expect([happened?.before, happened?.after]).toEqual(['', '{"amount":9000.0,"id":9007199254740993}']);
  });

  it('makes plain numbers of those that JavaScript has', () => {
    expect(parse('{"a":1.5,"b":[9007199254740991,"1.10"]}')).toEqual({
      a: 1.5,
      b: [9007199254740991, '1.10'],
    });
    expect(parse('9007199254740993')).toEqual(new Exact('9007199254740993'));
  });

  it('reads and refuses what JSON.parse reads and refuses', () => {
    // With a number that needs the own parser in each.
    for (const good of [
      ' { "a" : [ ] , "b" : { } , "n" : 1.0 } ',
      '["\\u00e9\\n\\"", true, false, null, 1.0]',
      '{"__proto__": 1, "x": 1.0}',
      '"1.0"',
      '[1.0,\t2]',
    ])
      expect(JSON.stringify(parse(good), (_, v: unknown) => (v instanceof Exact ? Number(v) : v))).toBe(
        JSON.stringify(JSON.parse(good)),
      );
    for (const bad of [
      '[1.0',
      '[1.0,]',
      '{"a":1.0,}',
      '{a:1.0}',
      '[01.0]',
      '[.10]',
      '["\n",1.0]',
      '[1.0] 2',
      '{"a" 1.0}',
      'nul1.0',
      '["\\x",1.0]',
    ])
      expect(() => parse(bad), bad).toThrow(SyntaxError);
    expect(() => parse(`${'['.repeat(100_000)}1.0`)).toThrow(SyntaxError);
  });

  it('can be written over several lines', () => {
    expect(stringify(parse('{"a":[1.0,2],"b":{},"c":[]}'), '  ')).toBe(
      '{\n  "a": [\n    1.0,\n    2\n  ],\n  "b": {},\n  "c": []\n}',
    );
  });
});

describe('large numbers on screen', () => {
  const id = parse('9007199254740993');

  it('keep their digits in cells, exports and payloads', () => {
    expect(cellText(id)).toBe('9007199254740993');
    expect(cellShort(id, 'int', 0)).toBe('9007199254740993');
    expect(cellText(parse('[18446744073709551615]'))).toBe('[18446744073709551615]');
    expect(csv([{ name: 'id', type: 'uint' }], [[parse('18446744073709551615')]])).toContain(
      '\n18446744073709551615\r\n',
    );
    const event = readEvent('{"topic":"t","time":"x","payload":{"id":9007199254740993,"v":1.10}}');
    expect(text(event!)).toBe('{"id":9007199254740993,"v":1.10}');
  });

  it('are drawn where they are, as near as a screen can tell', () => {
    expect(numbers([[id], [1], [parse('1.0')], ['x'], [null]], 0)).toEqual([
      9007199254740992,
      1,
      1,
      null,
      null,
    ]);
  });

  it('an empty text and no value differ in CSV', () => {
    const column = [{ name: 'a', type: 'text' }];
    expect(csv(column, [[''], [null]])).toBe('\uFEFFa\r\n""\r\n\r\n');
  });
});
