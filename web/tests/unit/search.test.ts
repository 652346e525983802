import { describe, expect, it } from 'vitest';
import { fieldFault, isBackwards, refusesField, SEARCH_FIELD_BYTES_MAX } from '../../src/lib/search-field';

describe('the search condition on a value at a path', () => {
  it('is a path, =, and a value', () => {
    for (const good of [
      '',
      'PID.3.1=10023',
      'patient.id=7',
      '/Order/Patient/@id=7',
      'a=',
      'a=b=c',
      'identifier(system=urn:his).value=7',
      'OBX[2].5=x',
      'a)=7',
    ])
      expect(fieldFault(good), good).toBeNull();
    for (const bad of ['a', '=7', ' =7', 'a(b=c)', 'a[b=c', ' ']) expect(fieldFault(bad), bad).toBe('shape');
  });

  it('is bounded in bytes, as the node bounds it', () => {
    const room = SEARCH_FIELD_BYTES_MAX - 'a='.length;
    expect(fieldFault(`a=${'x'.repeat(room)}`)).toBeNull();
    expect(fieldFault(`a=${'x'.repeat(room + 1)}`)).toBe('long');
    expect(fieldFault(`a=${'中'.repeat(room / 2)}`)).toBe('long');
  });

  it('is told from a span of time with nothing in it', () => {
    const [early, late] = ['2026-11-01T00:00:00Z', '2026-11-01T00:00:01+00:00'];
    expect(isBackwards(late, early)).toBe(true);
    expect(isBackwards(early, early)).toBe(true);
    expect(isBackwards(early, late)).toBe(false);
    expect(isBackwards(undefined, early)).toBe(false);
    expect(isBackwards(early, undefined)).toBe(false);
  });

  it('knows what the node refuses of it', () => {
    const problem = (code: string, args?: Record<string, string>) => ({
      code,
      message: '',
      class: 'permanent' as const,
      args,
    });
    expect(refusesField(problem('server.bad-search-field'))).toBe(true);
    expect(refusesField(problem('server.search-path'))).toBe(true);
    expect(refusesField(problem('server.condition-too-long', { name: 'field' }))).toBe(true);
    expect(refusesField(problem('server.condition-too-long', { name: 'text' }))).toBe(false);
    expect(refusesField(problem('server.unknown-stream'))).toBe(false);
  });
});
