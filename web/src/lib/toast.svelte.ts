/** Short notices of what an action did. Errors stay where they happened; these go by themselves. */
export interface Toast {
  id: number;
  text: string;
}

const SHOWN_MS = 6000;

class Toasts {
  list = $state<Toast[]>([]);
  #next = 0;

  say(text: string): void {
    const id = this.#next++;
    this.list = [...this.list.slice(-2), { id, text }];
    setTimeout(() => (this.list = this.list.filter((one) => one.id !== id)), SHOWN_MS);
  }
}

export const toasts = new Toasts();
