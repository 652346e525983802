import type { IconName } from './icons';

const signs: Record<string, IconName> = {
  stream: 'streams',
  source: 'source',
  where: 'filter',
  select: 'select',
  sql: 'sql',
  table: 'tables',
  topic: 'topic',
  connection: 'connections',
  sink: 'sink',
};

/** The sign of a step or an output. */
export function kindIcon(kind: string): IconName {
  return signs[kind] ?? 'flows';
}
