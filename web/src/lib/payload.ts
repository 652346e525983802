/** Payloads as people read them: JSON as one line, text as it is, bytes as a hex dump. */
import { stringify } from './json';
import type { BusEvent } from './types';

/** Bytes of a payload that a row shows. */
export const PREVIEW_BYTES = 64;
/** What an opened event shows of its payload; a page with megabytes of text in it would not answer. */
export const SHOWN_BYTES_MAX = 64 * 1024;
const ROW_BYTES = 16;

/** The base64 of a payload that is not text, else null. */
export const binary = (event: BusEvent): string | null => event.payload_base64 ?? null;

/** Text to search and show of an event's payload. */
export function text(event: BusEvent): string {
  if (event.payload_base64 !== undefined) return event.payload_base64;
  if (event.payload === undefined || event.payload === null) return '';
  return typeof event.payload === 'string' ? event.payload : stringify(event.payload);
}

/** How many bytes a base64 text stands for. */
export function size(base64: string): number {
  const pads = base64.endsWith('==') ? 2 : base64.endsWith('=') ? 1 : 0;
  return Math.max(0, Math.floor((base64.length * 3) / 4) - pads);
}

/** The first bytes as `0a 1f …`. */
export function hex(base64: string, most: number): string {
  const shown = [...decoded(base64, most)].map(two).join(' ');
  return size(base64) > most ? `${shown} …` : shown;
}

/** Offset, bytes and characters, sixteen a line, as engineers read them. */
export function dump(base64: string, most: number): string {
  const all = decoded(base64, most);
  const lines: string[] = [];
  for (let at = 0; at < all.length; at += ROW_BYTES) {
    const row = [...all.subarray(at, at + ROW_BYTES)];
    const bytes = row
      .map(two)
      .join(' ')
      .padEnd(ROW_BYTES * 3 - 1);
    const signs = row.map((b) => (b >= 0x20 && b < 0x7f ? String.fromCharCode(b) : '.')).join('');
    lines.push(`${at.toString(16).padStart(8, '0')}  ${bytes}  ${signs}`);
  }
  return lines.join('\n');
}

function decoded(base64: string, most: number): Uint8Array {
  // Whole groups of four characters are three bytes: only what is shown is decoded.
  const part = base64.slice(0, Math.ceil(most / 3) * 4);
  return Uint8Array.from(atob(part), (c) => c.charCodeAt(0)).subarray(0, most);
}

const two = (byte: number): string => byte.toString(16).padStart(2, '0');
