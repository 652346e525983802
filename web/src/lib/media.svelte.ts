/** Whether the screen is a phone's: what CSS cannot decide alone (row heights, the direction of a graph). */
class Media {
  narrow = $state(false);

  constructor() {
    const query = matchMedia('(max-width: 720px)');
    this.narrow = query.matches;
    query.addEventListener('change', () => (this.narrow = query.matches));
  }
}

export const media = new Media();
