package busbar;

import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;

/** What a plug-in can ask of Busbar: settings, log lines, and rows of tables. */
public final class Node {
    static Map<String, Object> settings = Map.of();

    private Node() {}

    /** A value of {@code settings} in plugin.yaml. */
    public static Object setting(String name) {
        return settings.get(name);
    }

    /** Writes a line to the plug-in's log; the level is debug, info, warning or error. */
    public static void log(String level, String message) {
        Worker.write(Map.of("type", "log", "level", level, "message", message));
    }

    /** The row of a table whose column has this value; null if there is none. */
    public static Map<String, Object> get(String table, String column, Object value) {
        List<Map<String, Object>> rows = scan(table, Map.of(column, value), 1);
        return rows.isEmpty() ? null : rows.get(0);
    }

    /** Rows of a table whose columns have these values. */
    public static List<Map<String, Object>> scan(String table, Map<String, Object> where, int limit) {
        Map<String, Object> request = new LinkedHashMap<>();
        request.put("table", table);
        request.put("where", where);
        request.put("limit", limit);
        return Worker.ask(request);
    }

    /** Rows of a query over the file of a relational table; {@code ?} stands for the parameters in order. */
    public static List<Map<String, Object>> query(String table, String sql, Object... parameters) {
        return Worker.ask(Map.of("table", table, "sql", sql, "parameters", List.of(parameters)));
    }
}
