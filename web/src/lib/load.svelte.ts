/** A value asked of the node by an effect: asked again when what it depends on changes, or on a timer. */
import { problemOf } from './api';
import type { ApiProblem } from './types';

export class Loaded<T> {
  value = $state.raw<T | undefined>(undefined);
  problem = $state.raw<ApiProblem | null>(null);
  #tick = $state(0);

  /** `every` in milliseconds; 0 asks once. Call in a component's set-up. */
  constructor(ask: (signal: AbortSignal) => Promise<T>, every = 0) {
    $effect(() => {
      void this.#tick;
      const abort = new AbortController();
      const run = () => {
        if (document.visibilityState === 'hidden') return;
        ask(abort.signal).then(
          (value) => {
            if (abort.signal.aborted) return;
            this.value = value;
            this.problem = null;
          },
          (cause: unknown) => {
            if (!abort.signal.aborted) this.problem = problemOf(cause);
          },
        );
      };
      run();
      const timer = every > 0 ? setInterval(run, every) : undefined;
      return () => {
        clearInterval(timer);
        abort.abort();
      };
    });
  }

  again(): void {
    this.#tick += 1;
  }
}
