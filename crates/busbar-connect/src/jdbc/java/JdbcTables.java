package busbar;

import java.sql.Connection;
import java.sql.DatabaseMetaData;
import java.sql.ResultSet;
import java.sql.SQLException;
import java.sql.Types;
import java.util.ArrayList;
import java.util.HashSet;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import java.util.Set;
import java.util.TreeMap;

/** What a database is, and the tables that it has. */
final class JdbcTables {
    private static final Set<String> OWN = Set.of("INFORMATION_SCHEMA", "SYSTEM_LOBS", "SYS", "SYSIBM", "SYSIBMADM", "SYSCAT", "SYSSTAT",
        "SYSTOOLS", "SYSFUN", "SYSPROC", "SYSCS_DIAG", "SYSCS_UTIL", "SQLJ", "NULLID", "PG_CATALOG", "PG_TOAST", "MYSQL", "PERFORMANCE_SCHEMA",
        "SYSTEM", "XDB", "CTXSYS", "MDSYS", "OLAPSYS", "WMSYS", "DBSNMP", "OUTLN", "SYSAUDITOR", "SYSSSO", "SYS_CATALOG", "SYSMAC");

    private JdbcTables() {}

    /** One word for the kind of database; the name itself in small letters where it is not known. */
    static String product(String name) {
        String small = name.toLowerCase(Locale.ROOT);
        if (small.equals("h2")) return "h2";
        if (small.contains("derby")) return "derby";
        if (small.startsWith("hsql")) return "hsql";
        if (small.equals("postgresql") || small.startsWith("kingbase")) return "postgres";
        if (small.equals("mariadb") || small.equals("mysql") || small.startsWith("tidb")) return "mysql";
        if (small.startsWith("oracle")) return "oracle";
        if (small.startsWith("microsoft sql")) return "microsoft";
        if (small.startsWith("db2")) return "db2";
        if (small.startsWith("dm dbms")) return "dm";
        return small;
    }

    static void about(Connection connection, String product, StringBuilder out) throws SQLException {
        DatabaseMetaData data = connection.getMetaData();
        Map<String, Object> about = new LinkedHashMap<>();
        about.put("product", product);
        about.put("server", data.getDatabaseProductName() + " " + first(data.getDatabaseProductVersion()));
        about.put("transactions", data.supportsTransactions());
        Json.write(about, out);
    }

    private static String first(String version) {
        String line = version == null ? "" : version.split("\n", 2)[0].trim();
        return line.length() > 80 ? line.substring(0, 80) : line;
    }

    /** Databases whose tables are in catalogs, not in schemas. */
    private static boolean inCatalogs(String product) {
        return product.equals("mysql");
    }

    private static String schema(ResultSet found) throws SQLException {
        String schema = found.getString("TABLE_SCHEM");
        if (schema == null) schema = found.getString("TABLE_CAT");
        return schema == null ? "" : schema;
    }

    /** All tables that are not the database's own, with their columns. */
    static void tables(Connection connection, String product, int most, StringBuilder out) throws SQLException {
        boolean inCatalogs = inCatalogs(product);
        DatabaseMetaData data = connection.getMetaData();
        Map<String, List<String[]>> all = new TreeMap<>();
        try (ResultSet found = data.getTables(connection.getCatalog(), null, "%", new String[] {"TABLE", "BASE TABLE"})) {
            while (found.next() && all.size() < most) {
                String schema = schema(found);
                if (!OWN.contains(schema.toUpperCase(Locale.ROOT))) all.put(schema + "\0" + found.getString("TABLE_NAME"), new ArrayList<>());
            }
        }
        char before = '[';
        for (String table : all.keySet()) {
            int split = table.indexOf('\0');
            String schema = table.substring(0, split);
            String name = table.substring(split + 1);
            String catalog = inCatalogs ? schema : connection.getCatalog();
            Set<String> key = new HashSet<>(key(data, catalog, inCatalogs ? null : schema, name));
            try (ResultSet found = data.getColumns(catalog, inCatalogs ? null : escaped(data, schema), escaped(data, name), "%")) {
                while (found.next()) {
                    if (!name.equals(found.getString("TABLE_NAME"))) continue;
                    String column = found.getString("COLUMN_NAME");
                    out.append(before);
                    before = ',';
                    Json.write(List.of(schema, name, column, shown(found), key.contains(column) ? "1" : ""), out);
                }
            }
        }
        out.append(before == '[' ? "[]" : "]");
    }

    private static String escaped(DatabaseMetaData data, String name) throws SQLException {
        String escape = data.getSearchStringEscape();
        if (escape == null || escape.isEmpty()) return name;
        return name.replace(escape, escape + escape).replace("_", escape + "_").replace("%", escape + "%");
    }

    private static List<String> key(DatabaseMetaData data, String catalog, String schema, String table) throws SQLException {
        TreeMap<Short, String> key = new TreeMap<>();
        try (ResultSet found = data.getPrimaryKeys(catalog, schema, table)) {
            while (found.next()) key.put(found.getShort("KEY_SEQ"), found.getString("COLUMN_NAME"));
        }
        return new ArrayList<>(key.values());
    }

