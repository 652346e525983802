package busbar;

import java.util.List;

/** What a plug-in implements, with a public constructor without parameters. */
public interface Plugin {
    /** The events that come of an event: {@code List.of(event)} passes it on, {@code List.of()} drops it. */
    List<Event> process(Event event) throws Exception;
}
