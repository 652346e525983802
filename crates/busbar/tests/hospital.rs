//! The example of a hospital on real servers: a HIS on MariaDB, a NIS on PostgreSQL, a LIS that takes HL7, and the node between them.

#![allow(missing_docs)]

mod support;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use support::node::Node;
use support::ports::free_port;

/// How long a test waits for what has to come. Nothing takes as long; a machine may be slow or busy.
const PATIENCE: Duration = Duration::from_secs(240);

struct Hospital {
    node: Node,
    his: u16,
    nis: u16,
    lis: Child,
    folder: tempfile::TempDir,
}

impl Drop for Hospital {
    fn drop(&mut self) {
        let _ = self.lis.kill();
        let _ = self.lis.wait();
    }
}

fn example() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/hospital")
}

impl Hospital {
    /// The servers by the example's own script, and the example's project at their ports.
    fn open() -> Hospital {
        let folder = tempfile::tempdir().expect("a folder");
        let (his, nis) = (free_port(), free_port());
        let lis = free_port();
        let started = Command::new(example().join("start"))
            .arg("servers")
            .arg(folder.path().join("servers"))
            .args([his, nis].map(|port| port.to_string()))
            .arg(std::process::id().to_string())
            .stdin(Stdio::null())
            .status();
        assert!(started.expect("the script runs").success());
        let lis_process = Command::new("python3")
            .arg(example().join("lis.py"))
            .arg(lis.to_string())
            .arg(folder.path().join("lis.hl7"))
            .arg(std::process::id().to_string())
            .stdin(Stdio::null())
            .spawn()
            .expect("python3 runs");
        let mut files = Vec::new();
        for part in [
            "connections",
            "streams",
            "flows",
            "tables",
            "plugins/card",
            "apis",
        ] {
            for entry in std::fs::read_dir(example().join(part)).expect("a folder") {
                let path = entry.expect("a file").path();
                let name = path.file_name().expect("a name").to_string_lossy();
                let text = std::fs::read_to_string(&path).expect("text");
                let text = text
                    .replace("127.0.0.1:13306", &format!("127.0.0.1:{his}"))
                    .replace("127.0.0.1:15432", &format!("127.0.0.1:{nis}"))
                    .replace("127.0.0.1:12575", &format!("127.0.0.1:{lis}"))
                    .replace("{ env: HIS_PASSWORD }", "his")
                    .replace("{ env: NIS_PASSWORD }", "nis");
                files.push((format!("{part}/{name}"), text));
            }
        }
        let files: Vec<_> = files
            .iter()
            .map(|(n, t)| (n.as_str(), t.as_str()))
            .collect();
        let mut node = Node::new(&files);
        node.start();
        Hospital {
            node,
            his,
            nis,
            lis: lis_process,
            folder,
        }
    }

    fn change(&self, sql: &str) {
        let port = self.his.to_string();
        let output = Command::new("mariadb")
            .args(["--no-defaults", "--default-character-set=utf8mb4"])
            .args([
                "-h",
                "127.0.0.1",
                "-P",
                &port,
                "-u",
                "root",
                "his",
                "-e",
                sql,
            ])
            .output()
            .expect("mariadb runs");
        let why = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{why}");
    }

    fn there(&self, sql: &str) -> String {
        let port = self.nis.to_string();
        let output = Command::new("psql")
            .args(["-X", "-q", "-A", "-t", "-h", "127.0.0.1", "-p", &port])
            .args(["-U", "postgres", "-d", "nis", "-c", sql])
            .env("PGPASSWORD", "secret")
            .output()
            .expect("psql runs");
        let why = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{why}");
        String::from_utf8_lossy(&output.stdout)
            .trim_end()
            .to_owned()
    }

