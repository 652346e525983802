-- The hospital information system, on MariaDB.
CREATE DATABASE his CHARACTER SET utf8mb4;
USE his;
CREATE TABLE Patient (
  ID int PRIMARY KEY,
  Name varchar(50) NOT NULL,
  Sex char(1) NOT NULL DEFAULT '0', -- GB/T 2261.1: 0 unknown, 1 male, 2 female, 9 not stated
  Birthday date,
  Phone varchar(20),
  Ward varchar(20),
  Bed varchar(10),
  AdmittedAt datetime
);
CREATE TABLE Orders (
  OrderNo bigint PRIMARY KEY,
  PatientID int NOT NULL,
  Item varchar(100) NOT NULL,
  Dose varchar(20),
  Frequency varchar(20),
  State char(1) NOT NULL DEFAULT 'N', -- N new, D done, X cancelled
  OrderedAt datetime NOT NULL,
  KEY (PatientID)
);
CREATE TABLE Charge (
  ChargeNo bigint PRIMARY KEY,
  PatientID int NOT NULL,
  Item varchar(100) NOT NULL,
  Quantity int NOT NULL,
  UnitPrice decimal(10,2) NOT NULL,
  Amount decimal(12,2) NOT NULL,
  ChargedAt datetime NOT NULL,
  KEY (PatientID)
);
INSERT INTO Patient VALUES
  (1001, '张三', '1', '1980-02-29', '13800000001', 'ICU', '01', '2026-11-20 08:30:00'),
  (1002, '李四', '2', '1992-07-15', NULL, 'ICU', '02', '2026-11-21 19:05:00'),
  (1003, 'O''Neil', '0', NULL, NULL, NULL, NULL, NULL);
INSERT INTO Orders VALUES
  (1, 1001, '头孢曲松', '1 g', 'qd', 'N', '2026-11-20 09:00:00'),
  (2, 1002, '5% 葡萄糖', '500 ml', 'bid', 'N', '2026-11-21 19:30:00');
INSERT INTO Charge VALUES
  (1, 1001, '床位费', 3, 80.10, 240.30, '2026-11-23 23:59:59');
-- What Busbar may: read these tables and follow their changes.
CREATE USER busbar@'127.0.0.1' IDENTIFIED BY 'his';
GRANT SELECT ON his.* TO busbar@'127.0.0.1';
GRANT REPLICATION SLAVE, REPLICATION CLIENT ON *.* TO busbar@'127.0.0.1';
