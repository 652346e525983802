import { describe, expect, it } from 'vitest';
import { binaryBytes, kindOf, ordered } from '../../src/lib/code';
import { PluginRates, readPlugin, readPlugins, readTrial } from '../../src/lib/wire/plugins';

const answer = (given: number) => ({
  plugins: [
    {
      name: 'rain',
      language: 'python',
      state: 'running',
      flows: ['a'],
      given,
      made: 3,
      failed: 1,
      workers: [
        { process: 7, memory: 100, starts: 2, deaths: 1 },
        { process: 8, memory: 50, starts: 1, deaths: 0 },
      ],
    },
  ],
});

describe('plug-ins', () => {
  it('are summed over their workers', () => {
    const [plugin] = readPlugins(answer(5));
    expect(plugin).toMatchObject({ name: 'rain', memory: 150, workers: 2, deaths: 1, error: null, given: 5 });
    const stopped = readPlugin({
      name: 'x',
      state: 'stopped',
      error: 'no',
      error_zh: '不',
      files: { 'a.js': '1' },
    });
    expect(stopped.error?.message_zh).toBe('不');
    expect(stopped.files).toEqual({ 'a.js': '1' });
  });

  it('have a rate from one answer to the next, and a new version begins anew', () => {
    const rates = new PluginRates();
    const rate = (given: number, at: number) => rates.of(readPlugins(answer(given)), at)[0]!.rate;
    expect(rate(100, 0)).toBe(0);
    expect(rate(300, 2000)).toBe(100);
    expect(rate(300, 2000)).toBe(100);
    expect(rate(50, 3000)).toBe(50);
  });

  it('are read with what they made of events', () => {
    const trial = readTrial({
      took_ms: 1.5,
      log: [{ number: 1, time: 't', level: 'info', worker: 0, text: 'x' }],
      events: [
        { given: { topic: 'a', payload: { n: 1 } }, made: [{ topic: 'b', key: 'k', tags: { t: '1' } }] },
        {
          given: { topic: 'a' },
          made: [],
          error: { class: 'permanent', code: 'plugin.script', message: 'no' },
        },
      ],
    });
    expect(trial.events[0]!.made[0]).toMatchObject({ topic: 'b', key: 'k', tags: { t: '1' } });
    expect(trial.events[0]!.error).toBeNull();
    expect(trial.events[1]!.error?.message).toBe('no');
    expect(trial.log).toHaveLength(1);
  });
});

describe('files of plug-ins', () => {
  it('are known by their ends', () => {
    expect(['main.js', 'a/b.py', 'Main.java', 'plugin.yaml', 'x.beam', 'constructor'].map(kindOf)).toEqual([
      'javascript',
      'python',
      'java',
      'yaml',
      'text',
      'text',
    ]);
  });

  it('that are no text are told with their size', () => {
    expect(binaryBytes('data:application/octet-stream;base64,AAAA')).toBe(3);
    expect(binaryBytes('data:application/octet-stream;base64,AA==')).toBe(1);
    expect(binaryBytes('data: x')).toBeNull();
  });

  it('stand in order, the program before what describes it', () => {
    expect(ordered({ 'plugin.yaml': '', 'main.js': '', 'a.js': '' })).toEqual([
      'a.js',
      'main.js',
      'plugin.yaml',
    ]);
  });
});
