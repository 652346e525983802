package busbar;

import java.util.LinkedHashMap;
import java.util.Map;

/**
 * An event. What is changed here goes out with it.
 *
 * <p>The payload is a value of JSON (Map, List, String, Long, Double, java.math.BigDecimal, Boolean or null); text that
 * is no JSON is in {@link #text}, and anything else in {@link #bytes}.
 */
public final class Event {
    public String topic;
    public String key;
    /** Microseconds since 1970. It cannot be changed. */
    public final long time;
    public Map<String, Object> tags;
    public Object payload;
    public String text;
    public byte[] bytes;

    /** An event with this topic and payload; key and tags are those of the event it is made of. */
    public Event(String topic, Object payload) {
        this.topic = topic;
        this.payload = payload;
        this.time = 0;
    }

    @SuppressWarnings("unchecked")
    Event(Map<String, Object> json) {
        topic = (String) json.get("topic");
        key = (String) json.get("key");
        time = ((Number) json.get("time")).longValue();
        tags = (Map<String, Object>) json.get("tags");
        payload = json.get("payload");
        text = (String) json.get("text");
        String encoded = (String) json.get("base64");
        bytes = encoded == null ? null : java.util.Base64.getDecoder().decode(encoded);
    }

    /** The payload as a JSON object. */
    @SuppressWarnings("unchecked")
    public Map<String, Object> object() {
        return (Map<String, Object>) payload;
    }

    /** A number of the payload, which must be an object. */
    public double number(String name) {
        Object value = object().get(name);
        if (value instanceof Number) return ((Number) value).doubleValue();
        throw new IllegalArgumentException("the payload has no number " + name);
    }

    Map<String, Object> json() {
        Map<String, Object> json = new LinkedHashMap<>();
        if (topic != null) json.put("topic", topic);
        if (key != null) json.put("key", key);
        if (tags != null) json.put("tags", tags);
        if (bytes != null) json.put("base64", java.util.Base64.getEncoder().encodeToString(bytes));
        else if (text != null) json.put("text", text);
        else json.put("payload", payload);
        return json;
    }
}