    private static String shown(ResultSet column) throws SQLException {
        String name = column.getString("TYPE_NAME");
        if (name == null || name.indexOf('(') >= 0) return String.valueOf(name);
        int type = column.getInt("DATA_TYPE");
        int size = column.getInt("COLUMN_SIZE");
        int digits = column.getInt("DECIMAL_DIGITS");
        switch (type) {
            case Types.CHAR: case Types.VARCHAR: case Types.NCHAR: case Types.NVARCHAR: case Types.BINARY: case Types.VARBINARY:
                return size > 0 && size < 1_000_000 ? name + "(" + size + ")" : name;
            case Types.NUMERIC: case Types.DECIMAL:
                return size > 0 && size < 1_000 && digits >= 0 ? name + "(" + size + "," + digits + ")" : name;
            // SQL Server's with a zone has a number of its own.
            case Types.TIMESTAMP: case Types.TIMESTAMP_WITH_TIMEZONE: case -155:
                return digits > 6 && digits <= 12 ? fine(name, digits) : name;
            default:
                return name;
        }
    }

    /** A time with more digits of seconds than drivers take for granted. */
    private static String fine(String name, int digits) {
        int word = name.indexOf(' ') < 0 ? name.length() : name.indexOf(' ');
        return name.substring(0, word) + "(" + digits + ")" + name.substring(word);
    }

    /** A table by its name, in whatever letters; null where there is none. */
    static void columns(Connection connection, String product, String schema, String table, StringBuilder out) throws SQLException {
        DatabaseMetaData data = connection.getMetaData();
        boolean inCatalogs = inCatalogs(product);
        String home = inCatalogs ? connection.getCatalog() : currentSchema(connection, data);
        String[] found = find(connection, data, inCatalogs, schema == null || schema.isEmpty() ? home : schema, table);
        if (found == null) {
            out.append("{\"schema\":");
            Json.write(home == null ? "" : home, out);
            out.append(",\"columns\":null}");
            return;
        }
        String catalog = inCatalogs ? found[0] : connection.getCatalog();
        String within = inCatalogs || found[0].isEmpty() ? null : found[0];
        Map<String, Object> answer = new LinkedHashMap<>();
        answer.put("schema", found[0]);
        answer.put("table", found[1]);
        List<Object> columns = new ArrayList<>();
        try (ResultSet each = data.getColumns(catalog, within == null ? null : escaped(data, within), escaped(data, found[1]), "%")) {
            while (each.next()) {
                if (!found[1].equals(each.getString("TABLE_NAME"))) continue;
                Map<String, Object> column = new LinkedHashMap<>();
                int raw = each.getInt("DATA_TYPE");
                String name = each.getString("TYPE_NAME");
                int size = each.getInt("COLUMN_SIZE");
                Integer digits = each.getInt("DECIMAL_DIGITS");
                if (each.wasNull() || digits < -84) digits = null;
                int type = JdbcValues.type(raw, name, size);
                if (digits == null) digits = ofSeconds(type, size);
                // Numbers that have as many digits behind the point as they need.
                if (type == Types.NUMERIC && (JdbcValues.floats(name) || size <= 0 || size > 1_000)) digits = null;
                column.put("name", each.getString("COLUMN_NAME"));
                column.put("raw", raw);
                column.put("type", type);
                column.put("shown", shown(each));
                column.put("size", Math.max(size, 0));
                column.put("digits", digits);
                column.put("given", given(each));
                columns.add(column);
            }
        }
        answer.put("columns", columns);
        List<Object> keys = new ArrayList<>();
        List<String> key = key(data, catalog, within, found[1]);
        if (!key.isEmpty()) keys.add(key);
        Map<String, List<String>> unique = new LinkedHashMap<>();
        try (ResultSet each = data.getIndexInfo(catalog, within, found[1], true, true)) {
            while (each.next()) {
                String index = each.getString("INDEX_NAME");
                String column = each.getString("COLUMN_NAME");
                if (index != null && column != null) unique.computeIfAbsent(index, any -> new ArrayList<>()).add(column);
            }
        }
        keys.addAll(unique.values());
        answer.put("keys", keys);
        Json.write(answer, out);
    }

    /** Digits of seconds, by the length of a time as text; null where that is not known. */
    private static Integer ofSeconds(int type, int size) {
        int whole = type == Types.TIMESTAMP ? 19 : type == Types.TIME ? 8 : -1;
        if (whole < 0 || size < whole || size > whole + 10) return null;
        return size == whole ? 0 : size - whole - 1;
    }

    /** Whether the database makes the values of a column, so that none can be written. */
    private static boolean given(ResultSet column) throws SQLException {
        try {
            return "YES".equals(column.getString("IS_GENERATEDCOLUMN"));
        } catch (SQLException error) {
            // Drivers of before JDBC 4.1 do not say.
            return false;
        }
    }

    private static String currentSchema(Connection connection, DatabaseMetaData data) throws SQLException {
        try {
            String schema = connection.getSchema();
            if (schema != null) return schema;
        } catch (SQLException | LinkageError error) {
            // Drivers of before JDBC 4.1 do not say.
        }
        return data.getUserName();
    }

    private static String[] find(Connection connection, DatabaseMetaData data, boolean inCatalogs, String schema, String table)
        throws SQLException {
        List<String> names = new ArrayList<>();
        for (String name : new String[] {table, table.toUpperCase(Locale.ROOT), table.toLowerCase(Locale.ROOT)})
            if (!names.contains(name)) names.add(name);
        for (String name : names) {
            try (ResultSet found = data.getTables(inCatalogs ? null : connection.getCatalog(), null, escaped(data, name), null)) {
                String[] near = null;
                while (found.next()) {
                    String in = inCatalogs ? found.getString("TABLE_CAT") : schema(found);
                    if (in == null || !name.equals(found.getString("TABLE_NAME"))) continue;
                    if (schema == null || in.equals(schema)) return new String[] {in, name};
                    if (in.equalsIgnoreCase(schema)) near = new String[] {in, name};
                }
                if (near != null) return near;
            }
        }
        return null;
    }
}
