/** Places a flow's graph: left to right by distance from the source, each layer centred. */
export interface Placed {
  id: string;
  x: number;
  y: number;
}

export interface LayoutOptions {
  width: number;
  height: number;
  gapX: number;
  gapY: number;
  /** On a narrow screen the graph runs downwards. */
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
  const along = (o.down ? o.height : o.width) + o.gapX;
  const across = (o.down ? o.width : o.height) + o.gapY;
  return layers.flatMap((layer, level) =>
    layer.map((id, i) => {
      const main = level * along;
      const side = (i - (layer.length - 1) / 2) * across;
      return o.down ? { id, x: side, y: main } : { id, x: main, y: side };
    }),
  );
}
