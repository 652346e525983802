import busbar.{Event, Plugin}
import java.util.List

class Main extends Plugin:
  /** Called for each event. What it returns comes out: one event, several, or none. */
  def process(event: Event): List[Event] =
    if event.payload == null || !event.`object`().containsKey("value") then List.of()
    else
      event.`object`().put("value", event.number("value") * 2)
      List.of(event)
