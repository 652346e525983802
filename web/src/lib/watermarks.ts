/** Which cursors of a flow hold event time back. */
import type { FlowTask } from './types';

/**
 * For each stage and stream, under `<stage> <stream>`, the cursor whose watermark is the least; one that has seen no
 * event yet is behind all others. Cursors that only deliver have no event time and hold nothing back.
 */
export function slowest(tasks: FlowTask[]): Map<string, FlowTask> {
  const found = new Map<string, FlowTask>();
  for (const task of tasks) {
    const key = `${task.stage} ${task.stream}`;
    const known = found.get(key);
    if (!known || behind(task, known)) found.set(key, task);
  }
  return found;
}

function behind(a: FlowTask, b: FlowTask): boolean {
  const at = (task: FlowTask) => (task.watermark ? Date.parse(task.watermark) : -Infinity);
  return at(a) < at(b);
}
