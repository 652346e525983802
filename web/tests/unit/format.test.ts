import { describe, expect, it } from 'vitest';
import { bytes, duration, percent, short, whole, zone } from '../../src/lib/format';
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
    expect(duration(7265, 'zh')).toBe('2 小时 1 分');
  });

  it('have a zone', () => {
    const at = (offset: number) => zone({ getTimezoneOffset: () => offset } as Date, 'en');
    expect([at(0), at(-480), at(210), at(-345)]).toEqual(['UTC', 'UTC+8', 'UTC−3:30', 'UTC+5:45']);
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
