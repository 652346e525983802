import { readdirSync, readFileSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { fill } from '../../src/lib/i18n.svelte';
import en from '../../src/i18n/en.json';
import zh from '../../src/i18n/zh.json';

const SRC = new URL('../../src', import.meta.url).pathname;
const placeholders = (text: string): string[] => [...text.matchAll(/\{(\w+)\}/g)].map((m) => m[1]!).sort();

function sources(dir: string): string[] {
  return readdirSync(dir).flatMap((name) => {
    const path = join(dir, name);
    if (statSync(path).isDirectory()) return sources(path);
    return /\.(ts|svelte)$/.test(name) ? [readFileSync(path, 'utf8')] : [];
  });
}

describe('the two catalogues', () => {
  it('have the same keys', () => {
    expect(Object.keys(zh).sort()).toEqual(Object.keys(en).sort());
  });

  it('have the same placeholders in each text', () => {
    for (const [key, text] of Object.entries(en)) {
      expect([key, placeholders((zh as Record<string, string>)[key] ?? '')]).toEqual([
        key,
        placeholders(text),
      ]);
    }
  });

  it('leave nothing empty, and nothing in English on the Chinese side', () => {
    const names = /^(SQL|CSV|UTC|API)$/;
    for (const [key, text] of Object.entries(zh)) {
      expect(text.trim(), key).not.toBe('');
      if (!names.test(text)) expect(text, key).toMatch(/[\u4e00-\u9fff]|^[^a-zA-Z]*$|^\{/);
    }
  });

  it('have the word that fits the number', () => {
    expect(fill('{n} {n:row|rows} · {s}', { n: '1', s: 2 })).toBe('1 row · 2');
    expect(fill('{n} {n:row|rows}', { n: '1,204' })).toBe('1,204 rows');
    expect(fill('{n} {n:row|rows}', {})).toBe('{n} {n:row|rows}');
  });

  it('use the punctuation of their language', () => {
    // A half-width comma or full stop right behind a Chinese character is a slip of the keyboard.
    for (const [key, text] of Object.entries(zh)) expect(text, key).not.toMatch(/[\u4e00-\u9fff][,;!?]/);
    for (const [key, text] of Object.entries(en))
      expect(text, key).not.toMatch(/[\u3000-\u9fff\uff00-\uffef]/);
  });

  it('hold what the pages ask for, and nothing nobody asks for', () => {
    const all = sources(SRC);
    const asked = new Set(
      all.flatMap((s) => [...s.matchAll(/['"`]([a-z_]+\.[a-z0-9_.]+)['"`]/g)].map((m) => m[1]!)),
    );
    // Words of the node: word('state', …) and `theme.${…}` ask for a whole area.
    const areas = new Set([
      ...all.flatMap((s) => [...s.matchAll(/word\(\s*'([a-z_.]+)'/g)].map((m) => m[1]!)),
      ...all.flatMap((s) => [...s.matchAll(/`([a-z_.]+)\.\$\{/g)].map((m) => m[1]!)),
    ]);
    const unused = Object.keys(en).filter(
      (key) => !asked.has(key) && ![...areas].some((area) => key.startsWith(`${area}.`)),
    );
    expect(unused).toEqual([]);
    const direct = all.flatMap((s) => [...s.matchAll(/\bt\(\s*'([^']+)'/g)].map((m) => m[1]!));
    expect(direct.filter((key) => !(key in en))).toEqual([]);
  });
});
