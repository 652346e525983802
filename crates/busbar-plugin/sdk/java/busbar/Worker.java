package busbar;

import java.io.BufferedReader;
import java.io.FileDescriptor;
import java.io.FileInputStream;
import java.io.FileOutputStream;
import java.io.IOException;
import java.io.InputStream;
import java.io.InputStreamReader;
import java.io.OutputStream;
import java.io.UncheckedIOException;
import java.nio.charset.StandardCharsets;
import java.util.ArrayDeque;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;

/** Runs a plug-in: reads batches of events from standard input and answers on standard output. */
public final class Worker {
    private static final OutputStream out = new FileOutputStream(FileDescriptor.out);
    private static final BufferedReader in = new BufferedReader(
        new InputStreamReader(new FileInputStream(FileDescriptor.in), StandardCharsets.UTF_8), 1 << 18);
    private static final ArrayDeque<Map<String, Object>> waiting = new ArrayDeque<>();
    private static long asked = 0;

    private Worker() {}

    public static void main(String[] arguments) throws Exception {
        // What the program prints goes to the log; only frames go to the node.
        System.setOut(System.err);
        System.setIn(InputStream.nullInputStream());
        Node.settings = object(next().get("settings"));
        Plugin plugin;
        try {
            Object made = Class.forName(arguments[0]).getDeclaredConstructor().newInstance();
            if (!(made instanceof Plugin)) throw new ClassCastException(arguments[0] + " does not implement busbar.Plugin");
            plugin = (Plugin) made;
        } catch (Throwable error) {
            Throwable cause = error.getCause() == null ? error : error.getCause();
            write(Map.of("type", "failed", "error", failure(cause)));
            return;
        }
        write(Map.of("type", "ready", "protocol", 1, "credit", 2));
        for (Map<String, Object> frame = next(); frame != null; frame = next()) {
            String type = (String) frame.get("type");
            if (type.equals("batch")) batch(plugin, frame);
            else if (type.equals("ping")) write(Map.of("type", "pong"));
            else if (type.equals("stop")) return;
        }
    }

    private static void batch(Plugin plugin, Map<String, Object> frame) {
        StringBuilder answer = new StringBuilder("{\"type\":\"result\",\"id\":");
        answer.append(frame.get("id")).append(",\"events\":");
        char before = '[';
        for (Object given : (List<?>) frame.get("events")) {
            answer.append(before);
            before = ',';
            int from = answer.length();
            try {
                Event event = new Event(object(given));
                List<Event> made = plugin.process(event);
                answer.append('[');
                for (int i = 0; made != null && i < made.size(); i++) {
                    if (i > 0) answer.append(',');
                    made.get(i).write(event, answer);
                }
                answer.append(']');
            } catch (OutOfMemoryError error) {
                throw error;
            } catch (Throwable error) {
                answer.setLength(from);
                Json.write(Map.of("error", failure(error)), answer);
            }
        }
        answer.append("]}\n");
        send(answer);
    }

    private static Map<String, Object> failure(Throwable error) {
        Map<String, Object> failure = new LinkedHashMap<>();
        failure.put("message", error.toString());
        for (StackTraceElement place : error.getStackTrace()) {
            String name = place.getClassName();
            boolean own = !name.startsWith("java.") && !name.startsWith("jdk.") && !name.startsWith("busbar.")
                && !name.startsWith("scala.");
            if (own && place.getFileName() != null && place.getLineNumber() > 0) {
                failure.put("file", place.getFileName());
                failure.put("line", place.getLineNumber());
                break;
            }
        }
        return failure;
    }

    @SuppressWarnings("unchecked")
    private static Map<String, Object> object(Object value) {
        return (Map<String, Object>) value;
    }

    private static Map<String, Object> next() {
        Map<String, Object> frame = waiting.poll();
        return frame != null ? frame : read();
    }

    private static Map<String, Object> read() {
        try {
            String line = in.readLine();
            return line == null ? null : object(Json.read(line));
        } catch (IOException error) {
            throw new UncheckedIOException(error);
        }
    }

    @SuppressWarnings("unchecked")
    static List<Map<String, Object>> ask(Map<String, Object> request) {
        long id = ++asked;
        write(Map.of("type", "rows", "id", id, "request", request));
        while (true) {
            Map<String, Object> frame = read();
            if (frame == null) throw new IllegalStateException("the node has gone");
            if (!frame.get("type").equals("rows")) {
                waiting.add(frame);
                continue;
            }
            if (frame.get("error") != null) throw new IllegalStateException((String) frame.get("error"));
            return (List<Map<String, Object>>) frame.get("rows");
        }
    }

    static void write(Map<String, ?> frame) {
        StringBuilder line = new StringBuilder();
        Json.write(frame, line);
        send(line.append('\n'));
    }

    private static synchronized void send(StringBuilder line) {
        try {
            out.write(line.toString().getBytes(StandardCharsets.UTF_8));
        } catch (IOException error) {
            throw new UncheckedIOException(error);
        }
    }
}
