// The other side of scripts/bench_wide.py: the workloads of YCSB on HBase with its own client.
//
//     java -cp 'CONF:LIB/*' Ycsb.java ROWS load|a|b|c|d|e|f THREADS SECONDS
//
// Rows, keys, mixes and distributions are those of crates/busbar-table/examples/ycsb.rs, and so is the JSON object that it prints.

import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.SplittableRandom;
import java.util.concurrent.atomic.AtomicLong;
import org.apache.hadoop.hbase.HBaseConfiguration;
import org.apache.hadoop.hbase.TableName;
import org.apache.hadoop.hbase.client.Admin;
import org.apache.hadoop.hbase.client.ColumnFamilyDescriptorBuilder;
import org.apache.hadoop.hbase.client.Connection;
import org.apache.hadoop.hbase.client.ConnectionFactory;
import org.apache.hadoop.hbase.client.Get;
import org.apache.hadoop.hbase.client.Put;
import org.apache.hadoop.hbase.client.Result;
import org.apache.hadoop.hbase.client.ResultScanner;
import org.apache.hadoop.hbase.client.Scan;
import org.apache.hadoop.hbase.client.Table;
import org.apache.hadoop.hbase.client.TableDescriptorBuilder;
import org.apache.hadoop.hbase.regionserver.BloomType;

public class Ycsb {
  static final int FIELDS = 10, FIELD_BYTES = 100, LOAD_BATCH = 1000, SCAN_ROWS_MAX = 100, POOL_BYTES = 1 << 20;
  static final byte[] FAMILY = "f".getBytes(StandardCharsets.UTF_8);
  static final TableName NAME = TableName.valueOf("ycsb");
  static final double THETA = 0.99;
  static byte[] pool = new byte[POOL_BYTES];
  static long rows;
  static AtomicLong next = new AtomicLong(), missing = new AtomicLong(), turn = new AtomicLong();
  static Zipfian popular, latest;

  static class Zipfian {
    final double items, zeta, eta, alpha = 1 / (1 - THETA);

    Zipfian(double items, double zeta) {
      this.items = items;
      this.zeta = zeta;
      eta = (1 - Math.pow(2 / items, 1 - THETA)) / (1 - (1 + Math.pow(0.5, THETA)) / zeta);
    }

    long next(SplittableRandom random) {
      double u = random.nextDouble(), scaled = u * zeta;
      if (scaled < 1) return 0;
      if (scaled < 1 + Math.pow(0.5, THETA)) return 1;
      return (long) (items * Math.pow(eta * u - eta + 1, alpha));
    }
  }

  static class Times {
    long[] micros = new long[1 << 16];
    int count = 0;

    void add(long began) {
      if (count == micros.length) micros = Arrays.copyOf(micros, count * 2);
      micros[count++] = (System.nanoTime() - began) / 1000;
    }
  }

  static long hash(long value) {
    long hash = 0xcbf29ce484222325L;
    for (int i = 0; i < 8; i++) {
      hash = (hash ^ (value & 0xff)) * 1099511628211L;
      value >>>= 8;
    }
    return Math.abs(hash);
  }

  static byte[] key(long number) {
    return ("user" + hash(number)).getBytes(StandardCharsets.UTF_8);
  }

  static byte[] column(int field) {
    return ("field" + field).getBytes(StandardCharsets.UTF_8);
  }

  static byte[] field(SplittableRandom random) {
    int at = random.nextInt(POOL_BYTES - FIELD_BYTES);
    return Arrays.copyOfRange(pool, at, at + FIELD_BYTES);
  }

  static Put whole(long number, SplittableRandom random) {
    Put put = new Put(key(number));
    for (int field = 0; field < FIELDS; field++) put.addColumn(FAMILY, column(field), field(random));
    return put;
  }

  static Put part(long number, SplittableRandom random) {
    return new Put(key(number)).addColumn(FAMILY, column(random.nextInt(FIELDS)), field(random));
  }

  static long chosen(SplittableRandom random) {
    return hash(popular.next(random)) % rows;
  }

  static void read(Table table, long number) throws Exception {
    Result found = table.get(new Get(key(number)).addFamily(FAMILY));
    if (found.size() != FIELDS) missing.incrementAndGet();
  }

  static void scan(Table table, SplittableRandom random) throws Exception {
    int limit = 1 + random.nextInt(SCAN_ROWS_MAX);
    Scan scan = new Scan().withStartRow(key(chosen(random))).addFamily(FAMILY).setLimit(limit).setCaching(limit);
    int found = 0;
    try (ResultScanner scanner = table.getScanner(scan)) {
      for (Result row : scanner) found++;
    }
    if (found == 0) missing.incrementAndGet();
  }

