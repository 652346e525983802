package busbar;

import java.math.BigDecimal;
import java.sql.Connection;
import java.sql.DriverManager;
import java.sql.PreparedStatement;
import java.sql.ResultSet;
import java.sql.SQLException;
import java.sql.Statement;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.Future;
import java.util.concurrent.TimeUnit;

/** One connection and the thread that uses it. */
final class JdbcSession {
    private static final long HANG_MILLIS = 20_000;
    /** Characters of a row as JSON. With a page of rows before it, its bytes are fewer than a frame may have. */
    private static final int ROW_CHARS_MAX = 36 << 20;

    private final ExecutorService thread;
    private Connection connection;
    private JdbcValues values;
    private String product = "";
    private boolean broken;

    /** The statement whose rows are being read, and what is read. */
    private PreparedStatement reading;
    private ResultSet rows;
    private JdbcValues.Read[] columns;
    /** Rows that may still come of it. */
    private long left;

    /** The statement that is being executed, for {@link #cancel}. */
    private volatile Statement running;
    private volatile boolean late;

    JdbcSession(long number) {
        ClassLoader loader = Thread.currentThread().getContextClassLoader();
        thread = Executors.newSingleThreadExecutor(task -> {
            Thread made = new Thread(task, "session-" + number);
            made.setContextClassLoader(loader);
            made.setDaemon(true);
            return made;
        });
    }

    /** Does what is asked for, and answers. */
    void ask(Map<String, Object> frame) {
        long id = (Long) frame.get("id");
        long millis = (Long) frame.get("deadline_ms");
        thread.execute(() -> {
            late = false;
            Future<?> deadline = JdbcWorker.clock.schedule(this::cancelLate, millis, TimeUnit.MILLISECONDS);
            // The node may not wait any more.
            Future<?> end = JdbcWorker.clock.schedule(() -> {
                System.err.println("a statement does not end");
                Runtime.getRuntime().halt(4);
            }, millis + HANG_MILLIS, TimeUnit.MILLISECONDS);
            StringBuilder line = new StringBuilder(256);
            line.append("{\"type\":\"answer\",\"id\":").append(id).append(",\"result\":");
            int from = line.length();
            try {
                answer(frame, (int) Math.max(1, millis / 1000), line);
            } catch (OutOfMemoryError error) {
                // Nothing that is in memory can be trusted to be whole.
                System.err.println("out of memory");
                Runtime.getRuntime().halt(3);
            } catch (Throwable error) {
                broken = true;
                line.setLength(from - "\"result\":".length());
                JdbcFault fault = JdbcFault.of(error, product);
                if (late) fault = new JdbcFault("timeout", "transient", fault.getMessage());
                line.append("\"fault\":");
                fault.write(line);
            } finally {
                deadline.cancel(false);
                end.cancel(false);
                running = null;
            }
            JdbcWorker.send(line.append("}\n"));
        });
    }

    private void cancelLate() {
        late = true;
        cancel();
    }

    private void cancel() {
        Statement statement = running;
        if (statement == null) return;
        try {
            statement.cancel();
        } catch (SQLException | LinkageError error) {
            // What does not end is killed by the node.
        }
    }

    /** Ends it: what is under way is rolled back. The connection may be used again where nothing was set in it. */
    void close(boolean again) {
        cancel();
        thread.execute(() -> {
            if (connection == null) return;
            try {
                if (reading != null) reading.close();
                // Some commit what is open when they are closed.
                if (!connection.getAutoCommit()) connection.rollback();
            } catch (SQLException error) {
                broken = true;
            }
            if (again && !broken) JdbcWorker.release(connection);
            else JdbcWorker.end(connection);
            connection = null;
        });
        thread.shutdown();
    }

    void await(long nanos) throws InterruptedException {
        if (nanos > 0) thread.awaitTermination(nanos, TimeUnit.NANOSECONDS);
    }

    private void answer(Map<String, Object> frame, int seconds, StringBuilder out) throws SQLException {
        String what = (String) frame.get("do");
        if (what.equals("open")) {
            DriverManager.setLoginTimeout(seconds);
            open(out);
            return;
        }
        if (connection == null) throw new JdbcFault("for-now", "transient", "no connection");
        switch (what) {
            case "query": query(frame, seconds, out); break;
            case "next": page(frame, out); break;
            case "end": endReading(); out.append("{}"); break;
            case "run": run(frame, seconds, out); break;
            case "tables": JdbcTables.tables(connection, product, number(frame, "most"), out); break;
            case "columns": JdbcTables.columns(connection, product, (String) frame.get("schema"), (String) frame.get("table"), out); break;
            case "known": known(frame, seconds, out); break;
            case "write": write(frame, seconds, out); break;
            case "keep": keep(frame, seconds, out); break;
            case "recalled": recalled(frame, seconds, out); break;
            default: throw new JdbcFault("worker", "configuration", what);
        }
    }