    /// What the LIS was told last of each patient: ward, bed, open orders and what was charged.
    fn told(&self) -> BTreeMap<String, String> {
        let path = self.folder.path().join("lis.hl7");
        let text = std::fs::read_to_string(path).unwrap_or_default();
        let mut told = BTreeMap::new();
        let (mut patient, mut place) = (String::new(), String::new());
        for line in text.lines() {
            let fields: Vec<_> = line.split('|').collect();
            // Fields without a value at the end of a segment are not there.
            let field = |at: usize| fields.get(at).copied().unwrap_or_default();
            match field(0) {
                "PID" => patient = format!("{} {}", field(3), field(5)),
                "PV1" => place = field(3).to_owned(),
                "ZSU" => {
                    let sums = format!("{place} {} {}", field(1), field(2));
                    told.insert(patient.clone(), sums);
                }
                _ => {}
            }
        }
        told
    }

    /// Waits until the LIS was told so.
    fn hears(&self, patient: &str, expected: &str) {
        let begun = Instant::now();
        while self.told().get(patient).map(String::as_str) != Some(expected) {
            assert!(
                begun.elapsed() < PATIENCE,
                "{patient}: not {expected}, {:?}\n{}",
                self.told(),
                self.node.output()
            );
            std::thread::park_timeout(Duration::from_millis(20));
        }
    }

    /// What the web service says of a patient.
    fn asks_by_soap(&self, patient: u32) -> String {
        let envelope = format!(
            "<e:Envelope xmlns:e=\"http://schemas.xmlsoap.org/soap/envelope/\"><e:Body><GetPatient \
             xmlns=\"urn:example:hospital\"><pid>{patient}</pid></GetPatient></e:Body></e:Envelope>"
        );
        self.node
            .post_text("/services/patient", "text/xml", &envelope)
    }

    /// Waits until the newest page for the screen of a patient is this one.
    fn shows(&self, patient: u32, expected: &str) {
        let begun = Instant::now();
        let query = format!(
            "select payload from card where topic = 'card/{patient}' order by time desc, \"offset\" desc limit 1"
        );
        loop {
            let shown = self.node.sql(&query);
            let shown = shown.first().and_then(|row| row[0].as_str());
            if shown == Some(expected) {
                return;
            }
            assert!(
                begun.elapsed() < PATIENCE,
                "{patient}: not {expected}, {shown:?}\n{}",
                self.node.output()
            );
            std::thread::park_timeout(Duration::from_millis(20));
        }
    }

    /// Waits until the NIS answers so; how long it took.
    fn becomes(&self, sql: &str, expected: &str) -> Duration {
        let begun = Instant::now();
        loop {
            let there = self.there(sql);
            if there == expected {
                return begun.elapsed();
            }
            assert!(
                begun.elapsed() < PATIENCE,
                "{sql}: {there}\nnot {expected}\n{}\n{}",
                self.node.get_json("/api/v1/connections"),
                self.node.output()
            );
            std::thread::park_timeout(Duration::from_millis(20));
        }
    }
}

