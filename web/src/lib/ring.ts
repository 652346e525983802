/** The last `size` numbers, oldest first; a new array each time, so that views see the change. */
export function pushed(values: readonly number[], next: number, size: number): number[] {
  const kept = values.length >= size ? values.slice(values.length - size + 1) : values.slice();
  kept.push(next);
  return kept;
}
