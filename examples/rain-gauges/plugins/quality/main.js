export default function (event) {
  const level = event.payload.level_mm;
  // A gauge that only says how it is has measured nothing.
  if (typeof level !== "number") return null;
  const gauge = event.topic.split("/")[1];
  const station = busbar.get("stations", { client: gauge });
  const good = level >= 0 && level <= busbar.settings.most_mm;
  if (!good) busbar.log(`${gauge} measures ${level} mm`, "warning");
  event.tags.quality = good ? "good" : "bad";
  event.payload = { gauge, station: station ? station.name : null, level_mm: level };
  return event;
}
