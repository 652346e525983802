// The other side of scripts/bench_capture.py: Debezium's embedded engine, which counts the changes and keeps nothing.
//
//     java -cp 'LIB/*' Capture.java PROPERTIES COUNT [COUNT ...]
//
// Prints "first" at the first event, and the count each time so many events have come in all. Ends behind the last count.

import io.debezium.engine.ChangeEvent;
import io.debezium.engine.DebeziumEngine;
import io.debezium.engine.format.ChangeEventFormat;
import io.debezium.embedded.Connect;
import java.io.FileReader;
import java.util.Properties;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import org.apache.kafka.connect.source.SourceRecord;

public class Capture {
  static long seen = 0;
  static int next = 1;

  public static void main(String[] args) throws Exception {
    Properties properties = new Properties();
    try (FileReader reader = new FileReader(args[0])) {
      properties.load(reader);
    }
    var engine = DebeziumEngine.create(ChangeEventFormat.of(Connect.class)).using(properties).notifying((records, committer) -> {
      for (var record : records) {
        SourceRecord row = record.record();
        // Heartbeats and notes of the schema are no changes.
        if (row.topic().startsWith("bench.") && row.value() != null) {
          if (seen++ == 0) System.out.println("first");
          while (next < args.length && seen == Long.parseLong(args[next])) System.out.println(args[next++]);
        }
        committer.markProcessed(record);
      }
      committer.markBatchFinished();
      if (next == args.length) System.exit(0);
    }).using((success, message, error) -> {
      System.err.println(message);
      if (error != null) error.printStackTrace();
      System.exit(1);
    }).build();
    ExecutorService executor = Executors.newSingleThreadExecutor();
    executor.execute(engine);
  }
}
