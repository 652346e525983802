/** Numbers with units and times with their zone. Pure functions: language and zone are arguments. */
import type { Language } from './i18n.svelte';

const NONE = '–';
const LOCALE: Record<Language, string> = { en: 'en-GB', zh: 'zh-CN' };
const STEPS: Record<Language, [number, string][]> = {
  en: [
    [1e9, ' G'],
    [1e6, ' M'],
    [1e4, ' k'],
  ],
  zh: [
    [1e8, ' 亿'],
    [1e4, ' 万'],
  ],
};

function digits(n: number, language: Language, max: number): string {
  return n.toLocaleString(LOCALE[language], { maximumFractionDigits: max });
}

/** Three significant digits at most: `12.3 k`, `1.23 万`; small numbers keep what they have. */
export function short(n: number | null | undefined, language: Language): string {
  if (n === null || n === undefined || !Number.isFinite(n)) return NONE;
  const size = Math.abs(n);
  for (const [step, name] of STEPS[language]) {
    if (size >= step) {
      const scaled = n / step;
      const at = Math.abs(scaled);
      // English counts thousands from ten thousand on, so the thousands have a step of their own.
      const value = name === ' k' ? n / 1e3 : scaled;
      const shown = name === ' k' ? Math.abs(value) : at;
      return digits(value, language, shown >= 100 ? 0 : shown >= 10 ? 1 : 2) + name;
    }
  }
  return digits(n, language, size >= 100 || Number.isInteger(n) ? 0 : size >= 10 ? 1 : 2);
}

/** With at most so many decimals. */
export function number(n: number | null | undefined, language: Language, decimals: number): string {
  if (n === null || n === undefined || !Number.isFinite(n)) return NONE;
  return digits(n, language, decimals);
}

export function whole(n: number | null | undefined, language: Language): string {
  if (n === null || n === undefined || !Number.isFinite(n)) return NONE;
  return digits(n, language, 0);
}

export function bytes(n: number | null | undefined, language: Language): string {
  if (n === null || n === undefined || !Number.isFinite(n)) return NONE;
  const units = ['B', 'KiB', 'MiB', 'GiB', 'TiB', 'PiB'];
  let unit = 0;
  let value = n;
  while (Math.abs(value) >= 1024 && unit < units.length - 1) {
    value /= 1024;
    unit += 1;
  }
  return `${digits(value, language, value >= 100 || unit === 0 ? 0 : value >= 10 ? 1 : 2)} ${units[unit]}`;
}

export function percent(part: number, language: Language): string {
  if (!Number.isFinite(part)) return NONE;
  return part.toLocaleString(LOCALE[language], {
    style: 'percent',
    maximumFractionDigits: part < 0.1 ? 1 : 0,
  });
}

const TIME_UNITS: Record<Language, { d: string; h: string; min: string; s: string; ms: string; us: string }> =
  {
    en: { d: 'd', h: 'h', min: 'min', s: 's', ms: 'ms', us: 'µs' },
    zh: { d: '天', h: '小时', min: '分', s: '秒', ms: '毫秒', us: '微秒' },
  };

/** The two largest units of a span: `2 h 5 min`, `850 ms`. */
export function duration(seconds: number | null | undefined, language: Language): string {
  if (seconds === null || seconds === undefined || !Number.isFinite(seconds)) return NONE;
  const u = TIME_UNITS[language];
  const s = Math.max(0, seconds);
  if (s === 0) return `0 ${u.s}`;
  if (s < 0.001) return `${digits(s * 1e6, language, 0)} ${u.us}`;
  if (s < 1) return `${digits(s * 1e3, language, s < 0.01 ? 1 : 0)} ${u.ms}`;
  if (s < 60) return `${digits(s, language, s < 10 ? 1 : 0)} ${u.s}`;
  const parts: [number, string][] = [
    [Math.floor(s / 86400), u.d],
    [Math.floor((s % 86400) / 3600), u.h],
    [Math.floor((s % 3600) / 60), u.min],
    [Math.floor(s % 60), u.s],
  ];
  const first = parts.findIndex(([n]) => n > 0);
  const told = parts.slice(first, first + 2).filter(([n]) => n > 0);
  // Alone, minutes have their full word: 5 分钟, but 2 小时 5 分.
  if (told.length === 1 && told[0]![1] === TIME_UNITS.zh.min) return `${told[0]![0]} 分钟`;
  return told.map(([n, unit]) => `${n} ${unit}`).join(' ');
}

const SPAN_S: Record<string, number> = { ms: 1e-3, s: 1, m: 60, h: 3600, d: 86_400 };

/** A span or size as a file of the project has it: `10m` is `10 min`, `4GB` is `4 GB`. */
export function spaced(text: string, language: Language): string {
  const [, n, unit] = /^(\d+)\s*([a-z]+)$/.exec(text.trim()) ?? [];
  const seconds = unit === undefined ? undefined : SPAN_S[unit];
  if (seconds !== undefined) return duration(Number(n) * seconds, language);
  return text.replace(/(\d)([A-Za-zµ])/g, '$1\u00a0$2');
}

export type Time = string | number | Date | null | undefined;

/** Date and time of day in UTC or in the browser's zone, from which the formats below are cut. */
function parts(date: Date, utc: boolean): { day: string; at: string; millis: string } {
  // The local time, as if it were UTC.
  const shifted = utc ? date : new Date(date.getTime() - date.getTimezoneOffset() * 60_000);
  const [day = '', rest = ''] = shifted.toISOString().split('T');
  return { day, at: rest.slice(0, 8), millis: rest.slice(8, 12) };
}

/** `14:03:07.123`. */
export function clock(time: Time, utc: boolean): string {
  const date = asDate(time);
  if (!date) return NONE;
  const { at, millis } = parts(date, utc);
  return at + millis;
}

/** Date, time and zone: `2026-11-22 14:03:07 UTC+8`. */
export function moment(time: Time, utc: boolean): string {
  const date = asDate(time);
  if (!date) return NONE;
  const { day, at } = parts(date, utc);
  return `${day} ${at} ${zone(date, utc)}`;
}

/** Date and time with all digits of the text, without the zone: `2026-11-22 14:03:07.123456`. */
export function stamp(text: string, utc: boolean): string {
  const date = asDate(text);
  if (!date) return text;
  const { day, at } = parts(date, utc);
  const fraction = /\.(\d+)/.exec(text)?.[1]?.replace(/0+$/, '') ?? '';
  return `${day} ${at}${fraction === '' ? '' : `.${fraction}`}`;
}

/** The zone as people write it: `UTC`, `UTC+8`, `UTC−3:30`. */
export function zone(date: Date, utc: boolean): string {
  const minutes = utc ? 0 : -date.getTimezoneOffset();
  if (minutes === 0) return 'UTC';
  const size = Math.abs(minutes);
  return `UTC${minutes < 0 ? '−' : '+'}${Math.floor(size / 60)}${size % 60 ? `:${two(size % 60)}` : ''}`;
}

export function asDate(time: Time): Date | null {
  if (time === null || time === undefined || time === '') return null;
  const date = time instanceof Date ? time : new Date(time);
  return Number.isNaN(date.getTime()) ? null : date;
}

function two(n: number): string {
  return String(n).padStart(2, '0');
}
