package busbar;

import java.math.BigDecimal;
import java.math.RoundingMode;
import java.sql.Blob;
import java.sql.Clob;
import java.sql.Date;
import java.sql.PreparedStatement;
import java.sql.ResultSet;
import java.sql.ResultSetMetaData;
import java.sql.SQLException;
import java.sql.Time;
import java.sql.Timestamp;
import java.sql.Types;
import java.time.DateTimeException;
import java.time.LocalDate;
import java.time.LocalDateTime;
import java.time.LocalTime;
import java.time.OffsetDateTime;
import java.time.ZoneOffset;
import java.time.format.DateTimeFormatter;
import java.time.temporal.ChronoUnit;
import java.util.Base64;
import java.util.Locale;
import java.util.Map;

/** Values between JSON and JDBC. The machine's zone is UTC. */
final class JdbcValues {
    private static final int VALUE_BYTES_MAX = 16 << 20;

    private final boolean postgres;
    /** The driver knows the classes of {@code java.time}. */
    private boolean modern;

    /** A column that is read. */
    static final class Read {
        final String name;
        final int type;
        /** Whole numbers of a decimal type that fit a JSON number everywhere. */
        final boolean whole;

        Read(String name, int type, boolean whole) {
            this.name = name;
            this.type = type;
            this.whole = whole;
        }
    }

    /** A column that is written, or a parameter. */
    static final class Column {
        final int type;
        final int raw;
        /** Digits behind the point, of numbers or of seconds; -1 where that is not known. */
        final int digits;
        final boolean lossy;

        private Column(int type, int raw, int digits, boolean lossy) {
            this.type = type;
            this.raw = raw;
            this.digits = digits;
            this.lossy = lossy;
        }

        static Column of(Map<String, Object> given) {
            int type = ((Long) given.get("type")).intValue();
            Object raw = given.get("raw");
            Object digits = given.get("digits");
            return new Column(type, raw == null ? type : ((Long) raw).intValue(), digits == null ? -1 : ((Long) digits).intValue(),
                Boolean.TRUE.equals(given.get("lossy")));
        }
    }

    JdbcValues(String product) {
        postgres = product.equals("postgres");
        modern = !product.equals("derby");
    }

    /** The type of {@link Types} as which values of a column are handled. */
    static int type(int raw, String typeName, int size) {
        String name = typeName == null ? "" : typeName.toLowerCase(Locale.ROOT);
        switch (name) {
            case "timestamptz": case "datetimeoffset": return Types.TIMESTAMP_WITH_TIMEZONE;
            case "timetz": return Types.OTHER;
            case "bool": case "boolean": return Types.BOOLEAN;
            case "uuid": case "uniqueidentifier": case "json": case "jsonb": case "xml": return Types.OTHER;
            case "year": return Types.SMALLINT;
            default:
        }
        if (name.startsWith("timestamp") && name.contains("with") && name.contains("time zone") && !name.contains("without"))
            return Types.TIMESTAMP_WITH_TIMEZONE;
        if (name.startsWith("bigint") && name.contains("unsigned")) return Types.NUMERIC;
        if (name.startsWith("int") && name.contains("unsigned")) return Types.BIGINT;
        switch (raw) {
            case -101: case -102: case -155: return Types.TIMESTAMP_WITH_TIMEZONE;
            case -151: return Types.TIMESTAMP;
            case 100: return Types.REAL;
            case 101: case Types.FLOAT: return Types.DOUBLE;
            case Types.BIT: return size <= 1 ? Types.BOOLEAN : Types.VARBINARY;
            case Types.DECIMAL: return Types.NUMERIC;
            case Types.NCHAR: return Types.CHAR;
            case Types.NVARCHAR: case Types.LONGVARCHAR: case Types.LONGNVARCHAR: return Types.VARCHAR;
            case Types.NCLOB: return Types.CLOB;
            case Types.BINARY: case Types.LONGVARBINARY: return Types.VARBINARY;
            case Types.BOOLEAN: case Types.TINYINT: case Types.SMALLINT: case Types.INTEGER: case Types.BIGINT: case Types.NUMERIC:
            case Types.REAL: case Types.DOUBLE: case Types.CHAR: case Types.VARCHAR: case Types.CLOB: case Types.VARBINARY: case Types.BLOB:
            case Types.DATE: case Types.TIME: case Types.TIMESTAMP: case Types.TIMESTAMP_WITH_TIMEZONE:
                return raw;
            default: return Types.OTHER;
        }
    }

    /** Whether numbers of a type have as many digits behind the point as they need, whatever the driver says. */
    static boolean floats(String typeName) {
        return typeName != null && typeName.toLowerCase(Locale.ROOT).startsWith("decfloat");
    }

