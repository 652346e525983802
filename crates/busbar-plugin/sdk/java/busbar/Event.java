package busbar;

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
    /** As the node gave them, to leave out what is still the same. */
    private final String givenTopic;
    private final String givenKey;
    private final boolean untagged;

    /** An event with this topic and payload; key and tags are those of the event it is made of. */
    public Event(String topic, Object payload) {
        this.topic = topic;
        this.payload = payload;
        this.time = 0;
        givenTopic = null;
        givenKey = null;
        untagged = false;
    }

    @SuppressWarnings("unchecked")
    Event(Map<String, Object> json) {
        topic = givenTopic = (String) json.get("topic");
        key = givenKey = (String) json.get("key");
        time = ((Number) json.get("time")).longValue();
        tags = (Map<String, Object>) json.get("tags");
        untagged = tags.isEmpty();
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

    /** Writes it as the node reads it; what is left out is that of {@code madeOf}. */
    @SuppressWarnings("StringEquality")
    void write(Event madeOf, StringBuilder out) {
        boolean own = this == madeOf;
        out.append('{');
        if (topic != null && !(own && topic == givenTopic)) {
            out.append("\"topic\":");
            Json.write(topic, out);
            out.append(',');
        }
        if (key != null && !(own && key == givenKey)) {
            out.append("\"key\":");
            Json.write(key, out);
            out.append(',');
        }
        if (tags != null && !(own && untagged && tags.isEmpty())) {
            out.append("\"tags\":");
            Json.write(tags, out);
            out.append(',');
        }
        if (bytes != null) {
            out.append("\"base64\":");
            Json.write(java.util.Base64.getEncoder().encodeToString(bytes), out);
        } else if (text != null) {
            out.append("\"text\":");
            Json.write(text, out);
        } else {
            out.append("\"payload\":");
            Json.write(payload, out);
        }
        out.append('}');
    }
}
