import busbar.Event;
import busbar.Plugin;
import java.util.List;

public class Main implements Plugin {
    /** Called for each event. What it returns comes out: one event, several, or none. */
    public List<Event> process(Event event) {
        if (event.payload == null || !event.object().containsKey("value")) return List.of();
        event.object().put("value", event.number("value") * 2);
        return List.of(event);
    }
}
