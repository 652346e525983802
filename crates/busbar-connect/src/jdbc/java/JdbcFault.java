package busbar;

import java.sql.SQLDataException;
import java.sql.SQLException;
import java.sql.SQLFeatureNotSupportedException;
import java.sql.SQLIntegrityConstraintViolationException;
import java.sql.SQLInvalidAuthorizationSpecException;
import java.sql.SQLNonTransientConnectionException;
import java.sql.SQLRecoverableException;
import java.sql.SQLTimeoutException;
import java.sql.SQLTransientException;
import java.util.HashMap;
import java.util.Map;

/** What went wrong: its kind, its class, and what the database says. */
final class JdbcFault extends SQLException {
    private static final long serialVersionUID = 1;

    final String kind;
    final String group;

    /** Numbers of databases whose SQLSTATE says too little, as the node knows them: {@code product number}. */
    static final Map<String, Object> CODES = new HashMap<>();

    JdbcFault(String kind, String group, String said) {
        super(said);
        this.kind = kind;
        this.group = group;
    }

    private JdbcFault(String kind, SQLException said) {
        super(said.getMessage(), said.getSQLState(), said.getErrorCode());
        this.kind = kind;
        this.group = groupOf(kind);
    }

    private static String groupOf(String kind) {
        switch (kind) {
            case "value": return "permanent";
            case "for-now": case "unreachable": case "timeout": return "transient";
            default: return "configuration";
        }
    }

    /** Whether only the rows at hand are at fault. */
    boolean isAboutRows() {
        return group.equals("permanent");
    }

    static JdbcFault of(Throwable error) {
        return of(error, "");
    }

    /** The fault of an error and of those behind it, the first that says something. */
    static JdbcFault of(Throwable error, String product) {
        if (error instanceof JdbcFault) return (JdbcFault) error;
        if (!(error instanceof SQLException)) return new JdbcFault("worker", "configuration", error.toString());
        SQLException last = (SQLException) error;
        int depth = 0;
        // The first is often a summary: the batch has failed, the database cannot be opened.
        for (SQLException next = last; next != null && depth < 16; next = behind(next), depth++) {
            if (next instanceof JdbcFault) return (JdbcFault) next;
            String kind = kind(next, product);
            if (!kind.isEmpty()) return new JdbcFault(kind, next);
            last = next;
        }
        return new JdbcFault("refused", last);
    }

    private static SQLException behind(SQLException error) {
        if (error.getNextException() != null) return error.getNextException();
        for (Throwable cause = error.getCause(); cause != null; cause = cause.getCause())
            if (cause instanceof SQLException) return (SQLException) cause;
        return null;
    }

    private static String kind(SQLException error, String product) {
        String state = error.getSQLState() == null ? "" : error.getSQLState();
        String known = (String) CODES.get(product + error.getErrorCode());
        // HSQLDB has one number for all that is missing, and says which.
        if (known != null && product.equals("hsql") && known.equals("table") && !state.equals("42501") && !state.startsWith("42S")) known = null;
        if (known != null) return known;
        if (product.equals("derby")) {
            if (state.startsWith("XSDB") || state.equals("XJ040") && error.getNextException() == null) return "for-now";
            if (state.equals("08004")) return "credentials";
            if (state.equals("XJ040")) return "";
        }
        switch (state) {
            case "42P01": case "42S02": case "42X05": case "42Y07": case "42102": case "42Y55": case "42704": return "table";
            case "42703": case "42S22": case "42X04": case "42X14": case "42122": return "column";
            case "42501": case "42500": case "42502": case "42504": case "42505": return "rights";
            case "42P10": return "key";
            case "44000": case "P0001": case "45000": case "01004": return "value";
            case "25006": case "55P03": case "40XL1": case "40XL2": case "HYT00": case "HYT01": return "for-now";
            default:
        }
        String group = state.length() >= 2 ? state.substring(0, 2) : "";
        switch (group) {
            case "22": case "23": case "21": return "value";
            case "28": return "credentials";
            case "08": return error instanceof SQLNonTransientConnectionException || error instanceof SQLTransientException
                || state.equals("08001") || state.equals("08004") ? "unreachable" : "for-now";
            case "40": case "53": case "57": return "for-now";
            case "38": return "value";
            default:
        }
        if (error instanceof SQLIntegrityConstraintViolationException || error instanceof SQLDataException) return "value";
        if (error instanceof SQLInvalidAuthorizationSpecException) return "credentials";
        if (error instanceof SQLTimeoutException) return "for-now";
        if (error instanceof SQLTransientException || error instanceof SQLRecoverableException) return "for-now";
        if (error instanceof SQLFeatureNotSupportedException) return "refused";
        return "";
    }

    void write(StringBuilder out) {
        out.append("{\"kind\":\"").append(kind).append("\",\"class\":\"").append(group).append("\",\"state\":");
        Json.write(getSQLState() == null ? "" : getSQLState(), out);
        out.append(",\"code\":").append(getErrorCode()).append(",\"said\":");
        String said = getMessage() == null ? "" : getMessage();
        Json.write(said.length() > 1000 ? said.substring(0, 1000) : said, out);
        out.append('}');
    }
}