    Read[] columns(ResultSetMetaData data) throws SQLException {
        Read[] columns = new Read[data.getColumnCount()];
        for (int at = 0; at < columns.length; at++) {
            int raw = data.getColumnType(at + 1);
            int precision = data.getPrecision(at + 1);
            int type = type(raw, data.getColumnTypeName(at + 1), precision);
            if (type == Types.BIGINT && !data.isSigned(at + 1) && precision > 19) type = Types.NUMERIC;
            boolean whole = type == Types.NUMERIC && !floats(data.getColumnTypeName(at + 1)) && data.getScale(at + 1) == 0 && precision > 0 && precision <= 18;
            columns[at] = new Read(data.getColumnLabel(at + 1), type, whole);
        }
        return columns;
    }

    // From the database.

    void read(ResultSet rows, int at, Read column, StringBuilder out) throws SQLException {
        switch (column.type) {
            case Types.BOOLEAN: {
                boolean value = rows.getBoolean(at);
                if (rows.wasNull()) out.append("null");
                else out.append(value);
                return;
            }
            case Types.TINYINT: case Types.SMALLINT: case Types.INTEGER: case Types.BIGINT: {
                long value = rows.getLong(at);
                if (rows.wasNull()) out.append("null");
                else out.append(value);
                return;
            }
            case Types.REAL: {
                float value = rows.getFloat(at);
                boolean finite = !Float.isNaN(value) && !Float.isInfinite(value);
                if (rows.wasNull()) out.append("null");
                else if (finite) out.append(value);
                else out.append('"').append(value).append('"');
                return;
            }
            case Types.DOUBLE: {
                double value = rows.getDouble(at);
                boolean finite = !Double.isNaN(value) && !Double.isInfinite(value);
                if (rows.wasNull()) out.append("null");
                else if (finite) out.append(value);
                else out.append('"').append(value).append('"');
                return;
            }
            case Types.NUMERIC: {
                // PostgreSQL has a numeric that is no number.
                String value = postgres ? rows.getString(at) : decimal(rows.getBigDecimal(at));
                if (value == null) out.append("null");
                else if (column.whole) out.append(value);
                else out.append('"').append(value).append('"');
                return;
            }
            case Types.DATE: text(date(rows, at), out); return;
            case Types.TIME: text(time(rows, at), out); return;
            case Types.TIMESTAMP: text(dateTime(rows, at), out); return;
            case Types.TIMESTAMP_WITH_TIMEZONE: text(instant(rows, at), out); return;
            case Types.VARBINARY: hex(rows.getBytes(at), out); return;
            case Types.BLOB: {
                Blob blob = postgres ? null : rows.getBlob(at);
                if (blob != null) {
                    checkSize(blob.length(), column);
                    hex(blob.getBytes(1, (int) blob.length()), out);
                } else hex(postgres ? rows.getBytes(at) : null, out);
                return;
            }
            case Types.CLOB: {
                Clob clob = rows.getClob(at);
                if (clob == null) {
                    out.append("null");
                    return;
                }
                checkSize(clob.length(), column);
                text(clob.getSubString(1, (int) clob.length()), out);
                return;
            }
            default: {
                String value = rows.getString(at);
                if (value != null) checkSize(value.length(), column);
                text(value, out);
            }
        }
    }

    private static void checkSize(long length, Read column) throws SQLException {
        if (length > VALUE_BYTES_MAX)
            throw new JdbcFault("large", "configuration", column.name + ": " + length);
    }

    private static String decimal(BigDecimal value) {
        return value == null ? null : value.toPlainString();
    }

    private static void text(String value, StringBuilder out) {
        Json.write(value, out);
    }

    private static void hex(byte[] bytes, StringBuilder out) throws SQLException {
        if (bytes == null) {
            out.append("null");
            return;
        }
        if (bytes.length > VALUE_BYTES_MAX) throw new JdbcFault("large", "configuration", String.valueOf(bytes.length));
        out.append('"');
        for (byte each : bytes)
            out.append(Character.forDigit(each >> 4 & 15, 16)).append(Character.forDigit(each & 15, 16));
        out.append('"');
    }

    private <T> T object(ResultSet rows, int at, Class<T> type) throws SQLException {
        try {
            return rows.getObject(at, type);
        } catch (SQLException | LinkageError error) {
            modern = false;
            return null;
        }
    }

    private String date(ResultSet rows, int at) throws SQLException {
        if (modern) {
            LocalDate date = object(rows, at, LocalDate.class);
            if (modern) return date == null ? null : date.toString();
        }
        Date date = rows.getDate(at);
        return date == null ? null : date.toLocalDate().toString();
    }

