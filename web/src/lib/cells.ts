/** How values of an answer are shown, measured and chosen for a chart. */
import type { Field } from './types';

export function cellText(value: unknown): string {
  if (value === null || value === undefined) return 'null';
  if (typeof value === 'string') return value;
  if (typeof value === 'object') return JSON.stringify(value);
  return String(value);
}

const DECIMALS_MAX = 6;

/** How many decimals the numbers of a column are shown with, so that their points stand in one line. */
export function decimals(rows: unknown[][], column: number): number {
  let most = 0;
  for (const row of rows.slice(0, 1000)) {
    const value = row[column];
    if (typeof value !== 'number' || Number.isInteger(value)) continue;
    const text = String(value);
    const point = text.indexOf('.');
    if (point !== -1 && !text.includes('e')) most = Math.max(most, text.length - point - 1);
  }
  return Math.min(DECIMALS_MAX, most);
}

/** A value for a narrow place: the whole of it stands in `cellText`. */
export function cellShort(value: unknown, type: string, places: number): string {
  if (typeof value === 'number' && places > 0) {
    const size = Math.abs(value);
    // What so many decimals would show as nothing, or could not show, stays as it is.
    if (size === 0 || (size >= 1e-3 && size < 1e15)) return value.toFixed(places);
  }
  if (isTime(type) && typeof value === 'string') {
    return value.replace(/^(\d{4}-\d\d-\d\d)T(\d\d:\d\d:\d\d)(?:\.0*(?=Z))?([.\d]*Z)$/, '$1 $2$3');
  }
  return cellText(value);
}

export function isNumeric(type: string): boolean {
  return /^(u?int|float|decimal|double|bigint|real)/i.test(type);
}

export function isTime(type: string): boolean {
  return /^(timestamp|time|date)/i.test(type);
}

/** The width of each column in characters, from its name and its first rows. */
export function widths(columns: Field[], rows: unknown[][]): number[] {
  const sample = rows.slice(0, 60);
  return columns.map((column, i) => {
    const places = decimals(rows, i);
    const longest = Math.max(
      column.name.length,
      ...sample.map((row) => wide(cellShort(row[i], column.type, places))),
    );
    return Math.min(44, Math.max(6, longest)) + 4;
  });
}

/** Chinese characters take two places. */
function wide(text: string): number {
  let n = 0;
  for (const c of text.slice(0, 64)) n += c.codePointAt(0)! > 0x2e7f ? 2 : 1;
  return n;
}

/** The chart most people would ask for: time or words along the bottom, the first number upwards. */
export function suggestion(columns: Field[]): { x: number; y: number } | null {
  const y = columns.findIndex((c) => isNumeric(c.type));
  if (y === -1) return null;
  const time = columns.findIndex((c) => isTime(c.type));
  const words = columns.findIndex((c, i) => i !== y && !isNumeric(c.type));
  const other = columns.findIndex((_, i) => i !== y);
  const x = time !== -1 ? time : words !== -1 ? words : other;
  return { x: x === -1 ? y : x, y };
}

/** The values of a column as numbers for a chart; what is not one leaves a gap. */
export function numbers(rows: unknown[][], column: number): (number | null)[] {
  return rows.map((row) => {
    const value = row[column];
    const n =
      typeof value === 'number' ? value : typeof value === 'string' && value !== '' ? Number(value) : NaN;
    return Number.isFinite(n) ? n : null;
  });
}

/** RFC 4180, with a byte-order mark so that spreadsheets read the Chinese in it. */
export function csv(columns: Field[], rows: unknown[][]): string {
  const escape = (text: string) => (/[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text);
  const lines = [
    columns.map((c) => escape(c.name)),
    ...rows.map((row) => row.map((v) => (v === null ? '' : escape(cellText(v))))),
  ];
  return `\uFEFF${lines.map((l) => l.join(',')).join('\r\n')}\r\n`;
}
