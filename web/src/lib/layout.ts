/**
 * Places a flow's graph. Where there is room it runs left to right by distance from the source, each
 * layer centred; on a narrow screen it is one column, and siblings are branches that are set in a little.
 */
export interface Placed {
  id: string;
  x: number;
  y: number;
  /** Downwards only: one of several that hang on one step, drawn like the branches of a tree. */
  branch: boolean;
}

export interface LayoutOptions {
  width: number;
  height: number;
  gapX: number;
  gapY: number;
  down: boolean;
}

export function layout(ids: string[], edges: { from: string; to: string }[], o: LayoutOptions): Placed[] {
  const depth = new Map(ids.map((id) => [id, 0]));
  // Longest distance from a source. A flow has no cycles; the bound keeps a wrong answer from hanging us.
  for (let round = 0; round < ids.length; round += 1) {
    let moved = false;
    for (const { from, to } of edges) {
      const next = (depth.get(from) ?? 0) + 1;
      if (depth.has(to) && depth.has(from) && next > depth.get(to)! && next <= ids.length) {
        depth.set(to, next);
        moved = true;
      }
    }
    if (!moved) break;
  }
  const layers: string[][] = [];
  for (const id of ids) (layers[depth.get(id)!] ??= []).push(id);
  if (o.down) {
    const branches = layers.flatMap((layer) => layer.map((id) => ({ id, branch: layer.length > 1 })));
    return branches.map(({ id, branch }, i) => ({
      id,
      x: branch ? o.gapX : 0,
      y: i * (o.height + o.gapY),
      branch,
    }));
  }
  return layers.flatMap((layer, level) =>
    layer.map((id, i) => ({
      id,
      x: level * (o.width + o.gapX),
      y: (i - (layer.length - 1) / 2) * (o.height + o.gapY),
      branch: false,
    })),
  );
}
