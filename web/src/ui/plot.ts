/** The only door to uPlot, so that it is loaded when a chart is first drawn. */
import 'uplot/dist/uPlot.min.css';
import UPlot from 'uplot';

export type Plot = UPlot;

export interface Series {
  label: string;
  values: (number | null)[];
}

export interface PlotOptions {
  width: number;
  height: number;
  time: boolean;
  bars: boolean;
  labels: string[];
  /** Names of the x values when they are not numbers. */
  names?: string[];
  format: (n: number) => string;
  clock: (seconds: number) => string;
}

/** CSS custom properties, and a dash for each series: two lines differ in more than their colour. */
export const LOOKS = [
  { colour: '--copper-fill', dash: [] },
  { colour: '--teal-fill', dash: [6, 4] },
  { colour: '--info', dash: [2, 3] },
  { colour: '--warn', dash: [10, 3, 2, 3] },
] as const;

/** Where a time axis may have its marks, in seconds: steps that clocks and calendars have. */
const TIME_STEPS_S = [
  1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10_800, 21_600, 43_200, 86_400, 172_800,
  604_800, 2_592_000, 7_776_000, 31_536_000, 157_680_000, 315_360_000,
] as const;

/** Whether all values are equal. */
export function lone(values: ArrayLike<number>): boolean {
  for (let i = 1; i < values.length; i += 1) if (values[i] !== values[0]) return false;
  return values.length > 0;
}

/** The ends of the x axis. A single value, or several that are equal, stands in the middle. */
export function span(min: number, max: number, bars: boolean): [number, number] {
  if (bars) return [min - 0.6, max + 0.6];
  return min < max ? [min, max] : [min - 1, max + 1];
}

export function draw(target: HTMLElement, o: PlotOptions, data: UPlot.AlignedData): UPlot {
  const style = getComputedStyle(target);
  const colour = (name: string) => style.getPropertyValue(name).trim();
  const font = `12px ${style.fontFamily}`;
  const axis: Partial<UPlot.Axis> = {
    stroke: colour('--muted'),
    font,
    grid: { stroke: colour('--line'), width: 1 },
    ticks: { show: false },
  };
  const x: UPlot.Axis = { ...axis, grid: { show: false }, space: 70, size: 32 };
  if (o.time) {
    x.values = (_u, splits) => splits.map((s) => o.clock(s));
    x.incrs = [...TIME_STEPS_S];
  } else if (o.names) {
    const names = o.names;
    x.values = (_u, splits) => splits.map((s) => (Number.isInteger(s) ? (names[s] ?? '') : ''));
  } else x.values = (_u, splits) => splits.map((s) => o.format(s));
  return new UPlot(
    {
      width: o.width,
      height: o.height,
      legend: { show: false },
      cursor: { y: false, points: { size: 6 } },
      padding: [12, 32, 0, 0],
      scales: {
        x: { time: false, range: (_u, min, max) => span(min, max, o.bars) },
        y: { range: (_u, min, max) => [Math.min(0, min), max <= 0 ? (min < 0 ? 0 : 1) : max * 1.1] },
      },
      axes: [x, { ...axis, size: 56, values: (_u, splits) => splits.map((s) => o.format(s)) }],
      series: [
        {},
        ...o.labels.map((label, i): UPlot.Series => {
          const look = LOOKS[i % LOOKS.length]!;
          const ink = colour(look.colour);
          return {
            label,
            stroke: ink,
            width: 1.75,
            dash: [...look.dash],
            fill: o.bars
              ? `color-mix(in srgb, ${ink} 70%, transparent)`
              : i === 0
                ? `color-mix(in srgb, ${ink} 14%, transparent)`
                : undefined,
            paths: o.bars ? UPlot.paths.bars!({ size: [0.7, 60] }) : undefined,
            // A line between points at one place, or through a single one, could not be seen.
            points: { show: lone(data[0]), size: 6, fill: ink },
          };
        }),
      ],
    },
    data,
    target,
  );
}
