-- The nursing information system, on PostgreSQL.
CREATE TABLE patient_hl7 (
  pid integer PRIMARY KEY,
  name varchar(50) NOT NULL,
  gender char(1) NOT NULL, -- HL7 table 0001: M, F, O, U
  age integer,
  birthday date,
  phone varchar(20),
  ward varchar(20),
  bed varchar(10),
  admitted_at timestamp
);
CREATE TABLE order_hl7 (
  order_id bigint PRIMARY KEY,
  pid integer NOT NULL,
  item varchar(100) NOT NULL,
  dose varchar(20),
  frequency varchar(20),
  state varchar(10) NOT NULL,
  ordered_at timestamp NOT NULL
);
CREATE TABLE charge_hl7 (
  charge_id bigint PRIMARY KEY,
  pid integer NOT NULL,
  item varchar(100) NOT NULL,
  quantity integer NOT NULL,
  unit_price numeric(10,2) NOT NULL,
  amount numeric(12,2) NOT NULL,
  charged_at timestamp NOT NULL
);
-- What Busbar may: write these tables, and keep how far it has come.
CREATE ROLE busbar LOGIN PASSWORD 'nis';
GRANT SELECT, INSERT, UPDATE, DELETE, TRUNCATE ON patient_hl7, order_hl7, charge_hl7 TO busbar;
CREATE TABLE busbar_position (producer text PRIMARY KEY, position bigint NOT NULL);
GRANT SELECT, INSERT, UPDATE ON busbar_position TO busbar;
CREATE TABLE busbar_refused (producer text, position bigint NOT NULL, refused_row bigint, content text NOT NULL,
  cause text NOT NULL, PRIMARY KEY (producer, refused_row));
GRANT SELECT, INSERT, DELETE ON busbar_refused TO busbar;