  static String percentiles(List<Times> all) {
    long[] micros = all.stream().flatMapToLong(times -> Arrays.stream(times.micros, 0, times.count)).sorted().toArray();
    double[] parts = {0.5, 0.99, 0.999, 1};
    String[] shown = new String[4];
    for (int i = 0; i < 4; i++) shown[i] = "" + micros[Math.max(1, (int) Math.ceil(micros.length * parts[i])) - 1] / 1e3;
    return "[" + String.join(", ", shown) + "]";
  }

  public static void main(String[] args) throws Exception {
    rows = Long.parseLong(args[0]);
    String what = args[1];
    int threads = Integer.parseInt(args[2]);
    long seconds = Long.parseLong(args[3]);
    next.set(rows);
    SplittableRandom filling = new SplittableRandom(42);
    for (int i = 0; i < POOL_BYTES; i++) pool[i] = (byte) (32 + filling.nextInt(95));
    popular = new Zipfian(1e10, 26.46902820178302);
    double zeta = 0;
    for (long i = 1; i <= rows; i++) zeta += Math.pow(i, -THETA);
    latest = new Zipfian(rows, zeta);
    List<Times> reads = new ArrayList<>(), writes = new ArrayList<>(), scans = new ArrayList<>();
    AtomicLong operations = new AtomicLong();
    try (Connection connection = ConnectionFactory.createConnection(HBaseConfiguration.create())) {
      if (what.equals("load")) {
        try (Admin admin = connection.getAdmin()) {
          var family = ColumnFamilyDescriptorBuilder.newBuilder(FAMILY).setBloomFilterType(BloomType.ROW).build();
          if (!admin.tableExists(NAME)) admin.createTable(TableDescriptorBuilder.newBuilder(NAME).setColumnFamily(family).build());
        }
      }
      var system = (com.sun.management.OperatingSystemMXBean) java.lang.management.ManagementFactory.getOperatingSystemMXBean();
      long processor = system.getProcessCpuTime(), began = System.nanoTime(), until = began + seconds * 1_000_000_000L;
      List<Thread> running = new ArrayList<>();
      for (int number = 0; number < threads; number++) {
        Times read = new Times(), write = new Times(), scan = new Times();
        reads.add(read);
        writes.add(write);
        scans.add(scan);
        SplittableRandom random = new SplittableRandom(number + 1);
        Thread thread = new Thread(() -> {
          try (Table table = connection.getTable(NAME)) {
            long done = 0;
            if (what.equals("load")) {
              for (long first; (first = turn.getAndAdd(LOAD_BATCH)) < rows; ) {
                List<Put> puts = new ArrayList<>();
                for (long row = first; row < Math.min(rows, first + LOAD_BATCH); row++) puts.add(whole(row, random));
                long at = System.nanoTime();
                table.put(puts);
                write.add(at);
                done += puts.size();
              }
            }
            while (!what.equals("load")) {
              long at = System.nanoTime();
              if (at >= until) break;
              double chance = random.nextDouble();
              if (what.equals("a") && chance < 0.5 || what.equals("b") && chance < 0.05) {
                table.put(part(chosen(random), random));
                write.add(at);
              } else if ((what.equals("d") || what.equals("e")) && chance < 0.05) {
                table.put(whole(next.getAndIncrement(), random));
                write.add(at);
              } else if (what.equals("f") && chance < 0.5) {
                long row = chosen(random);
                read(table, row);
                table.put(part(row, random));
                write.add(at);
              } else if (what.equals("d")) {
                // Those that are being inserted may not be there yet.
                long last = next.get() - 1 - Math.min(threads, rows - 1);
                read(table, last - Math.min(last, latest.next(random)));
                read.add(at);
              } else if (what.equals("e")) {
                scan(table, random);
                scan.add(at);
              } else {
                read(table, chosen(random));
                read.add(at);
              }
              done++;
            }
            operations.addAndGet(done);
          } catch (Exception failed) {
            failed.printStackTrace();
            System.exit(1);
          }
        });
        running.add(thread);
        thread.start();
      }
      for (Thread thread : running) thread.join();
      double took = (System.nanoTime() - began) / 1e9, used = (system.getProcessCpuTime() - processor) / 1e9;
      StringBuilder report = new StringBuilder();
      report.append("{\"what\": \"").append(what).append("\", \"operations\": ").append(operations).append(", \"seconds\": ").append(took);
      report.append(", \"per_second\": ").append(Math.round(operations.get() / took)).append(", \"processor_seconds\": ").append(used).append(", \"missing\": ").append(missing);
      if (reads.stream().anyMatch(times -> times.count > 0)) report.append(", \"read_ms\": ").append(percentiles(reads));
      if (writes.stream().anyMatch(times -> times.count > 0)) report.append(", \"write_ms\": ").append(percentiles(writes));
      if (scans.stream().anyMatch(times -> times.count > 0)) report.append(", \"scan_ms\": ").append(percentiles(scans));
      System.out.println(report.append("}"));
    }
  }
}
