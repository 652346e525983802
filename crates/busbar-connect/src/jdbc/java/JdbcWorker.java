package busbar;

import java.io.BufferedReader;
import java.io.File;
import java.io.FileDescriptor;
import java.io.FileInputStream;
import java.io.FileOutputStream;
import java.io.IOException;
import java.io.InputStream;
import java.io.InputStreamReader;
import java.io.OutputStream;
import java.net.URL;
import java.net.URLClassLoader;
import java.nio.charset.StandardCharsets;
import java.sql.Connection;
import java.sql.Driver;
import java.sql.SQLException;
import java.util.ArrayDeque;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Properties;
import java.util.ServiceLoader;
import java.util.concurrent.Executors;
import java.util.concurrent.ScheduledExecutorService;
import java.util.concurrent.TimeUnit;

/**
 * Reads and writes a database for Busbar: takes requests from standard input and answers on standard output, a line of
 * JSON each. A request names its session, which is one connection with a thread of its own, and has one request at a time.
 */
public final class JdbcWorker {
    private static final int IDLE_MAX = 2;
    private static final long IDLE_NANOS = TimeUnit.SECONDS.toNanos(60);
    private static final long END_MILLIS = 5_000;

    private static final OutputStream out = new FileOutputStream(FileDescriptor.out);
    private static final Map<Long, JdbcSession> sessions = new HashMap<>();
    private static final ArrayDeque<Idle> idle = new ArrayDeque<>();
    static final ScheduledExecutorService clock = Executors.newSingleThreadScheduledExecutor(task -> {
        Thread thread = new Thread(task, "clock");
        thread.setDaemon(true);
        return thread;
    });

    private static Driver driver;
    private static String url;
    private static Properties properties;

    /** A connection that nobody uses. */
    private static final class Idle {
        final Connection connection;
        final long since = System.nanoTime();

        Idle(Connection connection) {
            this.connection = connection;
        }
    }

    private JdbcWorker() {}

    public static void main(String[] arguments) throws Exception {
        // What drivers print goes to the log; only frames go to the node.
        System.setOut(System.err);
        System.setIn(InputStream.nullInputStream());
        BufferedReader in = new BufferedReader(
            new InputStreamReader(new FileInputStream(FileDescriptor.in), StandardCharsets.UTF_8), 1 << 18);
        String first = in.readLine();
        if (first == null) return;
        try {
            start(object(Json.read(first)));
        } catch (Throwable error) {
            StringBuilder line = new StringBuilder("{\"type\":\"failed\",\"fault\":");
            JdbcFault.of(error).write(line);
            send(line.append("}\n"));
            return;
        }
        Thread tidy = new Thread(JdbcWorker::tidy, "tidy");
        tidy.setDaemon(true);
        tidy.start();
        send(new StringBuilder("{\"type\":\"ready\",\"protocol\":1}\n"));
        for (String text = in.readLine(); text != null; text = in.readLine()) {
            Map<String, Object> frame = object(Json.read(text));
            String type = (String) frame.get("type");
            if (type.equals("ask")) session((Long) frame.get("session")).ask(frame);
            else if (type.equals("close")) close((Long) frame.get("session"), Boolean.TRUE.equals(frame.get("again")));
            else if (type.equals("ping")) send(new StringBuilder("{\"type\":\"pong\"}\n"));
        }
        // The node has gone, or wants this to end.
        for (JdbcSession session : sessions.values()) session.close(false);
        long until = System.nanoTime() + TimeUnit.MILLISECONDS.toNanos(END_MILLIS);
        for (JdbcSession session : sessions.values()) session.await(until - System.nanoTime());
        Runtime.getRuntime().halt(0);
    }

    private static void start(Map<String, Object> frame) throws Exception {
        JdbcFault.CODES.putAll(object(frame.get("codes")));
        List<?> jars = (List<?>) frame.get("drivers");
        URL[] urls = new URL[jars.size()];
        for (int i = 0; i < urls.length; i++) urls[i] = new File((String) jars.get(i)).toURI().toURL();
        URLClassLoader loader = new URLClassLoader(urls, JdbcWorker.class.getClassLoader());
        Thread.currentThread().setContextClassLoader(loader);
        url = (String) frame.get("url");
        properties = new Properties();
        properties.putAll(object(frame.get("properties")));
        for (String name : new String[] {"user", "password"})
            if (frame.get(name) != null) properties.setProperty(name, (String) frame.get(name));
        String named = (String) frame.get("class");
        if (named != null) {
            Object made;
            try {
                made = loader.loadClass(named).getDeclaredConstructor().newInstance();
            } catch (ReflectiveOperationException | LinkageError error) {
                throw new JdbcFault("driver", "configuration", named + ": " + error);
            }
            if (!(made instanceof Driver)) throw new JdbcFault("driver", "configuration", named + " is no java.sql.Driver");
            driver = (Driver) made;
            return;
        }
        StringBuilder found = new StringBuilder();
        for (Driver each : ServiceLoader.load(Driver.class, loader)) {
            found.append(found.length() == 0 ? "" : ", ").append(each.getClass().getName());
            if (each.acceptsURL(url)) {
                driver = each;
                return;
            }
        }
        throw new JdbcFault("driver", "configuration", found.length() == 0 ? "-" : found.toString());
    }

    private static JdbcSession session(long number) {
        return sessions.computeIfAbsent(number, JdbcSession::new);
    }

    private static void close(long number, boolean again) {
        JdbcSession session = sessions.remove(number);
        if (session != null) session.close(again);
    }

    /** A connection: one that is idle and still answers, or a new one. */
    static Connection connect() throws SQLException {
        while (true) {
            Idle known;
            synchronized (idle) {
                known = idle.poll();
            }
            if (known == null) break;
            if (System.nanoTime() - known.since < IDLE_NANOS && answers(known.connection)) return known.connection;
            end(known.connection);
        }
        Connection connection = driver.connect(url, properties);
        if (connection == null) throw new JdbcFault("driver", "configuration", driver.getClass().getName());
        return connection;
    }

    /** Keeps a connection for the next session, or closes it. It has no transaction under way, and nothing is set in it. */
    static void release(Connection connection) {
        synchronized (idle) {
            if (idle.size() < IDLE_MAX) {
                idle.add(new Idle(connection));
                return;
            }
        }
        end(connection);
    }

    /** Closes connections that nobody has used for long. */
    private static void tidy() {
        try {
            while (true) {
                Thread.sleep(TimeUnit.NANOSECONDS.toMillis(IDLE_NANOS) / 4);
                while (true) {
                    Idle old;
                    synchronized (idle) {
                        old = idle.peek();
                        if (old == null || System.nanoTime() - old.since < IDLE_NANOS) break;
                        idle.poll();
                    }
                    end(old.connection);
                }
            }
        } catch (InterruptedException error) {
            // Nobody does so.
        }
    }

    private static boolean answers(Connection connection) {
        try {
            return connection.isValid(5);
        } catch (SQLException | LinkageError error) {
            return false;
        }
    }

    static void end(Connection connection) {
        try {
            connection.close();
        } catch (SQLException error) {
            // It is gone all the same.
        }
    }

    @SuppressWarnings("unchecked")
    static Map<String, Object> object(Object value) {
        return (Map<String, Object>) value;
    }

    static void send(StringBuilder line) {
        byte[] bytes = line.toString().getBytes(StandardCharsets.UTF_8);
        synchronized (out) {
            try {
                out.write(bytes);
            } catch (IOException error) {
                // The node has gone.
                Runtime.getRuntime().halt(1);
            }
        }
    }
}