    private String time(ResultSet rows, int at) throws SQLException {
        if (modern) {
            LocalTime time = object(rows, at, LocalTime.class);
            if (modern) return time == null ? null : DateTimeFormatter.ISO_LOCAL_TIME.format(time);
        }
        Time time = rows.getTime(at);
        return time == null ? null : DateTimeFormatter.ISO_LOCAL_TIME.format(time.toLocalTime());
    }

    private String dateTime(ResultSet rows, int at) throws SQLException {
        if (modern) {
            LocalDateTime time = object(rows, at, LocalDateTime.class);
            if (modern) return time == null ? null : shown(time);
        }
        Timestamp time = rows.getTimestamp(at);
        return time == null ? null : shown(time.toLocalDateTime());
    }

    private String instant(ResultSet rows, int at) throws SQLException {
        if (modern) {
            OffsetDateTime time = object(rows, at, OffsetDateTime.class);
            if (modern) return time == null ? null : shown(time.withOffsetSameInstant(ZoneOffset.UTC).toLocalDateTime()) + "Z";
        }
        Timestamp time = rows.getTimestamp(at);
        return time == null ? null : shown(time.toLocalDateTime()) + "Z";
    }

    private static String shown(LocalDateTime time) {
        if (time.getYear() < 1 || time.getYear() > 9999) return DateTimeFormatter.ISO_LOCAL_DATE_TIME.format(time);
        StringBuilder text = new StringBuilder(29);
        digits(time.getYear(), 4, text);
        digits(time.getMonthValue(), 2, text.append('-'));
        digits(time.getDayOfMonth(), 2, text.append('-'));
        digits(time.getHour(), 2, text.append('T'));
        digits(time.getMinute(), 2, text.append(':'));
        digits(time.getSecond(), 2, text.append(':'));
        int nanos = time.getNano();
        if (nanos != 0) {
            int from = text.length();
            digits(nanos, 9, text.append('.'));
            // As many digits as there are, three at a time.
            if (nanos % 1_000_000 == 0) text.setLength(from + 4);
            else if (nanos % 1_000 == 0) text.setLength(from + 7);
        }
        return text.toString();
    }

    private static void digits(int value, int count, StringBuilder out) {
        int from = out.length();
        out.setLength(from + count);
        for (int at = from + count - 1; at >= from; at--, value /= 10) out.setCharAt(at, (char) ('0' + value % 10));
    }

    // To the database.

    /** A parameter's value, so much before it as {@code less} says: microseconds of times, or a number. */
    static Object less(Map<String, Object> parameter) throws SQLException {
        Object value = parameter.get("value");
        Object less = parameter.get("less");
        int kind = ((Long) parameter.get("type")).intValue();
        // Bytes come back as they were read.
        if (value != null && kind == Types.VARBINARY) return Base64.getEncoder().encodeToString(bytes((String) value));
        if (value == null || less == null) return value;
        long by = (Long) less;
        switch (kind) {
            case Types.TIMESTAMP:
            case Types.TIMESTAMP_WITH_TIMEZONE:
                return shown(parse((String) value).minus(by, ChronoUnit.MICROS)) + "Z";
            case Types.DATE:
                // A whole day is the least that a date can be less.
                return LocalDate.parse((String) value).minusDays((by + 86_399_999_999L) / 86_400_000_000L).toString();
            default:
                return new BigDecimal(value.toString()).subtract(BigDecimal.valueOf(by)).toPlainString();
        }
    }

    private static byte[] bytes(String digits) {
        byte[] bytes = new byte[digits.length() / 2];
        for (int at = 0; at < bytes.length; at++) bytes[at] = (byte) Integer.parseInt(digits, at * 2, at * 2 + 2, 16);
        return bytes;
    }

    void bind(PreparedStatement statement, int at, Object value, Column column) throws SQLException {
        if (value == null) {
            statement.setNull(at, column.raw);
            return;
        }
        try {
            value(statement, at, value, column);
        } catch (ArithmeticException | NumberFormatException | DateTimeException | ClassCastException error) {
            String shown = String.valueOf(value);
            throw new JdbcFault("value", "permanent", shown.length() > 100 ? shown.substring(0, 100) : shown);
        }
    }

