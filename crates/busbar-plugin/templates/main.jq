# One frame of the protocol comes in on each line; `docs/PLUGINS.md` has them all.
if .type == "start" then
  { type: "ready", protocol: 1 }
elif .type == "batch" then
  { type: "result", id, events: [.events[] | if .payload.value? then .payload.value *= 2 else null end] }
elif .type == "ping" then
  { type: "pong" }
else
  empty
end
