/**
 * JSON without loss: a number that JavaScript cannot print back as it came (an integer above 2^53, `1.10`,
 * `1e400`) becomes an `Exact` with its text; all others are plain numbers.
 */

/** A number with the digits it was sent with. */
export class Exact {
  constructor(readonly text: string) {}

  /** The nearest number that JavaScript has. */
  valueOf(): number {
    return Number(this.text);
  }

  toString(): string {
    return this.text;
  }
}

export const isNumber = (value: unknown): value is number | Exact =>
  typeof value === 'number' || value instanceof Exact;

/** A text may only hold a number that changes when it has one of these; others are parsed natively. */
const SUSPECT = /\d{16}|\.\d*0(?!\d)|\d[eE]|-0(?![.\d])|\.\d{7}/;
/** Nesting, at most: what the node sends is not deeper. */
const DEPTH_MAX = 512;

export function parse(text: string): unknown {
  return SUSPECT.test(text) ? new Parser(text).document() : JSON.parse(text);
}

/** The value as JSON, with numbers as they came. */
export function stringify(value: unknown, indent = ''): string {
  return write(value, indent, '\n');
}

function write(value: unknown, indent: string, line: string): string {
  if (value instanceof Exact) return value.text;
  if (typeof value !== 'object' || value === null) return JSON.stringify(value) ?? 'null';
  const deeper = line + indent;
  const wrap = (open: string, parts: string[], close: string): string => {
    if (parts.length === 0) return open + close;
    return indent === ''
      ? open + parts.join(',') + close
      : `${open}${deeper}${parts.join(`,${deeper}`)}${line}${close}`;
  };
  if (Array.isArray(value))
    return wrap(
      '[',
      value.map((one) => write(one, indent, deeper)),
      ']',
    );
  const colon = indent === '' ? ':' : ': ';
  const members = Object.entries(value).filter(([, one]) => one !== undefined);
  return wrap(
    '{',
    members.map(([key, one]) => JSON.stringify(key) + colon + write(one, indent, deeper)),
    '}',
  );
}

/** What was typed into a field for a number: with all of its digits, or as it stands where it is none. */
export function typedNumber(text: string): number | Exact | string {
  const digits = text.trim();
  NUMBER.lastIndex = 0;
  if (NUMBER.exec(digits)?.[0] !== digits) return text;
  return String(Number(digits)) === digits ? Number(digits) : new Exact(digits);
}

const NUMBER = /-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][+-]?\d+)?/y;
const SPACE = /[ \t\n\r]*/y;
const STRING = /"(?:[^"\\\u0000-\u001f]|\\.)*"/y;

class Parser {
  #at = 0;

  constructor(private readonly text: string) {}

  document(): unknown {
    const value = this.#value(0);
    this.#match(SPACE);
    if (this.#at < this.text.length) throw this.#wrong();
    return value;
  }

  #value(depth: number): unknown {
    if (depth > DEPTH_MAX) throw new SyntaxError('JSON is nested too deeply');
    this.#match(SPACE);
    switch (this.text[this.#at]) {
      case '{':
        return this.#object(depth);
      case '[':
        return this.#array(depth);
      case '"':
        return this.#string();
      case 't':
        return this.#word('true', true);
      case 'f':
        return this.#word('false', false);
      case 'n':
        return this.#word('null', null);
      default: {
        const digits = this.#match(NUMBER);
        if (digits === null) throw this.#wrong();
        const number = Number(digits);
        return String(number) === digits ? number : new Exact(digits);
      }
    }
  }

  #object(depth: number): Record<string, unknown> {
    const object: Record<string, unknown> = {};
    this.#at += 1;
    if (this.#take('}')) return object;
    for (;;) {
      this.#match(SPACE);
      const key = this.#string();
      if (!this.#take(':')) throw this.#wrong();
      const value = this.#value(depth + 1);
      // An assignment to `__proto__` would change the object instead of adding a member.
      if (key === '__proto__')
        Object.defineProperty(object, key, { value, enumerable: true, writable: true, configurable: true });
      else object[key] = value;
      if (this.#take('}')) return object;
      if (!this.#take(',')) throw this.#wrong();
    }
  }

  #array(depth: number): unknown[] {
    const array: unknown[] = [];
    this.#at += 1;
    if (this.#take(']')) return array;
    for (;;) {
      array.push(this.#value(depth + 1));
      if (this.#take(']')) return array;
      if (!this.#take(',')) throw this.#wrong();
    }
  }

  #string(): string {
    const raw = this.#match(STRING);
    if (raw === null) throw this.#wrong();
    return JSON.parse(raw) as string;
  }

  #word<T>(word: string, value: T): T {
    if (!this.text.startsWith(word, this.#at)) throw this.#wrong();
    this.#at += word.length;
    return value;
  }

  #take(sign: string): boolean {
    this.#match(SPACE);
    if (this.text[this.#at] !== sign) return false;
    this.#at += 1;
    return true;
  }

  #match(pattern: RegExp): string | null {
    pattern.lastIndex = this.#at;
    const found = pattern.exec(this.text);
    if (!found) return null;
    this.#at = pattern.lastIndex;
    return found[0];
  }

  #wrong(): SyntaxError {
    return new SyntaxError(`not JSON at position ${this.#at}`);
  }
}
