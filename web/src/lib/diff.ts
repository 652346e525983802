/** A line difference for people: longest common subsequence, bounded, with unchanged runs folded. */
export interface Line {
  kind: 'same' | 'added' | 'removed' | 'fold';
  text: string;
  old?: number;
  new?: number;
}

/** Beyond this the table of the algorithm would be too large: the files are shown as replaced. */
export const DIFF_CELLS_MAX = 4_000_000;
const CONTEXT = 3;

export function diff(before: string, after: string): Line[] {
  const a = split(before);
  const b = split(after);
  let head = 0;
  while (head < a.length && head < b.length && a[head] === b[head]) head += 1;
  let tail = 0;
  while (
    tail < a.length - head &&
    tail < b.length - head &&
    a[a.length - 1 - tail] === b[b.length - 1 - tail]
  )
    tail += 1;
  const lines: Line[] = [];
  for (let i = 0; i < head; i += 1) lines.push({ kind: 'same', text: a[i]!, old: i + 1, new: i + 1 });
  lines.push(...middle(a.slice(head, a.length - tail), b.slice(head, b.length - tail), head));
  for (let i = tail; i > 0; i -= 1) {
    lines.push({ kind: 'same', text: a[a.length - i]!, old: a.length - i + 1, new: b.length - i + 1 });
  }
  return lines;
}

/** Folds long unchanged runs, keeping some context around each change. */
export function folded(lines: Line[]): Line[] {
  const near = new Uint8Array(lines.length);
  lines.forEach((line, i) => {
    if (line.kind === 'same') return;
    for (let j = Math.max(0, i - CONTEXT); j <= Math.min(lines.length - 1, i + CONTEXT); j += 1) near[j] = 1;
  });
  const out: Line[] = [];
  let run = 0;
  lines.forEach((line, i) => {
    if (near[i]) {
      if (run > 0) out.push({ kind: 'fold', text: String(run) });
      run = 0;
      out.push(line);
    } else {
      run += 1;
    }
  });
  if (run > 0) out.push({ kind: 'fold', text: String(run) });
  return out;
}

function split(text: string): string[] {
  if (text === '') return [];
  const lines = text.split('\n');
  if (lines.at(-1) === '') lines.pop();
  return lines;
}

function middle(a: string[], b: string[], offset: number): Line[] {
  if ((a.length + 1) * (b.length + 1) > DIFF_CELLS_MAX) {
    return [
      ...a.map((text, i): Line => ({ kind: 'removed', text, old: offset + i + 1 })),
      ...b.map((text, i): Line => ({ kind: 'added', text, new: offset + i + 1 })),
    ];
  }
  const width = b.length + 1;
  const table = new Uint32Array((a.length + 1) * width);
  for (let i = a.length - 1; i >= 0; i -= 1) {
    for (let j = b.length - 1; j >= 0; j -= 1) {
      table[i * width + j] =
        a[i] === b[j]
          ? table[(i + 1) * width + j + 1]! + 1
          : Math.max(table[(i + 1) * width + j]!, table[i * width + j + 1]!);
    }
  }
  const out: Line[] = [];
  let i = 0;
  let j = 0;
  while (i < a.length || j < b.length) {
    if (i < a.length && j < b.length && a[i] === b[j]) {
      out.push({ kind: 'same', text: a[i]!, old: offset + i + 1, new: offset + j + 1 });
      i += 1;
      j += 1;
    } else if (i < a.length && (j === b.length || table[(i + 1) * width + j]! >= table[i * width + j + 1]!)) {
      out.push({ kind: 'removed', text: a[i]!, old: offset + i + 1 });
      i += 1;
    } else {
      out.push({ kind: 'added', text: b[j]!, new: offset + j + 1 });
      j += 1;
    }
  }
  return out;
}
