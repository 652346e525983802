import { describe, expect, it } from 'vitest';
import {
  bytes,
  clock,
  duration,
  moment,
  percent,
  short,
  spaced,
  stamp,
  whole,
  zone,
} from '../../src/lib/format';
import { ago } from '../../src/lib/f';
import { fill, preferred } from '../../src/lib/i18n.svelte';

describe('numbers', () => {
  it('are short in the steps of each language', () => {
    expect(
      [0, 7, 0.25, 12.34, 999, 9_999, 12_345, 1_234_567, 2_500_000_000].map((n) => short(n, 'en')),
    ).toEqual(['0', '7', '0.25', '12.3', '999', '9,999', '12.3 k', '1.23 M', '2.5 G']);
    expect([9_999, 12_345, 1_234_567, 250_000_000].map((n) => short(n, 'zh'))).toEqual([
      '9,999',
      '1.23 万',
      '123 万',
      '2.5 亿',
    ]);
  });

  it('that are none are a dash, not NaN', () => {
    expect([
      short(null, 'en'),
      whole(undefined, 'zh'),
      bytes(Number.NaN, 'en'),
      duration(null, 'en'),
      percent(0 / 0, 'en'),
    ]).toEqual(Array(5).fill('–'));
  });

  it('of bytes and spans carry units', () => {
    expect([0, 1023, 1024, 1_572_864, 3e12].map((n) => bytes(n, 'en'))).toEqual([
      '0 B',
      '1,023 B',
      '1 KiB',
      '1.5 MiB',
      '2.73 TiB',
    ]);
    expect([0, 0.00005, 0.0048, 0.25, 3.14, 59, 65, 7265, 90_000].map((s) => duration(s, 'en'))).toEqual([
      '0 s',
      '50 µs',
      '4.8 ms',
      '250 ms',
      '3.1 s',
      '59 s',
      '1 min 5 s',
      '2 h 1 min',
      '1 d 1 h',
    ]);
    expect([7265, 300, 308].map((s) => duration(s, 'zh'))).toEqual(['2 小时 1 分', '5 分钟', '5 分 8 秒']);
  });

  it('of a file of the project have the units of the language', () => {
    expect(['10m', '90s', '30d', '500ms', '4GB'].map((text) => spaced(text, 'en'))).toEqual([
      '10 min',
      '1 min 30 s',
      '30 d',
      '500 ms',
      '4\u00a0GB',
    ]);
    expect(['1m', '30d'].map((text) => spaced(text, 'zh'))).toEqual(['1 分钟', '30 天']);
  });

  it('of a clock that is ahead say so', () => {
    const now = Date.parse('2026-01-01T00:00:10Z');
    // Before a catalogue is loaded a text is its key.
    expect(
      ['2026-01-01T00:00:07Z', '2026-01-01T00:00:11Z', '2026-01-01T01:00:10Z'].map((at) => ago(at, now)),
    ).toEqual(['time.ago', 'time.now', 'time.ahead']);
  });

  it('have a zone', () => {
    const at = (offset: number) => zone({ getTimezoneOffset: () => offset } as Date, false);
    expect([at(0), at(-480), at(210), at(-345)]).toEqual(['UTC', 'UTC+8', 'UTC−3:30', 'UTC+5:45']);
    expect(zone({ getTimezoneOffset: () => -480 } as Date, true)).toBe('UTC');
  });

  it('of times keep their digits', () => {
    const time = '2026-11-22T06:03:07.123450Z';
    expect(clock(time, true)).toBe('06:03:07.123');
    expect(moment(time, true)).toBe('2026-11-22 06:03:07 UTC');
    expect(stamp(time, true)).toBe('2026-11-22 06:03:07.12345');
    expect(stamp('2026-11-22T06:03:07.000000Z', true)).toBe('2026-11-22 06:03:07');
    expect(stamp('no time', true)).toBe('no time');
  });
});

describe('texts', () => {
  it('follow the browser to the first language we speak', () => {
    expect([
      preferred(['zh-TW', 'en']),
      preferred(['fr', 'zh-CN']),
      preferred(['de']),
      preferred([]),
      preferred(['en-US', 'zh']),
    ]).toEqual(['zh', 'zh', 'en', 'en', 'en']);
  });

  it('keep a placeholder that has no value', () => {
    expect(fill('{a} of {b}', { a: 1 })).toBe('1 of {b}');
    expect(fill('{toString}', {})).toBe('{toString}');
  });
});