    private static int number(Map<String, Object> frame, String name) {
        return ((Long) frame.get(name)).intValue();
    }

    private void open(StringBuilder out) throws SQLException {
        connection = JdbcWorker.connect();
        String name = connection.getMetaData().getDatabaseProductName();
        product = JdbcTables.product(name);
        values = new JdbcValues(product);
        connection.setAutoCommit(true);
        if (product.equals("mysql"))
            // Instants are read and written in the zone of the session.
            try (Statement statement = connection.createStatement()) {
                statement.execute("SET time_zone = '+00:00'");
            }
        JdbcTables.about(connection, product, out);
    }

    // What is read.

    private void query(Map<String, Object> frame, int seconds, StringBuilder out) throws SQLException {
        endReading();
        connection.setAutoCommit(false);
        reading = connection.prepareStatement((String) frame.get("sql"), ResultSet.TYPE_FORWARD_ONLY, ResultSet.CONCUR_READ_ONLY);
        limit(reading, seconds);
        int rowsMax = number(frame, "rows");
        boolean whole = connection.getMetaData().getDriverName().startsWith("MySQL Connector");
        // The one value with which that driver does not read all rows into memory.
        reading.setFetchSize(whole ? Integer.MIN_VALUE : number(frame, "fetch"));
        left = Long.MAX_VALUE;
        if (frame.get("most") != null) {
            left = number(frame, "most");
            reading.setMaxRows((int) left);
        }
        int at = 0;
        for (Object each : (List<?>) frame.get("parameters")) {
            Map<String, Object> parameter = JdbcWorker.object(each);
            values.bind(reading, ++at, JdbcValues.less(parameter), JdbcValues.Column.of(parameter));
        }
        running = reading;
        boolean has = reading.execute();
        if (!has) {
            int count = Math.max(0, reading.getUpdateCount());
            endReading();
            out.append("{\"columns\":[],\"rows\":[],\"more\":false,\"count\":").append(count).append('}');
            return;
        }
        rows = reading.getResultSet();
        columns = values.columns(rows.getMetaData());
        page(rowsMax, number(frame, "bytes"), true, out);
    }

    private void page(Map<String, Object> frame, StringBuilder out) throws SQLException {
        if (rows == null) throw new JdbcFault("for-now", "transient", "no rows are being read");
        page(number(frame, "rows"), number(frame, "bytes"), false, out);
    }

    private void page(int rowsMax, int bytesMax, boolean named, StringBuilder out) throws SQLException {
        running = reading;
        out.append('{');
        if (named) {
            char before = '[';
            out.append("\"columns\":");
            for (JdbcValues.Read column : columns) {
                out.append(before).append("{\"name\":");
                before = ',';
                Json.write(column.name, out);
                out.append(",\"type\":").append(column.type).append('}');
            }
            out.append("],");
        }
        out.append("\"rows\":[");
        int begin = out.length();
        boolean more = true;
        for (int count = 0; count < rowsMax && out.length() - begin < bytesMax; count++) {
            if (!rows.next()) {
                more = false;
                break;
            }
            out.append(count == 0 ? "[" : ",[");
            int row = out.length();
            for (int at = 0; at < columns.length; at++) {
                if (at > 0) out.append(',');
                values.read(rows, at + 1, columns[at], out);
                if (out.length() - row > ROW_CHARS_MAX)
                    throw new JdbcFault("large", "configuration", "a row, at " + columns[at].name);
            }
            out.append(']');
            left--;
        }
        // A reader that wants no more rows keeps no transaction open.
        if (left == 0) more = false;
        out.append("],\"more\":").append(more).append('}');
        if (!more) endReading();
    }

    private void endReading() throws SQLException {
        PreparedStatement statement = reading;
        reading = null;
        rows = null;
        if (statement == null) return;
        statement.close();
        connection.commit();
    }

    // What is written.

    private void run(Map<String, Object> frame, int seconds, StringBuilder out) throws SQLException {
        endReading();
        connection.setAutoCommit(true);
        for (Object sql : (List<?>) frame.get("statements"))
            try (Statement statement = connection.createStatement()) {
                limit(statement, seconds);
                running = statement;
                statement.execute((String) sql);
            }
        out.append("{}");
    }

