import type { FlowEdge, FlowNode } from '../lib/types';

export const GRAPH = Symbol('graph');

/** The size of a node and the space below it, in pixels. */
export const NODE = { width: 240, height: 132, gap: 28 };

/** What nodes and edges of the picture ask: functions, so that reading them tracks the live values. */
export interface GraphContext {
  node: (id: string) => FlowNode | undefined;
  edge: (id: string) => FlowEdge | undefined;
  chosen: () => string | null;
  down: () => boolean;
  branch: (id: string) => boolean;
  /** The flow is drawn as a process. */
  process: () => boolean;
}

/** What a node is in a process. */
export function roleOf(id: string): 'process.in' | 'process.mediation' | 'process.out' {
  if (id.startsWith('from:')) return 'process.in';
  return id.startsWith('to:') ? 'process.out' : 'process.mediation';
}
