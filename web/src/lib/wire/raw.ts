/**
 * What all answers are made of. Nothing from outside is trusted to have the shape we expect: a list that is
 * missing is empty, a number that is missing is zero, and what cannot be read at all is left out.
 */
import { Exact, isNumber, parse } from '../json';
import type { ApiProblem, Diagnostic, Field, FlowSummary } from '../types';

export type Raw = Record<string, unknown>;

export const isObject = (v: unknown): v is Raw =>
  typeof v === 'object' && v !== null && !Array.isArray(v) && !(v instanceof Exact);

export const object = (v: unknown): Raw => (isObject(v) ? v : {});

export const num = (v: unknown): number => {
  const n = v instanceof Exact ? Number(v) : v;
  return typeof n === 'number' && Number.isFinite(n) ? n : 0;
};

export const str = (v: unknown): string => (typeof v === 'string' ? v : isNumber(v) ? String(v) : '');

/** A span or size as the file has it: text, or a number. */
export const shown = (v: unknown): string | null => str(v) || null;

export const opt = (v: unknown): string | null => (typeof v === 'string' ? v : null);
export const objects = (v: unknown): Raw[] => (Array.isArray(v) ? v.filter(isObject) : []);

export const strings = (v: unknown): string[] =>
  Array.isArray(v) ? v.filter((s): s is string => typeof s === 'string') : typeof v === 'string' ? [v] : [];

export const nums = (v: unknown): number[] => (Array.isArray(v) ? v.map(num) : []);

/** The list in an answer, which may be the answer itself or under its name. */
export function list(v: unknown, name: string): Raw[] {
  return objects(Array.isArray(v) ? v : object(v)[name]);
}

export function parsed(data: string): Raw | null {
  try {
    const value: unknown = parse(data);
    return isObject(value) ? value : null;
  } catch {
    return null;
  }
}

export const problemIn = (v: unknown): FlowSummary['error'] =>
  isObject(v) && typeof v.message === 'string' ? (v as unknown as FlowSummary['error']) : null;

export const problems = (v: unknown): ApiProblem[] => objects(v).flatMap((one) => problemIn(one) ?? []);

export function fields(v: unknown): Field[] {
  return objects(v).map((f) => ({ name: str(f.name), type: str(f.type) }));
}

export function diagnostic(v: Raw): Diagnostic {
  return {
    severity: str(v.severity) || 'error',
    file: str(v.file),
    line: num(v.line),
    column: num(v.column),
    code: str(v.code),
    message: str(v.message),
    message_zh: opt(v.message_zh) ?? undefined,
    help: opt(v.help) ?? undefined,
    help_zh: opt(v.help_zh) ?? undefined,
  };
}

/** Members that are texts. */
export function texts(v: unknown): Record<string, string> {
  return Object.fromEntries(Object.entries(object(v)).map(([name, value]) => [name, str(value)]));
}
