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

    /** Numbers of databases whose SQLSTATE says too little, as {@code product number...}. */
    private static final Map<String, String> CODES = new HashMap<>();

    private static void codes(String product, String kind, int... codes) {
        for (int code : codes) CODES.put(product + code, kind);
    }

    static {
        codes("oracle", "value", 1, 1400, 1401, 1407, 1426, 1438, 1722, 1839, 1840, 1841, 1843, 1847, 1858, 1861, 2290, 2291, 2292, 12899);
        codes("oracle", "for-now", 18, 20, 28, 54, 60, 1012, 1013, 1033, 1034, 1089, 1090, 3113, 3114, 4020, 8177, 12170, 12514, 12516,
            12519, 12520, 12528, 12537, 12541, 12543, 17002, 17008, 17410, 30006);
        codes("oracle", "credentials", 1005, 1017, 28000, 28001);
        codes("oracle", "table", 942);
        codes("oracle", "column", 904);
        codes("oracle", "rights", 1031, 1045);
        codes("microsoft", "value", 220, 241, 242, 245, 248, 515, 547, 2601, 2627, 2628, 8114, 8115, 8152);
        codes("microsoft", "for-now", 233, 921, 1204, 1205, 1222, 3906, 3960, 3961, 10053, 10054, 10060, 40197, 40501, 40613);
        codes("microsoft", "credentials", 18452, 18456, 18488);
        codes("microsoft", "table", 208);
        codes("microsoft", "column", 207);
        codes("microsoft", "rights", 229, 230, 262);
        codes("mysql", "value", 1048, 1062, 1118, 1153, 1169, 1216, 1217, 1242, 1264, 1265, 1292, 1299, 1364, 1366, 1367, 1406, 1411, 1416,
            1451, 1452, 1525, 1586, 1644, 1690, 3140, 3156, 3819, 3854, 4025);
        codes("mysql", "for-now", 1021, 1030, 1037, 1038, 1040, 1041, 1053, 1077, 1114, 1158, 1159, 1160, 1161, 1180, 1203, 1205, 1206, 1213,
            1226, 1290, 1317, 1836, 1927, 1969, 3024, 3572);
        codes("mysql", "credentials", 1045, 1698);
        codes("mysql", "table", 1146);
        codes("mysql", "column", 1054);
        codes("mysql", "rights", 1044, 1142, 1143, 1227);
        // A file that another process has open, and databases that are being closed.
        codes("h2", "for-now", 50200, 90007, 90008, 90020, 90028, 90067, 90098, 90121);
        codes("h2", "table", 42102, 42103, 42104);
        codes("h2", "column", 42122);
        codes("h2", "rights", 90096);
        codes("hsql", "table", -5501);
        codes("hsql", "for-now", -451, -458, -1303, -4861);
        codes("hsql", "credentials", -4000, -4001);
    }

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
        String known = CODES.get(product + error.getErrorCode());
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