    private void limit(Statement statement, int seconds) throws SQLException {
        try {
            statement.setQueryTimeout(seconds);
        } catch (SQLException error) {
            // Then the deadline ends it.
        }
    }

    /** How far a producer has come. Waits for a transaction of a session before that is still under way. */
    private void known(Map<String, Object> frame, int seconds, StringBuilder out) throws SQLException {
        endReading();
        String producer = (String) frame.get("producer");
        connection.setAutoCommit(false);
        if (update((String) frame.get("lock"), seconds, producer) == 0) {
            connection.rollback();
            // Where another has made the row meanwhile, it is there to be locked.
            try {
                update((String) frame.get("insert"), seconds, producer, BigDecimal.ZERO);
                connection.commit();
            } catch (SQLException error) {
                if (!JdbcFault.of(error, product).isAboutRows()) throw error;
                connection.rollback();
            }
            update((String) frame.get("lock"), seconds, producer);
        }
        BigDecimal position = null;
        try (PreparedStatement statement = connection.prepareStatement((String) frame.get("select"))) {
            statement.setString(1, producer);
            running = statement;
            try (ResultSet found = statement.executeQuery()) {
                if (found.next()) position = found.getBigDecimal(1);
            }
        }
        connection.commit();
        boolean none = position == null || position.signum() == 0;
        out.append("{\"position\":").append(none ? "null" : position.toBigInteger().toString()).append('}');
    }

    private int update(String sql, int seconds, Object... parameters) throws SQLException {
        try (PreparedStatement statement = connection.prepareStatement(sql)) {
            limit(statement, seconds);
            running = statement;
            for (int at = 0; at < parameters.length; at++) {
                if (parameters[at] instanceof BigDecimal) statement.setBigDecimal(at + 1, (BigDecimal) parameters[at]);
                else statement.setString(at + 1, (String) parameters[at]);
            }
            return statement.executeUpdate();
        }
    }

    /**
     * Writes rows and how far their producer has come, all in one transaction; answers which rows were refused. If there
     * are any the transaction stays open: {@link #keep} ends it.
     */
    private void write(Map<String, Object> frame, int seconds, StringBuilder out) throws SQLException {
        endReading();
        connection.setAutoCommit(false);
        List<Part> parts = new ArrayList<>();
        for (Object part : (List<?>) frame.get("parts")) parts.add(new Part(JdbcWorker.object(part)));
        StringBuilder rejected = new StringBuilder();
        boolean begun = false;
        try {
            begun = begin(frame, seconds);
            if (begun) {
                for (Part part : parts) part.execute(0, part.rows.size(), seconds);
                connection.commit();
            }
        } catch (SQLException error) {
            JdbcFault fault = JdbcFault.of(error, product);
            connection.rollback();
            if (!fault.isAboutRows() || late) throw fault;
            // Some rows are at fault: they are found by halving, and all others are written with the position.
            begun = begin(frame, seconds);
            if (begun) {
                for (Part part : parts) part.halve(0, part.rows.size(), seconds, rejected);
                if (rejected.length() == 0) connection.commit();
            }
        } finally {
            for (Part part : parts) part.close();
        }
        out.append("{\"known\":").append(!begun).append(",\"rejected\":[").append(rejected).append("]}");
    }

    /** Keeps the rows that were refused in the transaction that {@link #write} has left open, and commits it. */
    private void keep(Map<String, Object> frame, int seconds, StringBuilder out) throws SQLException {
        String producer = (String) frame.get("producer");
        List<?> rows = (List<?>) frame.get("rows");
        if (!rows.isEmpty()) {
            update((String) frame.get("forget"), seconds, producer);
            BigDecimal position = new BigDecimal((String) frame.get("position"));
            for (Object each : rows) {
                List<?> row = (List<?>) each;
                BigDecimal number = BigDecimal.valueOf((Long) row.get(0));
                update((String) frame.get("insert"), seconds, producer, position, number, row.get(1), row.get(2));
            }
        }
        connection.commit();
        out.append("{}");
    }

    /** The rows that were refused with the last position of a producer. */
    private void recalled(Map<String, Object> frame, int seconds, StringBuilder out) throws SQLException {
        connection.setAutoCommit(false);
        out.append("{\"rows\":[");
        try (PreparedStatement statement = connection.prepareStatement((String) frame.get("select"))) {
            limit(statement, seconds);
            statement.setString(1, (String) frame.get("producer"));
            running = statement;
            try (ResultSet found = statement.executeQuery()) {
                for (boolean first = true; found.next(); first = false) {
                    out.append(first ? "[" : ",[").append(found.getBigDecimal(1).toBigInteger()).append(',');
                    Json.write(found.getString(2), out);
                    out.append(',');
                    Json.write(found.getString(3), out);
                    out.append(']');
                }
            }
        }
        connection.commit();
        out.append("]}");
    }