    private void value(PreparedStatement statement, int at, Object value, Column column) throws SQLException {
        switch (column.type) {
            case Types.BOOLEAN: statement.setBoolean(at, truth(value)); return;
            case Types.TINYINT: case Types.SMALLINT: statement.setInt(at, within(value, column, column.type == Types.TINYINT ? 255 : 65_535)); return;
            case Types.INTEGER: statement.setInt(at, within(value, column, Integer.MAX_VALUE)); return;
            case Types.BIGINT: statement.setLong(at, number(value, column, 0).longValueExact()); return;
            case Types.NUMERIC: statement.setBigDecimal(at, number(value, column, column.digits)); return;
            case Types.REAL: statement.setFloat(at, Float.parseFloat(value.toString())); return;
            case Types.DOUBLE: statement.setDouble(at, Double.parseDouble(value.toString())); return;
            case Types.DATE: date(statement, at, value.toString(), column); return;
            case Types.TIME: time(statement, at, value.toString(), column); return;
            case Types.TIMESTAMP: {
                LocalDateTime time = fitting(parse((String) value), column);
                if (!modern) statement.setTimestamp(at, Timestamp.valueOf(time));
                else if (!taken(statement, at, time)) statement.setTimestamp(at, Timestamp.valueOf(time));
                return;
            }
            case Types.TIMESTAMP_WITH_TIMEZONE: {
                LocalDateTime time = fitting(parse((String) value), column);
                if (!modern || !taken(statement, at, time.atOffset(ZoneOffset.UTC))) statement.setTimestamp(at, Timestamp.valueOf(time));
                return;
            }
            case Types.VARBINARY: case Types.BLOB:
                try {
                    statement.setBytes(at, Base64.getDecoder().decode((String) value));
                } catch (IllegalArgumentException error) {
                    throw new NumberFormatException();
                }
                return;
            case Types.OTHER:
                if (postgres) statement.setObject(at, value.toString(), Types.OTHER);
                else statement.setString(at, value.toString());
                return;
            default: statement.setString(at, value.toString());
        }
    }

    private boolean taken(PreparedStatement statement, int at, Object value) {
        try {
            statement.setObject(at, value);
            return true;
        } catch (SQLException | LinkageError error) {
            modern = false;
            return false;
        }
    }

    private static boolean truth(Object value) {
        if (value instanceof Boolean) return (Boolean) value;
        switch (value.toString().trim().toLowerCase(Locale.ROOT)) {
            case "true": case "t": case "1": return true;
            case "false": case "f": case "0": return false;
            default: throw new NumberFormatException();
        }
    }

    private static BigDecimal number(Object value, Column column, int digits) {
        BigDecimal number;
        if (value instanceof Boolean) number = (Boolean) value ? BigDecimal.ONE : BigDecimal.ZERO;
        else number = new BigDecimal(value.toString().trim());
        if (digits < 0 || number.scale() <= digits) return number;
        return number.setScale(digits, column.lossy ? RoundingMode.HALF_EVEN : RoundingMode.UNNECESSARY);
    }

    private static int within(Object value, Column column, int most) {
        int number = number(value, column, 0).intValueExact();
        if (number > most || number < -most - 1) throw new ArithmeticException();
        return number;
    }

    private void date(PreparedStatement statement, int at, String text, Column column) throws SQLException {
        LocalDateTime time = parse(text);
        if (!column.lossy && !time.toLocalTime().equals(LocalTime.MIDNIGHT)) throw new ArithmeticException();
        LocalDate date = time.toLocalDate();
        if (!modern || !taken(statement, at, date)) statement.setDate(at, Date.valueOf(date));
    }

    private void time(PreparedStatement statement, int at, String text, Column column) throws SQLException {
        LocalTime time = LocalTime.parse(text.trim());
        LocalTime fitting = cut(time, column);
        if (!modern || !taken(statement, at, fitting)) {
            if (fitting.getNano() != 0 && !column.lossy) throw new ArithmeticException();
            statement.setTime(at, Time.valueOf(fitting));
        }
    }

    private static LocalDateTime fitting(LocalDateTime time, Column column) {
        return LocalDateTime.of(time.toLocalDate(), cut(time.toLocalTime(), column));
    }

    private static LocalTime cut(LocalTime time, Column column) {
        if (column.digits < 0 || column.digits >= 9) return time;
        int unit = (int) Math.pow(10, 9 - column.digits);
        if (time.getNano() % unit == 0) return time;
        if (!column.lossy) throw new ArithmeticException();
        return time.withNano(time.getNano() / unit * unit);
    }

    /** A time in UTC, of a text with or without a zone: {@code 2024-05-06 07:08:09.5+02:00}; a date is its first instant. */
    static LocalDateTime parse(String given) {
        String text = given.trim();
        if (text.length() <= 10) return LocalDate.parse(text).atStartOfDay();
        if (text.charAt(10) == ' ') text = text.substring(0, 10) + 'T' + text.substring(11);
        int end = text.length();
        if (text.charAt(end - 1) == 'Z') return LocalDateTime.parse(text.substring(0, end - 1));
        int zone = Math.max(text.indexOf('+', 11), text.indexOf('-', 11));
        if (zone < 0) return LocalDateTime.parse(text);
        ZoneOffset offset = ZoneOffset.of(text.substring(zone));
        return LocalDateTime.parse(text.substring(0, zone)).minusSeconds(offset.getTotalSeconds());
    }
}
