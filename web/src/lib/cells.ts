/** How the values of an answer are shown, measured and chosen for a chart. */
import { Exact, isNumber, stringify } from './json';
import type { Field } from './types';

export function cellText(value: unknown): string {
  if (value === null || value === undefined) return 'null';
  if (typeof value === 'string') return value;
  return value instanceof Exact || typeof value !== 'object' ? String(value) : stringify(value);
}

const DECIMALS_MAX = 6;

/** How many decimals the numbers of a column are shown with, so that their points stand in one line. */
export function decimals(rows: unknown[][], column: number): number {
  let most = 0;
  for (const row of rows.slice(0, 1000)) {
    const value = row[column];
    if (!isNumber(value) || Number.isInteger(value)) continue;
    const text = String(value);
    const point = text.indexOf('.');
    if (point !== -1 && !text.includes('e')) most = Math.max(most, text.length - point - 1);
  }
  return Math.min(DECIMALS_MAX, most);
}

/** A value for a narrow place: the whole of it stands in `cellText`. */
export function cellShort(value: unknown, type: string, places: number): string {
  if (isNumber(value) && places > 0 && /^float/.test(type)) {
    const number = Number(value);
    const size = Math.abs(number);
    // A number that would lose digits, or be shown as zero, stays as it is.
    if (size === 0 || (size >= 1e-3 && size < 1e9)) return number.toFixed(places);
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
    const n = isNumber(value)
      ? Number(value)
      : typeof value === 'string' && value !== ''
        ? Number(value)
        : NaN;
    return Number.isFinite(n) ? n : null;
  });
}

/** CSV as RFC 4180 says. Null is empty, an empty text is `""`. */
export function csv(columns: Field[], rows: unknown[][]): string {
  return csvHead(columns) + rows.map(csvRow).join('');
}

/** The first line, with a byte-order mark so that spreadsheets read Chinese. */
export function csvHead(columns: Field[]): string {
  return `\uFEFF${columns.map((c) => quoted(c.name)).join(',')}\r\n`;
}

export function csvRow(row: unknown[]): string {
  return `${row.map((v) => (v === null ? '' : quoted(cellText(v)))).join(',')}\r\n`;
}

const quoted = (text: string): string =>
  text === '' || /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
