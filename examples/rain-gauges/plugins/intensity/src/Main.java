import busbar.Event;
import busbar.Plugin;
import java.util.List;

public class Main implements Plugin {
    public List<Event> process(Event event) {
        double level = event.number("level_mm");
        event.object().put("intensity", level < 10 ? "light" : level < 50 ? "heavy" : "storm");
        return List.of(event);
    }
}