#[test]
fn the_nis_follows_the_his() {
    let mut hospital = Hospital::open();
    let patients = "select pid, name, gender, birthday, coalesce(ward, '-'), age = extract(year from age(birthday)) \
                    from patient_hl7 order by pid";
    let orders = "select order_id, pid, item, state from order_hl7 order by order_id";
    let charges =
        "select charge_id, item, quantity, unit_price, amount from charge_hl7 order by charge_id";
    // What was there before.
    hospital.becomes(
        patients,
        "1001|张三|M|1980-02-29|ICU|t\n1002|李四|F|1992-07-15|ICU|t\n1003|O'Neil|U||-|",
    );
    hospital.becomes(orders, "1|1001|头孢曲松|new\n2|1002|5% 葡萄糖|new");
    hospital.becomes(charges, "1|床位费|3|80.10|240.30");
    hospital.hears("1001 张三", "ICU^^01 1 240.30");
    hospital.hears("1002 李四", "ICU^^02 1 0.00");
    // Insert, update, delete, in one transaction and in several.
    hospital.change(
        "insert into Patient (ID, Name, Sex, Birthday) values (1004, '王五', '9', '2001-05-06'); \
         update Patient set Ward = 'A1', Name = '张三丰' where ID = 1001; delete from Patient where ID = 1003; \
         begin; insert into Orders values (3, 1004, 'X', null, null, 'N', '2026-11-28 10:00:00'); \
         update Orders set State = 'D' where OrderNo = 3; delete from Orders where OrderNo = 2; commit; \
         update Charge set Quantity = 4, Amount = 320.40 where ChargeNo = 1; \
         insert into Charge values (2, 1002, '药费', 1, 9999999.99, 9999999.99, '2026-11-28 10:00:00')",
    );
    let after =
        "1001|张三丰|M|1980-02-29|A1|t\n1002|李四|F|1992-07-15|ICU|t\n1004|王五|O|2001-05-06|-|t";
    hospital.becomes(patients, after);
    hospital.becomes(orders, "1|1001|头孢曲松|new\n3|1004|X|done");
    hospital.becomes(
        charges,
        "1|床位费|4|80.10|320.40\n2|药费|1|9999999.99|9999999.99",
    );
    // What is true now of each patient goes to the LIS and into a table, whichever of the three has changed.
    hospital.hears("1001 张三丰", "A1^^01 1 320.40");
    hospital.hears("1002 李四", "ICU^^02 0 9999999.99");
    hospital.hears("1004 王五", " 0 0.00");
    let rows = hospital.node.sql(
        "select pid, name, sex, open_orders, charged from summary where pid <> 1003 order by pid",
    );
    let rows = serde_json::json!(rows);
    assert_eq!(
        rows,
        serde_json::json!([
            [1001, "张三丰", "M", 1, "320.40"],
            [1002, "李四", "F", 0, "9999999.99"],
            [1004, "王五", "O", 0, "0.00"]
        ])
    );
    // And the screen at the bed has the page that the style sheet makes of it.
    hospital.shows(
        1001,
        "<article id=\"p1001\"><h1>张三丰（男）</h1><p>A1 01 床</p><ol><li>头孢曲松，1 g，qd</li></ol>\
         <p>费用 320.40 元</p></article>\n",
    );
    // Others ask for it by SOAP.
    let asked = hospital.asks_by_soap(1001);
    for part in [
        "<known>true</known>",
        "<name>张三丰</name>",
        "<charged>320.40</charged>",
    ] {
        assert!(asked.contains(part), "{part}: {asked}");
    }
    let unknown = hospital.asks_by_soap(404);
    assert!(unknown.contains("<known>false</known>"), "{unknown}");
    // A key that changes, while the node is away.
    hospital.node.kill();
    hospital.change("update Patient set ID = 2004 where ID = 1004; delete from Charge");
    hospital.node.start();
    hospital.becomes(patients, &after.replace("1004", "2004"));
    hospital.becomes(charges, "");
    // Many, and a measure of how soon one follows.
    hospital.change(
        "insert into Orders select seq + 100, 1001, concat('item ', seq), null, null, 'N', now() from seq_1_to_5000",
    );
    hospital.becomes(
        "select count(*), count(distinct item) from order_hl7",
        "5002|5002",
    );
    hospital.change("update Orders set State = 'X'");
    hospital.becomes(
        "select count(*) from order_hl7 where state = 'cancelled'",
        "5002",
    );
    let mut took = Vec::new();
    for bed in 0..20 {
        hospital.change(&format!("update Patient set Bed = '{bed}' where ID = 1001"));
        took.push(hospital.becomes(
            "select bed from patient_hl7 where pid = 1001",
            &bed.to_string(),
        ));
    }
    took.sort();
    // Shown, not judged: a machine may be busy.
    println!(
        "one change follows after {:?} at the median, {:?} at most",
        took[10], took[19]
    );
}