    /** Notes the position; false when it is known already, with the rows before it. */
    private boolean begin(Map<String, Object> frame, int seconds) throws SQLException {
        String producer = (String) frame.get("producer");
        // Rows that need not be recognised when they come again.
        if (producer.isEmpty()) return true;
        BigDecimal position = new BigDecimal((String) frame.get("position"));
        if (update((String) frame.get("advance"), seconds, position, producer, position) > 0) return true;
        if (update((String) frame.get("lock"), seconds, producer) > 0) {
            connection.rollback();
            return false;
        }
        update((String) frame.get("insert"), seconds, producer, position);
        return true;
    }

    /** Rows for one statement, or for two of which the second takes the rows that the first does not find. */
    private final class Part {
        final List<?> rows;
        private final List<?> numbers;
        private final JdbcValues.Column[] columns;
        private final String sql;
        private final int[] parameters;
        private final String otherSql;
        private final int[] otherParameters;
        private PreparedStatement first;
        private PreparedStatement second;

        Part(Map<String, Object> part) {
            rows = (List<?>) part.get("rows");
            numbers = (List<?>) part.get("numbers");
            List<?> given = (List<?>) part.get("columns");
            columns = new JdbcValues.Column[given.size()];
            for (int at = 0; at < columns.length; at++) columns[at] = JdbcValues.Column.of(JdbcWorker.object(given.get(at)));
            sql = (String) part.get("sql");
            parameters = places(part.get("parameters"));
            otherSql = (String) part.get("other");
            otherParameters = otherSql == null ? new int[0] : places(part.get("other_parameters"));
        }

        private int[] places(Object given) {
            List<?> list = (List<?>) given;
            int[] places = new int[list.size()];
            for (int at = 0; at < places.length; at++) places[at] = ((Long) list.get(at)).intValue();
            return places;
        }

        void execute(int from, int to, int seconds) throws SQLException {
            if (from == to) return;
            if (first == null) first = connection.prepareStatement(sql);
            limit(first, seconds);
            running = first;
            int[] counts = batch(first, parameters, from, to);
            if (otherSql == null) return;
            List<Integer> missing = new ArrayList<>();
            for (int at = 0; at < counts.length; at++) {
                int count = counts[at];
                // Some drivers do not say for a batch how many rows each statement has found.
                if (count < 0) {
                    bind(first, parameters, from + at);
                    count = first.executeUpdate();
                }
                if (count == 0) missing.add(from + at);
            }
            if (missing.isEmpty()) return;
            if (second == null) second = connection.prepareStatement(otherSql);
            limit(second, seconds);
            running = second;
            for (int row : missing) {
                bind(second, otherParameters, row);
                second.addBatch();
            }
            second.executeBatch();
        }

        /** Writes what can be written, and names the rows that cannot. */
        void halve(int from, int to, int seconds, StringBuilder rejected) throws SQLException {
            java.sql.Savepoint before = connection.setSavepoint();
            try {
                execute(from, to, seconds);
            } catch (SQLException error) {
                JdbcFault fault = JdbcFault.of(error, product);
                if (!fault.isAboutRows() || late) throw fault;
                connection.rollback(before);
                // What a batch that failed still holds would be sent with the next one.
                close();
                if (to - from > 1) {
                    int middle = from + (to - from) / 2;
                    halve(from, middle, seconds, rejected);
                    halve(middle, to, seconds, rejected);
                } else {
                    rejected.append(rejected.length() == 0 ? "[" : ",[").append(numbers.get(from)).append(',');
                    fault.write(rejected);
                    rejected.append(']');
                }
            }
        }

        private int[] batch(PreparedStatement statement, int[] places, int from, int to) throws SQLException {
            for (int row = from; row < to; row++) {
                bind(statement, places, row);
                statement.addBatch();
            }
            return statement.executeBatch();
        }

        private void bind(PreparedStatement statement, int[] places, int row) throws SQLException {
            List<?> cells = (List<?>) rows.get(row);
            for (int at = 0; at < places.length; at++)
                values.bind(statement, at + 1, cells.get(places[at]), columns[places[at]]);
        }

        void close() throws SQLException {
            PreparedStatement one = first;
            PreparedStatement other = second;
            first = null;
            second = null;
            if (one != null) one.close();
            if (other != null) other.close();
        }
    }
}
