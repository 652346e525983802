import { expect, test } from 'vitest';
import type { FlowTask } from '../../src/lib/types';
import { slowest } from '../../src/lib/watermarks';

const task = (stage: number, stream: string, partition: number, watermark: string | null): FlowTask => ({
  stage,
  stream,
  partition,
  watermark,
  lane: 'main',
  position: 0,
  lag: 0,
  held_back_by: null,
});

test('the slowest cursor of each stage and stream is found', () => {
  const tasks = [
    task(0, 'power', 0, '2026-03-01T08:00:10Z'),
    task(0, 'power', 1, '2026-03-01T08:00:09.5Z'),
    task(0, 'meter', 0, '2026-03-01T07:00:00Z'),
    task(1, '_x-f-1', 0, '2026-03-01T08:00:09.5Z'),
    task(1, '_x-f-1', 1, null),
  ];
  const found = slowest(tasks);
  expect([...found.keys()]).toEqual(['0 power', '0 meter', '1 _x-f-1']);
  expect(found.get('0 power')?.partition).toBe(1);
  // One that has seen no event yet is behind all others.
  expect(found.get('1 _x-f-1')?.partition).toBe(1);
});
